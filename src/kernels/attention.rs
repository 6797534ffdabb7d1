//! Multi-head attention over ragged sequences: softmax(scale * q k^T) v per sequence and head
//! (Vaswani et al., "Attention is all you need", 2017), with its gradient in [`backward`] and its
//! cached form in [`super::kv_cache`]. A second forward pass, for coarse models, multiplies pairs of
//! bfloat16 numbers ([`paired`]).
//!
//! How: the keys of a (sequence, head) are packed into panels of 32, `[panel][head_dim][32]`, so
//! that scores of several queries with 32 keys are one register tile; the scores of a few queries
//! become weights in place; weights times values is a tile of the same kind. Flash-style, only the
//! log of each row's sum is kept for the backward pass, which computes the weights again.
//!
//! **Bits.** A product of a query and a key is one fma chain over head_dim ascending; its weight is
//! exp(product * scale - max) with one rounding inside; a row's sum has the order of
//! `lanes::row_sum`; a value is one fma chain of weight * v over keys ascending, divided by the sum at
//! the end (as a product with its reciprocal). Keys that a row
//! does not see have the weight 0 and change nothing. So a row's bits depend on its sequence alone
//! and are those of a cached step with the same keys. In bfloat16 the same holds of other bits, but for
//! the cached step, which has no such form: there a chain takes two elements a step (see
//! [`pairs`](super::pairs)), and exponentials are rounded before they multiply values.
//!
//! Limit: the fma peak; a 512-token head of 64 spends a tenth of its time on exponentials.

mod backward;
mod forward;
mod paired;
mod tile;
mod weights;

pub use backward::backward;
pub(super) use forward::{FEW_ROWS, Head, Tile, attend, few_rows, pack_keys};
pub use weights::weights;

use super::dropout::Dropout;
use super::parallel;
use forward::ForwardPart;

/// Keys of a panel.
pub(super) const PANEL: usize = 32;

/// The `lse` of a row that sees no key: exp(score - lse) is then 0 for every key.
pub const NO_KEY: f32 = f32::INFINITY;

/// What a query that sees no key at all (hidden keys, or `causal` with fewer keys than queries)
/// gets. keras-hub's layers have both answers, by the dropout they were built with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoKey {
    /// Zeros: Keras' masked softmax, which layers with dropout above 0 use, also at inference.
    #[default]
    Zeros,
    /// The mean of the values of every key row of the sequence, hidden and future ones included:
    /// Keras' fused attention, which layers built with dropout 0 use. It is the mean over Keras'
    /// padded width only if the arrays hold those rows. No gradient reaches q and k, and
    /// [`Ragged::dropout`] does not apply.
    MeanOfValues,
}

/// Sequences laid end to end, and who sees whom.
///
/// q rows `q_offsets[s]..q_offsets[s + 1]` and k, v rows `k_offsets[s]..k_offsets[s + 1]` belong to
/// sequence s. Row r of q begins at `q[r * q_stride]` and has `heads * head_dim` values, a head's
/// side by side; k and v likewise with `kv_stride`, so all three may be slices of one fused
/// buffer. Outputs and gradients are dense: [rows, heads * head_dim].
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    /// First query row of each sequence and the end of the last: one more than sequences.
    pub q_offsets: &'a [usize],
    /// The same for key rows.
    pub k_offsets: &'a [usize],
    /// Per key row, whether any query sees it; `None`: all are seen.
    pub key_visible: Option<&'a [bool]>,
    /// Whether query i of a sequence of lq queries and lk keys sees keys up to i + lk - lq only.
    pub causal: bool,
    /// Number of heads.
    pub heads: usize,
    /// Values of a head in a row.
    pub head_dim: usize,
    /// Factor of the scores, above 0; usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// Values from one row of q to the next, at least `heads * head_dim`.
    pub q_stride: usize,
    /// Values from one row of k or v to the next.
    pub kv_stride: usize,
    /// What a query that sees no key gets.
    pub no_key: NoKey,
    /// Dropout of the weights, element [`dropout_index`] for each.
    pub dropout: Option<Dropout>,
}

/// The element of the dropout stream that decides about one weight; `query_row` is the row of the
/// whole q array, `key` counts from the sequence's first key row.
pub fn dropout_index(query_row: usize, heads: usize, head: usize, key: usize) -> u64 {
    (((query_row * heads + head) as u64) << 32) | key as u64
}

/// Whether dropout keeps the weight of one key for one query and head: `dropout.keeps` of
/// [`dropout_index`].
pub fn dropout_keep(
    dropout: &Dropout,
    heads: usize,
    query_row: usize,
    head: usize,
    key: usize,
) -> bool {
    dropout.keeps(dropout_index(query_row, heads, head, key))
}

/// `out` [Tq, heads * head_dim] = attention.
pub fn forward(ragged: &Ragged, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    run_forward(ragged, &Inputs { q, k, v }, out, None, false);
}

/// [`forward`] with queries, keys, values and weights rounded to bfloat16, by products of such numbers;
/// they pay where they are [`Pairs::Fast`](super::isa::Pairs). Without dropout.
///
/// # Panics
/// If they are `Missing`.
pub fn forward_bfloat16(ragged: &Ragged, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    assert!(ragged.dropout.is_none(), "attention: dropout of bfloat16");
    run_forward(ragged, &Inputs { q, k, v }, out, None, true);
}

/// [`forward`], keeping for [`backward`] the log of each row's summed exponentials in `lse`
/// [Tq, heads] ([`NO_KEY`] where a row sees no key).
pub fn forward_save(
    ragged: &Ragged,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    run_forward(ragged, &Inputs { q, k, v }, out, Some(lse), false);
}

