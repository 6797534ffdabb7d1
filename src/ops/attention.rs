//! Scaled dot-product attention over ragged sequences laid end to end
//! (Vaswani et al. 2017, arXiv:1706.03762).

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::dropout::Dropout;
use super::hidden::Hidden;
use super::weight::HalfFormat;
use super::{floats, padded, place, tensor, use_kernels, with_floats};
use crate::kernels::attention as kernel;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Card, CardSpans};
use crate::kernels::isa::{self, Pairs};

pub use crate::kernels::attention::NoKey;

/// Which rows attend to which: sequence `s` has query rows `queries[s]..queries[s + 1]` and key
/// rows `keys[s]..keys[s + 1]`.
#[derive(Debug, Clone)]
pub struct Spans {
    /// Borders of the query rows, one more than there are sequences.
    pub queries: Arc<Vec<usize>>,
    /// Borders of the key rows.
    pub keys: Arc<Vec<usize>>,
    /// Whether a key row may be attended to; `None` if all may.
    pub visible: Option<Arc<Vec<bool>>>,
    /// Whether a query sees only keys up to its own place in its sequence.
    pub causal: bool,
    /// What a query that sees no key gets.
    pub no_key: NoKey,
    /// The same on a card.
    pub on_card: OnCard,
}

/// What a card has of [`Spans`] from their first use there on: all layers of a pass use the same. Without cards it is
/// empty.
#[derive(Debug, Clone, Default)]
pub struct OnCard {
    #[cfg(feature = "cuda")]
    spans: Arc<OnceLock<CardSpans>>,
}

#[cfg(feature = "cuda")]
impl OnCard {
    /// What a card has of the sequences that `ragged` describes.
    pub(super) fn get(&self, card: &Arc<Card>, ragged: &kernel::Ragged<'_>) -> Result<&CardSpans> {
        match self.spans.get() {
            Some(spans) => Ok(spans),
            None => {
                let spans = CardSpans::new(card, ragged)?;
                Ok(self.spans.get_or_init(|| spans))
            }
        }
    }
}

impl Spans {
    pub(super) fn sequences(&self) -> usize {
        self.queries.len() - 1
    }

    /// Query rows and key rows of sequence `s`.
    pub(super) fn counts(&self, s: usize) -> (usize, usize) {
        (self.queries[s + 1] - self.queries[s], self.keys[s + 1] - self.keys[s])
    }
}

/// Sizes of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Number of heads.
    pub count: usize,
    /// Width of one head.
    pub width: usize,
}

impl Heads {
    /// What scores are multiplied by.
    pub(crate) fn scale(self) -> f32 {
        (1.0 / (self.width as f64).sqrt()) as f32
    }
}

/// What attention may round all that it multiplies to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rounding {
    /// To bfloat16 where no gradient is wanted and the processor has such products; elsewhere they would gain
    /// nothing.
    pub on_cpu: bool,
    /// To this on a card where no gradient is wanted.
    pub on_card: Option<HalfFormat>,
    /// To bfloat16 on a card that trains.
    pub in_training: bool,
}

/// `softmax(q k^T / sqrt(d)) v` for each sequence and head; `q [query rows, heads * width]`, `k`
/// and `v [key rows, heads * width]`. A query that sees no key gets what [`Spans::no_key`] says. All that is
/// multiplied is rounded where it may be and that gains something.
pub fn attention(
    q: &Hidden,
    k: &Hidden,
    v: &Hidden,
    spans: &Spans,
    heads: Heads,
    dropout: Option<Dropout>,
    rounding: Rounding,
) -> Result<Hidden> {
    let dropout = dropout.filter(|dropout| dropout.probability > 0.0);
    #[cfg(feature = "cuda")]
    if dropout.is_none()
        && let Some(out) = super::card::attention([q, k, v], spans, heads, rounding.on_card)?
    {
        return Ok(out);
    }
    if let (Some(q_floats), Some(k), Some(v)) = (q.floats(), k.floats(), v.floats()) {
        let pairs = rounding.on_cpu && isa::pairs_of(isa::current()) == Pairs::Fast;
        let ragged = ragged(spans, heads, dropout);
        return Ok(Hidden::computed(q.rows(), q.width(), |out| match dropout {
            None if pairs => kernel::forward_bfloat16(&ragged, q_floats, k, v, out),
            _ => kernel::forward(&ragged, q_floats, k, v, out),
        }));
    }
    let (q, k, v) = (q.tensor()?, k.tensor()?, v.tensor()?);
    if !use_kernels(&q) {
        let how = (dropout, rounding.in_training);
        return padded::attention(&q, &k, &v, spans, heads, how)?.try_into();
    }
    let op = Attention { spans: spans.clone(), heads, dropout, log_sum_exp: OnceLock::new() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)?.try_into()
}

