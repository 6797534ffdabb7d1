//! The gradient of attention, with the weights computed again from `lse`.
//!
//! For one sequence and head, with P the weights (rows sum to 1), M the dropout factors,
//! O = (P M) V and D[i] = sum(dO[i] * O[i]):
//! dV = (P M)^T dO, dS = scale * P * (M * (dO V^T) - D), dQ = dS K, dK = dS^T Q.
//! (The row term D is the trick of Dao et al., "FlashAttention", 2022.) Queries are taken a block
//! at a time, from the first to the last, so dK and dV are one fma chain over queries ascending.

use super::super::disjoint::Disjoint;
use super::super::dropout::{DRAWN, Dropout};
use super::super::isa::{Isa, Kernel, Simd, with_isa};
use super::super::lanes::{self, row_sum};
use super::super::memory::{Slot, scratch};
use super::super::parallel;
use super::forward::{few_rows, pack_keys};
use super::tile::{Left, Output, Right, product};
use super::{ENOUGH_WORK, Inputs, NO_KEY, NoKey, PANEL, Ragged, Sequence, dropout_index};

/// Queries of a block: with 512 keys its weights and their gradients take 96 KiB, within L2.
const BLOCK: usize = 24;

/// The gradients of `forward_save` with respect to q, k and v, all overwritten: `dq`
/// [Tq, heads * head_dim], `dk` and `dv` [Tk, heads * head_dim], dense.
///
/// `out` and `lse` are what `forward_save` gave for the same description and inputs, `dout` the
/// gradient of `out`.
#[allow(clippy::too_many_arguments)] // The formula's inputs and its three results.
pub fn backward(
    ragged: &Ragged,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    dout: &[f32],
    lse: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let inputs = Inputs { q, k, v };
    ragged.check(&inputs);
    let ((queries, keys), width) = (ragged.totals(), ragged.width());
    assert_eq!((out.len(), dout.len()), (queries * width, queries * width), "attention: out, dout");
    assert_eq!(lse.len(), queries * ragged.heads, "attention: lse");
    assert_eq!(dq.len(), queries * width, "attention: dq");
    assert_eq!((dk.len(), dv.len()), (keys * width, keys * width), "attention: dk, dv");
    let saved = Saved { ragged, inputs, out, dout, lse };
    let gradients =
        Gradients { dq: Disjoint::new(dq), dk: Disjoint::new(dk), dv: Disjoint::new(dv) };

    let sequences: Vec<Sequence> = (0..ragged.sequences()).map(|s| ragged.sequence(s)).collect();
    let pairs: usize = sequences.iter().map(|s| s.queries * s.keys).sum();
    let enough = 5 * pairs * width >= ENOUGH_WORK;
    parallel::items(sequences.len() * ragged.heads, enough, |isa, index| {
        let (s, head) = (index / ragged.heads, index % ragged.heads);
        run(isa, &saved, &gradients, &sequences[s], head);
    });
}

/// What the backward pass reads.
struct Saved<'a> {
    ragged: &'a Ragged<'a>,
    inputs: Inputs<'a>,
    out: &'a [f32],
    dout: &'a [f32],
    lse: &'a [f32],
}

/// What it writes.
struct Gradients<'a> {
    dq: Disjoint<'a, f32>,
    dk: Disjoint<'a, f32>,
    dv: Disjoint<'a, f32>,
}

/// One sequence and head; no two calls have the same.
fn run(isa: Isa, saved: &Saved, gradients: &Gradients, sequence: &Sequence, head: usize) {
    let padded = sequence.keys.next_multiple_of(PANEL);
    let panels = padded * saved.ragged.head_dim;
    let hidden = saved.ragged.hidden(sequence);
    let mut scratch = scratch(Slot::Work, 2 * panels + 2 * BLOCK * padded);
    let (key_panels, rest) = scratch.split_at_mut(panels);
    let (value_panels, rest) = rest.split_at_mut(panels);
    let (weights, slopes) = rest.split_at_mut(BLOCK * padded);
    let hidden = hidden.as_deref();
    let work =
        Run { saved, gradients, sequence, head, hidden, key_panels, value_panels, weights, slopes };
    with_isa(isa, work);
}