/// The arrays that all parts read.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Ragged<'_> {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn sequences(&self) -> usize {
        self.q_offsets.len().saturating_sub(1)
    }

    /// Query rows and key rows in all.
    fn totals(&self) -> (usize, usize) {
        let last = |offsets: &[usize]| offsets.last().copied().unwrap_or(0);
        (last(self.q_offsets), last(self.k_offsets))
    }

    /// Panics unless the arrays fit the description: a programming error of the caller, and what
    /// the pointers in [`tile`] rely on.
    fn check(&self, inputs: &Inputs) {
        assert!(self.scale > 0.0, "attention: the scale is not positive");
        assert_eq!(self.q_offsets.len(), self.k_offsets.len(), "attention: offsets");
        for offsets in [self.q_offsets, self.k_offsets] {
            assert!(offsets.is_sorted(), "attention: offsets descend");
        }
        let (queries, keys) = self.totals();
        let visible = self.key_visible.map_or(keys, <[bool]>::len);
        assert_eq!(visible, keys, "attention: key_visible");
        let covers = |rows: &[f32], count: usize, stride: usize| {
            count == 0
                || stride >= self.width() && rows.len() >= (count - 1) * stride + self.width()
        };
        assert!(covers(inputs.q, queries, self.q_stride), "attention: q");
        assert!(covers(inputs.k, keys, self.kv_stride), "attention: k");
        assert!(covers(inputs.v, keys, self.kv_stride), "attention: v");
    }

    /// Sequence `s`: where it lies and what its rows see.
    fn sequence(&self, s: usize) -> Sequence {
        let (first_query, first_key) = (self.q_offsets[s], self.k_offsets[s]);
        let keys = self.k_offsets[s + 1] - first_key;
        let first_visible = match self.key_visible {
            None => 0,
            Some(visible) => {
                let mut rows = visible[first_key..first_key + keys].iter();
                rows.position(|&seen| seen).unwrap_or(keys)
            }
        };
        Sequence {
            first_query,
            queries: self.q_offsets[s + 1] - first_query,
            first_key,
            keys,
            first_visible,
            causal: self.causal,
        }
    }

    /// 0 for each key that is seen and negative infinity for a hidden one, to be added to the
    /// scores; `None` if the sequence hides none.
    fn hidden(&self, sequence: &Sequence) -> Option<Vec<f32>> {
        let rows = sequence.first_key..sequence.first_key + sequence.keys;
        let visible = self.key_visible.map(|visible| &visible[rows])?;
        let padded = sequence.keys.next_multiple_of(PANEL);
        let mut hidden = vec![0.0; padded];
        for (hidden, _) in hidden.iter_mut().zip(visible).filter(|(_, seen)| !**seen) {
            *hidden = f32::NEG_INFINITY;
        }
        visible.contains(&false).then_some(hidden)
    }
}

/// One sequence of a [`Ragged`].
#[derive(Clone, Copy)]
struct Sequence {
    first_query: usize,
    queries: usize,
    first_key: usize,
    keys: usize,
    first_visible: usize,
    causal: bool,
}

impl Sequence {
    /// How many keys, from the first, query `i` may see; 0 if all of them are hidden.
    #[inline(always)]
    fn visible(&self, i: usize) -> usize {
        let keys = match self.causal {
            false => self.keys,
            true => (i + 1 + self.keys).saturating_sub(self.queries).min(self.keys),
        };
        if keys > self.first_visible { keys } else { 0 }
    }
}

/// Multiply-adds from which on the work is shared with other threads.
const ENOUGH_WORK: usize = 200_000;
/// Parts wanted for each thread, so that uneven ones even out.
const PARTS_PER_THREAD: usize = 4;

fn run_forward(
    ragged: &Ragged,
    inputs: &Inputs,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
    paired: bool,
) {
    ragged.check(inputs);
    let (queries, _) = ragged.totals();
    assert_eq!(out.len(), queries * ragged.width(), "attention: out");
    if let Some(lse) = &lse {
        assert_eq!(lse.len(), queries * ragged.heads, "attention: lse");
    }
    if out.is_empty() {
        return;
    }
    let parts = forward_parts(ragged);
    let out = super::disjoint::Disjoint::new(out);
    let lse = lse.map(super::disjoint::Disjoint::new);
    let work: usize = parts.iter().map(|part| part.work(ragged.head_dim)).sum();
    parallel::items(parts.len(), work >= ENOUGH_WORK, |isa, index| {
        let part = &parts[index];
        forward::run(
            isa,
            ForwardPart { ragged, inputs, part, out: &out, lse: lse.as_ref(), paired },
        );
    });
}

/// Some queries of one sequence and head.
struct Part {
    sequence: Sequence,
    head: usize,
    queries: std::ops::Range<usize>,
}

impl Part {
    /// Multiply-adds, roughly.
    fn work(&self, head_dim: usize) -> usize {
        2 * self.queries.len() * self.sequence.keys * head_dim
    }
}

/// A part for every sequence and head; where these are too few for the team, long sequences are
/// cut (each piece packs the keys again, so pieces stay above 64 queries).
fn forward_parts(ragged: &Ragged) -> Vec<Part> {
    const LEAST_QUERIES: usize = 64;
    let wanted = PARTS_PER_THREAD * super::team::num_threads();
    let pieces = wanted.div_ceil((ragged.sequences() * ragged.heads).max(1));
    let mut parts = Vec::new();
    for s in 0..ragged.sequences() {
        let sequence = ragged.sequence(s);
        let step = sequence.queries.div_ceil(pieces).max(LEAST_QUERIES);
        for head in 0..ragged.heads {
            for start in (0..sequence.queries).step_by(step) {
                let queries = start..sequence.queries.min(start + step);
                parts.push(Part { sequence, head, queries });
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests;
