//! Attention by candle's own operations: sequences side by side, padded to the longest of them.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor};

use super::attention::{Heads, NoKey, Spans};
use super::dropout::Dropout;
use super::rows;
#[cfg(feature = "cuda")]
use super::{card_product, card_training};
use crate::kernels::attention as kernel;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::Side;

/// Weights that a group of sequences may have whatever their lengths are.
const SMALL: usize = 1 << 14;
/// Weights that several sequences may have together: a gigabyte in float32.
const MOST: usize = 1 << 28;

/// See [`attention`](super::attention::attention).
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Spans,
    heads: Heads,
    (dropout, in_bfloat16): (Option<Dropout>, bool),
) -> Result<Tensor> {
    let mut outputs = Vec::new();
    for sequences in groups(spans, heads) {
        let group = Group { in_bfloat16, ..Group::new(spans, sequences, heads) };
        if group.queries > 0 {
            outputs.push(group.attention([q, k, v], dropout)?);
        }
    }
    if outputs.is_empty() { Ok(q.clone()) } else { Tensor::cat(&outputs, 0) }
}

/// The weights of sequence `s`, `[heads, query rows, key rows]`.
pub(super) fn weights(
    q: &Tensor,
    k: &Tensor,
    spans: &Spans,
    s: usize,
    heads: Heads,
) -> Result<Tensor> {
    let group = Group::new(spans, s..s + 1, heads);
    group.weights(q, k, None)?.squeeze(0)
}

/// Neighbouring sequences that are computed together: padding at most doubles the work.
fn groups(spans: &Spans, heads: Heads) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut longest, mut area) = ((0, 0), 0);
    for s in 0..spans.sequences() {
        let (queries, keys) = spans.counts(s);
        let both = (longest.0.max(queries), longest.1.max(keys));
        let count = groups.last().map_or(0, |group: &Range<usize>| group.len()) + 1;
        let padded = heads.count * count * both.0 * both.1;
        let exact = area + heads.count * queries * keys;
        match groups.last_mut() {
            Some(group) if padded <= MOST.min(SMALL.max(2 * exact)) => {
                group.end = s + 1;
                (longest, area) = (both, exact);
            }
            _ => {
                groups.push(s..s + 1);
                (longest, area) = ((queries, keys), heads.count * queries * keys);
            }
        }
    }
    groups
}

/// Sequences that are computed together.
struct Group<'a> {
    spans: &'a Spans,
    sequences: Range<usize>,
    heads: Heads,
    /// Of the longest.
    queries: usize,
    keys: usize,
    /// Whether a card multiplies in bfloat16.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no card"))]
    in_bfloat16: bool,
}

impl<'a> Group<'a> {
    fn new(spans: &'a Spans, sequences: Range<usize>, heads: Heads) -> Self {
        let counts = sequences.clone().map(|s| spans.counts(s));
        let (queries, keys) = counts.fold((0, 0), |(a, b), (q, k)| (a.max(q), b.max(k)));
        Group { spans, sequences, heads, queries, keys, in_bfloat16: false }
    }

    fn attention(&self, [q, k, v]: [&Tensor; 3], dropout: Option<Dropout>) -> Result<Tensor> {
        let (offsets, width) = (&self.spans.queries, self.heads.count * self.heads.width);
        if self.keys == 0 {
            let rows = offsets[self.sequences.end] - offsets[self.sequences.start];
            return Tensor::zeros((rows, width), q.dtype(), q.device());
        }
        let weights = self.weights(q, k, dropout)?;
        let v = self.split(v, &self.spans.keys, self.keys)?;
        let out = self.product(&weights.to_dtype(v.dtype())?, &v, false)?.transpose(1, 2)?;
        let out = out.reshape((self.sequences.len() * self.queries, width))?;
        let rows = self.sequences.clone().enumerate().flat_map(|(place, s)| {
            (0..self.spans.counts(s).0).map(move |i| (place * self.queries + i) as u32)
        });
        rows::select(&out, &rows.collect::<Vec<_>>())
    }

    /// `[sequences, heads, queries, keys]`
    fn weights(&self, q: &Tensor, k: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
        let q = self.split(q, &self.spans.queries, self.queries)?;
        let k = self.split(k, &self.spans.keys, self.keys)?;
        #[cfg(feature = "cuda")]
        if card_training::takes(&q) {
            return self.weights_on_card(&self.product(&q, &k, true)?, dropout);
        }
        let seen = self.seen(q.device())?;
        let hidden = ((&seen - 1.0)? * 1e30)?;
        let scores = self.product(&q, &k, true)?.to_dtype(DType::F32)?;
        let scores = (scores * f64::from(self.heads.scale()))?.broadcast_mul(&seen)?;
        let scores = scores.broadcast_add(&hidden)?;
        let largest = scores.max_keepdim(D::Minus1)?.detach();
        let weights = scores.broadcast_sub(&largest)?.exp()?.broadcast_mul(&seen)?;
        let sums = weights.sum_keepdim(D::Minus1)?;
        // A query that sees nothing has sum 0 and weights 0: divide by 1 instead.
        let sums = (&sums + sums.eq(0.0)?.to_dtype(sums.dtype())?)?;
        let mut weights = weights.broadcast_div(&sums)?;
        if let Some(dropout) = dropout.filter(|dropout| dropout.probability > 0.0) {
            weights = (weights * self.factors(dropout, q.device())?)?;
        }
        if self.spans.no_key == NoKey::MeanOfValues {
            let sees_none = seen.sum_keepdim(D::Minus1)?.eq(0.0)?.to_dtype(DType::F32)?;
            weights =
                weights.broadcast_add(&sees_none.broadcast_mul(&self.shares(q.device())?)?)?;
        }
        Ok(weights)
    }