struct Run<'a> {
    saved: &'a Saved<'a>,
    gradients: &'a Gradients<'a>,
    sequence: &'a Sequence,
    head: usize,
    hidden: Option<&'a [f32]>,
    /// k and v as panels.
    key_panels: &'a mut [f32],
    value_panels: &'a mut [f32],
    /// [BLOCK, padded keys]: q k^T, then the weights with dropout, P M.
    weights: &'a mut [f32],
    /// [BLOCK, padded keys]: dO V^T, then dS.
    slopes: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let ragged = self.saved.ragged;
        let (keys, stride, head_dim) = (self.sequence.keys, ragged.kv_stride, ragged.head_dim);
        self.clear_key_gradients();
        let from = (self.sequence.first_key * stride + self.head * head_dim)
            .min(self.saved.inputs.k.len())
            .min(self.saved.inputs.v.len());
        let Inputs { k, v, .. } = self.saved.inputs;
        pack_keys(s, &k[from..], stride, keys, head_dim, 0, self.key_panels);
        pack_keys(s, &v[from..], stride, keys, head_dim, 0, self.value_panels);
        for first in (0..self.sequence.queries).step_by(BLOCK) {
            let count = BLOCK.min(self.sequence.queries - first);
            self.block(s, first, count);
        }
    }
}

