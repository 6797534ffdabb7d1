//! The weights themselves, for whoever asks to see them: the forward pass never holds more of them
//! than a few rows.

use super::super::disjoint::Disjoint;
use super::super::isa::{Isa, Kernel, Simd, with_isa};
use super::super::memory::{Slot, scratch};
use super::super::parallel;
use super::forward::{MOST_ROWS, most_rows, weigh};
use super::{ENOUGH_WORK, Head, Inputs, NoKey, PANEL, Ragged, Sequence, Tile, pack_keys};

/// `softmax(scale * q k^T)` of every sequence and head: for each sequence a block `[heads, its
/// queries, its keys]`, one after the other in `out`. Keys that a query does not see have the
/// weight 0; those of a query that sees none are all 0, or alike ([`Ragged::no_key`]). Dropout is
/// left out.
///
/// These are the weights of [`super::forward`]: exponentials of the same bits, times the factor
/// that it applies to the summed values.
pub fn weights(ragged: &Ragged, q: &[f32], k: &[f32], out: &mut [f32]) {
    // Values are not looked at.
    let inputs = Inputs { q, k, v: k };
    ragged.check(&inputs);
    let mut starts = vec![0];
    for s in 0..ragged.sequences() {
        let sequence = ragged.sequence(s);
        starts.push(starts[s] + ragged.heads * sequence.queries * sequence.keys);
    }
    assert_eq!(out.len(), starts[ragged.sequences()], "attention: weights");
    let parallel = out.len() * ragged.head_dim >= ENOUGH_WORK;
    let out = Disjoint::new(out);
    parallel::items(ragged.sequences() * ragged.heads, parallel, |isa, index| {
        let (s, head) = (index / ragged.heads, index % ragged.heads);
        let sequence = ragged.sequence(s);
        let count = sequence.queries * sequence.keys;
        // SAFETY: the block of this sequence and head: no other item has it.
        let out = unsafe { out.slice(starts[s] + head * count, count) };
        run(isa, ragged, &inputs, sequence, head, out);
    });
}

/// One sequence and head.
fn run(
    isa: Isa,
    ragged: &Ragged,
    inputs: &Inputs,
    sequence: Sequence,
    head: usize,
    out: &mut [f32],
) {
    let padded = sequence.keys.next_multiple_of(PANEL);
    let hidden = ragged.hidden(&sequence);
    let mut scratch =
        scratch(Slot::Work, padded * ragged.head_dim + (padded + ragged.head_dim) * MOST_ROWS);
    let (panels, scores) = scratch.split_at_mut(padded * ragged.head_dim);
    let hidden = hidden.as_deref();
    with_isa(isa, Run { ragged, inputs, sequence, head, hidden, panels, scores, out });
}

struct Run<'a> {
    ragged: &'a Ragged<'a>,
    inputs: &'a Inputs<'a>,
    sequence: Sequence,
    head: usize,
    hidden: Option<&'a [f32]>,
    panels: &'a mut [f32],
    scores: &'a mut [f32],
    /// `[queries, keys]`.
    out: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Run { ragged, inputs, sequence, .. } = self;
        let from = &inputs.k[sequence.first_key * ragged.kv_stride..];
        let from = &from[(self.head * ragged.head_dim).min(from.len())..];
        pack_keys(s, from, ragged.kv_stride, sequence.keys, ragged.head_dim, 0, self.panels);
        let mut i = 0;
        while i < sequence.queries {
            match most_rows(s, sequence.queries - i) {
                MOST_ROWS => self.weigh::<S, MOST_ROWS>(s, i),
                6 => self.weigh::<S, 6>(s, i),
                4 => self.weigh::<S, 4>(s, i),
                2 => self.weigh::<S, 2>(s, i),
                _ => self.weigh::<S, 1>(s, i),
            }
            i += most_rows(s, sequence.queries - i);
        }
    }
}

impl Run<'_> {
    /// The weights of the `R` queries from the sequence's `i`-th on.
    #[inline(always)]
    fn weigh<S: Simd, const R: usize>(&mut self, s: S, i: usize) {
        let Run { ragged, inputs, sequence, .. } = *self;
        let start = (sequence.first_query + i) * ragged.q_stride + self.head * ragged.head_dim;
        let mut visible = [0; R];
        for (r, visible) in visible.iter_mut().enumerate() {
            *visible = sequence.visible(i + r);
        }
        let tile = Tile {
            queries: &inputs.q[start..],
            query_stride: ragged.q_stride,
            visible,
            dropout: None,
        };
        let head = Head {
            keys: self.panels,
            values: &[],
            value_stride: ragged.kv_stride,
            head_dim: ragged.head_dim,
            scale: ragged.scale,
            hidden: self.hidden,
            next: &[],
        };
        let sums = weigh::<S, f32, R, false>(s, &head, &tile, self.scores);
        // Rows of scores are as long as the longest of them, in whole panels.
        let padded = tile.keys().next_multiple_of(PANEL);
        for r in 0..R {
            let row = &mut self.out[(i + r) * sequence.keys..][..sequence.keys];
            let seen = padded.min(sequence.keys);
            let (weights, unseen) = row.split_at_mut(seen);
            for (weight, score) in weights.iter_mut().zip(&self.scores[r * padded..][..seen]) {
                *weight = score * sums[r].factor();
            }
            unseen.fill(0.0);
            if visible[r] == 0 && ragged.no_key == NoKey::MeanOfValues {
                row.fill(1.0 / sequence.keys as f32);
            }
        }
    }
}