    /// `a [sequences, heads, m, k]` times `b [.., k, n]`, or `b [.., n, k]` if it is `transposed`.
    fn product(&self, a: &Tensor, b: &Tensor, transposed: bool) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.in_bfloat16 && card_training::takes(a) {
            return card_product::products(a, b, transposed);
        }
        match transposed {
            true => a.matmul(&b.t()?.contiguous()?),
            false => a.matmul(b),
        }
    }

    /// The same by kernels of a card.
    #[cfg(feature = "cuda")]
    fn weights_on_card(&self, scores: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
        let spans = self.spans;
        let sequence = |s| {
            let (queries, keys) = spans.counts(s);
            [spans.queries[s] as u32, queries as u32, keys as u32]
        };
        let sequences: Vec<_> = self.sequences.clone().map(sequence).collect();
        let visible = spans.visible.as_ref().map(|visible| -> Vec<u32> {
            let keys = |s: usize| {
                let (start, end) = (spans.keys[s], spans.keys[s + 1]);
                (start..start + self.keys).map(move |key| key < end && visible[key])
            };
            self.sequences.clone().flat_map(keys).map(u32::from).collect()
        });
        let side = Side {
            sequences: &sequences,
            visible: visible.as_deref(),
            sizes: [self.heads.count, self.queries, self.keys],
            scale: self.heads.scale(),
            causal: spans.causal,
            mean_of_all: spans.no_key == NoKey::MeanOfValues,
            dropout: dropout.filter(|dropout| dropout.probability > 0.0),
        };
        card_training::attention_weights(scores, &side)
    }

    /// The rows of these sequences, `[sequences, heads, longest, head width]`.
    fn split(&self, rows: &Tensor, offsets: &[usize], longest: usize) -> Result<Tensor> {
        let padding = rows.dim(0)?;
        let places = self.sequences.clone().flat_map(|s| {
            let (start, end) = (offsets[s], offsets[s + 1]);
            (start..start + longest).map(move |row| if row < end { row } else { padding } as u32)
        });
        let rows = rows::select(rows, &places.collect::<Vec<_>>())?;
        let shape = (self.sequences.len(), longest, self.heads.count, self.heads.width);
        rows.reshape(shape)?.transpose(1, 2)?.contiguous()
    }

    /// 1 where a query sees a key, else 0: `[sequences, 1, 1 or queries, keys]`. Queries that are padding see
    /// something or nothing.
    fn seen(&self, device: &Device) -> Result<Tensor> {
        let count = self.sequences.len();
        let visible = self.sequences.clone().flat_map(|s| {
            let (keys, start) = (self.spans.counts(s).1, self.spans.keys[s]);
            let visible = self.spans.visible.as_ref().map(|visible| &visible[start..][..keys]);
            (0..self.keys).map(move |j| {
                f32::from(u8::from(j < keys && visible.is_none_or(|visible| visible[j])))
            })
        });
        let visible = Tensor::from_iter(visible, device)?.reshape((count, 1, 1, self.keys))?;
        if !self.spans.causal {
            return Ok(visible);
        }
        // The last key that a query sees, if it may see it.
        let last = self.sequences.clone().flat_map(|s| {
            let (queries, keys) = self.spans.counts(s);
            (0..self.queries).map(move |i| (i + keys) as f32 - queries as f32)
        });
        let last = Tensor::from_iter(last, device)?.reshape((count, 1, self.queries, 1))?;
        let places = Tensor::from_iter((0..self.keys).map(|j| j as f32), device)?;
        let places = places.reshape((1, 1, 1, self.keys))?;
        places.broadcast_le(&last)?.to_dtype(DType::F32)?.broadcast_mul(&visible)
    }

    /// What a key counts in the mean of all that a sequence has: `[sequences, 1, 1, keys]`.
    fn shares(&self, device: &Device) -> Result<Tensor> {
        let shares = self.sequences.clone().flat_map(|s| {
            let keys = self.spans.counts(s).1;
            (0..self.keys).map(move |j| if j < keys { 1.0 / keys as f32 } else { 0.0 })
        });
        Tensor::from_iter(shares, device)?.reshape((self.sequences.len(), 1, 1, self.keys))
    }

    /// The factors that dropout gives the weights: `[sequences, heads, queries, keys]`.
    fn factors(&self, dropout: Dropout, device: &Device) -> Result<Tensor> {
        let kept = 1.0 / (1.0 - dropout.probability);
        let (heads, count) = (self.heads.count, self.sequences.len());
        let mut factors = Vec::with_capacity(count * heads * self.queries * self.keys);
        for s in self.sequences.clone() {
            for head in 0..heads {
                for row in self.spans.queries[s]..self.spans.queries[s] + self.queries {
                    factors.extend((0..self.keys).map(|key| {
                        let keeps = kernel::dropout_keep(&dropout, heads, row, head, key);
                        if keeps { kept } else { 0.0 }
                    }));
                }
            }
        }
        Tensor::from_vec(factors, (count, heads, self.queries, self.keys), device)
    }
}