impl Run<'_> {
    fn clear_key_gradients(&self) {
        let Sequence { first_key, keys, .. } = *self.sequence;
        for row in first_key..first_key + keys {
            let start = row * self.saved.ragged.width() + self.head * self.saved.ragged.head_dim;
            // SAFETY: these columns of these rows are this call's own.
            unsafe {
                self.gradients.dk.slice(start, self.saved.ragged.head_dim).fill(0.0);
                self.gradients.dv.slice(start, self.saved.ragged.head_dim).fill(0.0);
            }
        }
    }

    /// Adds what `count` queries from the sequence's `first`-th on give.
    #[inline(always)]
    fn block<S: Simd>(&mut self, s: S, first: usize, count: usize) {
        let (ragged, sequence) = (self.saved.ragged, self.sequence);
        let (head_dim, width) = (ragged.head_dim, ragged.width());
        let keys = sequence.visible(first + count - 1);
        let padded = keys.next_multiple_of(PANEL);
        let (query, column) = (sequence.first_query + first, self.head * head_dim);
        let queries = Left {
            start: self.saved.inputs.q[query * ragged.q_stride + column..].as_ptr(),
            row_stride: ragged.q_stride,
            step_stride: 1,
        };
        let douts = Left {
            start: self.saved.dout[query * width + column..].as_ptr(),
            row_stride: width,
            step_stride: 1,
        };
        for panel in (0..padded).step_by(PANEL) {
            let at = panel * head_dim;
            let scores = output(&mut self.weights[panel..], padded);
            let slopes = output(&mut self.slopes[panel..], padded);
            let keys = Right::rows(self.key_panels[at..].as_ptr(), PANEL);
            let values = Right::rows(self.value_panels[at..].as_ptr(), PANEL);
            // SAFETY: `count` rows of whole panels fit the scratch space, and `check` and the
            // assertions of `backward` cover the rows of q and dout.
            unsafe {
                rows_product(s, queries, keys, head_dim, PANEL, scores, count);
                rows_product(s, douts, values, head_dim, PANEL, slopes, count);
            }
        }
        for r in 0..count {
            self.row_slopes(s, first + r, r, padded);
        }
        self.query_gradients(s, query, count, keys, padded);
        self.key_gradients(s, query, count, keys, padded);
        if ragged.no_key == NoKey::MeanOfValues {
            for i in (first..first + count).filter(|&i| sequence.visible(i) == 0) {
                self.mean_gradient(s, sequence.first_query + i);
            }
        }
    }

    /// Row `r` of the block, query `i` of the sequence: q k^T becomes P M, and dO V^T becomes dS.
    #[inline(always)]
    fn row_slopes<S: Simd>(&mut self, s: S, i: usize, r: usize, padded: usize) {
        let Saved { ragged, out, dout, lse, .. } = *self.saved;
        let row = self.sequence.first_query + i;
        let weights = &mut self.weights[r * padded..(r + 1) * padded];
        let slopes = &mut self.slopes[r * padded..(r + 1) * padded];
        let lse = lse[row * ragged.heads + self.head];
        if lse == NO_KEY {
            weights.fill(0.0);
            slopes.fill(0.0);
            return;
        }
        scale_scores(s, weights, self.sequence.visible(i), ragged.scale, self.hidden);
        let columns = row * ragged.width() + self.head * ragged.head_dim;
        let columns = columns..columns + ragged.head_dim;
        let (out, dout) = (&out[columns.clone()], &dout[columns]);
        let mean = row_sum!(s, out.len(), |c| {
            s.mul(lanes::load(s, &out[c.clone()]), lanes::load(s, &dout[c]))
        });
        let terms = RowTerms { lse, mean, scale: ragged.scale };
        let first = dropout_index(row, ragged.heads, self.head, 0);
        let mut factors = [1.0; DRAWN];
        let blocks = weights.chunks_mut(DRAWN).zip(slopes.chunks_mut(DRAWN));
        for (block, (weights, slopes)) in blocks.enumerate() {
            if let Some(dropout) = &ragged.dropout {
                let dropout: &Dropout = dropout;
                dropout.draw(first + (block * DRAWN) as u64, &mut factors);
            }
            terms.apply(s, weights, slopes, &factors);
        }
    }

    /// dQ = dS K
    #[inline(always)]
    fn query_gradients<S: Simd>(
        &mut self,
        s: S,
        query: usize,
        count: usize,
        keys: usize,
        padded: usize,
    ) {
        let Saved { ragged, inputs, .. } = self.saved;
        let (head_dim, width) = (ragged.head_dim, ragged.width());
        let column = self.head * head_dim;
        let slopes = Left { start: self.slopes.as_ptr(), row_stride: padded, step_stride: 1 };
        let first = (self.sequence.first_key * ragged.kv_stride + column).min(inputs.k.len());
        let rows = Right::rows(inputs.k[first..].as_ptr(), ragged.kv_stride);
        let start =
            self.gradients.dq.pointer(query * width + column, (count - 1) * width + head_dim);
        let to = Output { start, row_stride: width, accumulate: false };
        // SAFETY: dS has `count` rows of `padded` >= `keys` columns, `check` covers k, and these
        // rows and columns of dq are this call's own.
        unsafe { rows_product(s, slopes, rows, keys, head_dim, to, count) };
    }

    /// dV += (P M)^T dO and dK += dS^T Q
    #[inline(always)]
    fn key_gradients<S: Simd>(
        &mut self,
        s: S,
        query: usize,
        count: usize,
        keys: usize,
        padded: usize,
    ) {
        if keys == 0 {
            return;
        }
        let Saved { ragged, inputs, dout, .. } = self.saved;
        let (head_dim, width) = (ragged.head_dim, ragged.width());
        let column = self.head * head_dim;
        let first = self.sequence.first_key * width + column;
        let (dk, dv) = (&self.gradients.dk, &self.gradients.dv);
        let extent = (keys - 1) * width + head_dim;
        let pairs = [
            (&*self.slopes, &inputs.q[query * ragged.q_stride + column..], ragged.q_stride, dk),
            (&*self.weights, &dout[query * width + column..], width, dv),
        ];
        for (factors, rows, row_stride, gradient) in pairs {
            let transposed = Left { start: factors.as_ptr(), row_stride: 1, step_stride: padded };
            let rows = Right::rows(rows.as_ptr(), row_stride);
            let start = gradient.pointer(first, extent);
            let to = Output { start, row_stride: width, accumulate: true };
            // SAFETY: the block has `count` rows of `padded` >= `keys` columns, q and dout have
            // these rows, and these rows and columns of the gradient are this call's own.
            unsafe { rows_product(s, transposed, rows, count, head_dim, to, keys) };
        }
    }

    /// What a query without keys gives where it got the mean of all values: dV += dO / keys.
    #[inline(always)]
    fn mean_gradient<S: Simd>(&mut self, s: S, query: usize) {
        let Saved { ragged, dout, .. } = self.saved;
        let (head_dim, width, column) =
            (ragged.head_dim, ragged.width(), self.head * ragged.head_dim);
        let Sequence { first_key, keys, .. } = *self.sequence;
        let dout = &dout[query * width + column..][..head_dim];
        for key in first_key..first_key + keys {
            // SAFETY: this row and these columns of dv are this call's own.
            let dv = unsafe { self.gradients.dv.slice(key * width + column, head_dim) };
            let share = s.splat(1.0 / keys as f32);
            for (dv, dout) in dv.chunks_mut(S::LANES).zip(dout.chunks(S::LANES)) {
                lanes::store(s, dv, s.fma(lanes::load(s, dout), share, lanes::load(s, dv)));
            }
        }
    }
}