/// The weights that [`attention`] gives the values, for whoever asks to see them: a block `[heads, query
/// rows, key rows]` for each sequence, one after the other. Without dropout.
pub fn weights(q: &Hidden, k: &Hidden, spans: &Spans, heads: Heads) -> Result<Vec<f32>> {
    if let (Some(q), Some(k)) = (q.floats(), k.floats()) {
        let count = |s| spans.counts(s).0 * spans.counts(s).1 * heads.count;
        let mut out = vec![0.0; (0..spans.sequences()).map(count).sum()];
        kernel::weights(&ragged(spans, heads, None), q, k, &mut out);
        return Ok(out);
    }
    let (q, k, mut all) = (q.tensor()?, k.tensor()?, Vec::new());
    for s in (0..spans.sequences()).filter(|&s| spans.counts(s).0 * spans.counts(s).1 > 0) {
        let block = padded::weights(&q, &k, spans, s, heads)?;
        all.extend(place::values(&block)?);
    }
    Ok(all)
}

struct Attention {
    spans: Spans,
    heads: Heads,
    dropout: Option<Dropout>,
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl Attention {
    fn ragged(&self) -> kernel::Ragged<'_> {
        ragged(&self.spans, self.heads, self.dropout)
    }
}

/// The kernels' description of the same.
pub(super) fn ragged(spans: &Spans, heads: Heads, dropout: Option<Dropout>) -> kernel::Ragged<'_> {
    kernel::Ragged {
        q_offsets: &spans.queries,
        k_offsets: &spans.keys,
        key_visible: spans.visible.as_ref().map(|visible| visible.as_slice()),
        causal: spans.causal,
        heads: heads.count,
        head_dim: heads.width,
        scale: heads.scale(),
        q_stride: heads.count * heads.width,
        kv_stride: heads.count * heads.width,
        no_key: spans.no_key,
        dropout: dropout.filter(|dropout| dropout.probability > 0.0),
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (floats(q, q_layout)?, floats(k, k_layout)?, floats(v, v_layout)?);
        let mut out = vec![0.0; q.len()];
        let rows = q_layout.shape().dims2()?.0;
        let mut log_sum_exp = vec![0.0; rows * self.heads.count];
        kernel::forward_save(&self.ragged(), q, k, v, &mut out, &mut log_sum_exp);
        let _ = self.log_sum_exp.set(log_sum_exp);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sum_exp) = self.log_sum_exp.get() else {
            candle_core::bail!("the backward of attention ran before its forward");
        };
        let dout = dout.contiguous()?;
        let (dq, dk, dv) = with_floats([q, k, v, out, &dout], |[q, k, v, out, dout]| {
            let (mut dq, mut dk, mut dv) =
                (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
            let ragged = self.ragged();
            kernel::backward(&ragged, q, k, v, out, dout, log_sum_exp, &mut dq, &mut dk, &mut dv);
            (dq, dk, dv)
        })?;
        Ok((
            Some(tensor(dq, q.shape().clone())?),
            Some(tensor(dk, k.shape().clone())?),
            Some(tensor(dv, v.shape().clone())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_way;
    use super::*;
    use crate::kernels::testing::noise;

    const HEADS: Heads = Heads { count: 2, width: 5 };

    fn rows(count: usize, seed: u64) -> Hidden {
        Hidden::new(count, 10, |out| out.copy_from_slice(&noise(count * 10, seed))).unwrap()
    }

    #[test]
    fn both_ways_give_the_weights_that_attention_applies() {
        let keys = vec![0, 4, 4, 41];
        let hidden: Vec<bool> = (0..41).map(|key| key > 3 && key % 3 != 0).collect();
        for no_key in [NoKey::Zeros, NoKey::MeanOfValues] {
            let spans = Spans {
                queries: Arc::new(vec![0, 2, 3, 10]),
                keys: Arc::new(keys.clone()),
                visible: Some(Arc::new(hidden.clone())),
                causal: false,
                no_key,
                on_card: OnCard::default(),
            };
            let both = in_way(|| weights(&rows(10, 1), &rows(41, 2), &spans, HEADS).unwrap());
            assert_eq!(both.kernel.len(), 2 * (2 * 4 + 7 * 37));
            for (i, (kernel, portable)) in both.kernel.iter().zip(&both.portable).enumerate() {
                assert!((kernel - portable).abs() < 1e-6, "[{i}]: {kernel} and {portable}");
            }
            // The last query of the last head, times the values.
            let values = rows(41, 3);
            let out = attention(
                &rows(10, 1),
                &rows(41, 2),
                &values,
                &spans,
                HEADS,
                None,
                Rounding::default(),
            );
            let out = out.unwrap();
            let rows = |x: Hidden| x.tensor().unwrap().to_vec2::<f32>().unwrap();
            let (out, values) = (rows(out), rows(values));
            let last = &both.kernel[both.kernel.len() - 37..];
            assert!((last.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            let sum: f32 = last.iter().zip(&values[4..]).map(|(weight, row)| weight * row[9]).sum();
            assert!((sum - out[9][9]).abs() < 1e-6);
            let blind = if no_key == NoKey::Zeros { 0.0 } else { 0.25 };
            assert!(both.kernel[..16].iter().all(|&weight| weight == blind));
        }
    }
}