/// scale * score, negative infinity for hidden keys and from `visible` on.
#[inline(always)]
fn scale_scores<S: Simd>(
    s: S,
    row: &mut [f32],
    visible: usize,
    scale: f32,
    hidden: Option<&[f32]>,
) {
    let scale = s.splat(scale);
    match hidden {
        None => {
            for part in row.chunks_exact_mut(S::LANES) {
                lanes::store(s, part, s.mul(lanes::load(s, part), scale));
            }
        }
        Some(hidden) => {
            for (part, hidden) in row.chunks_exact_mut(S::LANES).zip(hidden.chunks(S::LANES)) {
                let score = s.mul(lanes::load(s, part), scale);
                lanes::store(s, part, s.add(score, lanes::load(s, hidden)));
            }
        }
    }
    row[visible..].fill(f32::NEG_INFINITY);
}

/// Constants of a row's [`Run::row_slopes`].
#[derive(Clone, Copy)]
struct RowTerms {
    lse: f32,
    /// D
    mean: f32,
    scale: f32,
}

impl RowTerms {
    /// Scaled scores become P M, and dO V^T becomes dS.
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, weights: &mut [f32], slopes: &mut [f32], factors: &[f32]) {
        let (lse, mean, scale) = (s.splat(self.lse), s.splat(self.mean), s.splat(self.scale));
        let pairs = weights.chunks_mut(S::LANES).zip(slopes.chunks_mut(S::LANES));
        for ((weights, slopes), factors) in pairs.zip(factors.chunks(S::LANES)) {
            let weight = s.exp(s.sub(lanes::load(s, weights), lse));
            let factor = lanes::load(s, factors);
            let slope = s.sub(s.mul(lanes::load(s, slopes), factor), mean);
            lanes::store(s, weights, s.mul(weight, factor));
            lanes::store(s, slopes, s.mul(s.mul(weight, scale), slope));
        }
    }
}

fn output(to: &mut [f32], row_stride: usize) -> Output {
    Output { start: to.as_mut_ptr(), row_stride, accumulate: false }
}

/// [`product`] for any number of rows.
///
/// # Safety
/// As [`product`], for `rows` rows.
#[inline(always)]
unsafe fn rows_product<S: Simd>(
    s: S,
    left: Left,
    right: Right<f32>,
    depth: usize,
    n: usize,
    out: Output,
    rows: usize,
) {
    let mut row = 0;
    while row < rows {
        // SAFETY: the tile's rows are among the caller's.
        unsafe {
            let left = Left { start: left.start.add(row * left.row_stride), ..left };
            let out = Output { start: out.start.add(row * out.row_stride), ..out };
            match few_rows(rows - row) {
                6 => product::<S, f32, 6, false>(s, left, right, depth, n, out, None),
                4 => product::<S, f32, 4, false>(s, left, right, depth, n, out, None),
                2 => product::<S, f32, 2, false>(s, left, right, depth, n, out, None),
                _ => product::<S, f32, 1, false>(s, left, right, depth, n, out, None),
            }
        }
        row += few_rows(rows - row);
    }
}
