//! Scaled dot-product attention over ragged sequences laid end to end
//! (Vaswani et al. 2017, arXiv:1706.03762).

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::dropout::Dropout;
use super::{floats, tensor, use_kernels, wants_gradient, with_floats};
use crate::kernels::attention as kernel;

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

/// `softmax(q k^T / sqrt(d)) v` for each sequence and head; `q [query rows, heads * width]`, `k`
/// and `v [key rows, heads * width]`. A query that sees no key gets what [`Spans::no_key`] says.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Spans,
    heads: Heads,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    if !use_kernels(q) {
        return portable(q, k, v, spans, heads, dropout);
    }
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let op = Attention { spans: spans.clone(), heads, dropout, log_sum_exp: OnceLock::new() };
    if wants_gradient(&[&q, &k, &v]) {
        return q.apply_op3(&k, &v, op);
    }
    let out = with_floats([&q, &k, &v], |[q, k, v]| {
        let mut out = vec![0.0; q.len()];
        kernel::forward(&op.ragged(), q, k, v, &mut out);
        out
    })?;
    tensor(out, q.shape().clone())
}

/// The same, one sequence at a time, by candle's own operations.
fn portable(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Spans,
    heads: Heads,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let mut outputs = Vec::new();
    for s in 0..spans.queries.len() - 1 {
        let (q_start, k_start) = (spans.queries[s], spans.keys[s]);
        let (lq, lk) = (spans.queries[s + 1] - q_start, spans.keys[s + 1] - k_start);
        if lq == 0 {
            continue;
        }
        if lk == 0 {
            outputs.push(Tensor::zeros((lq, q.dim(1)?), q.dtype(), q.device())?);
            continue;
        }
        let split = |x: &Tensor, start: usize, len: usize| -> Result<Tensor> {
            x.narrow(0, start, len)?
                .reshape((len, heads.count, heads.width))?
                .transpose(0, 1)?
                .contiguous()
        };
        let (q, k, v) = (split(q, q_start, lq)?, split(k, k_start, lk)?, split(v, k_start, lk)?);
        let seen = seen(spans, s, q.device())?.to_dtype(q.dtype())?; // [lq, lk]
        let hidden = ((&seen - 1.0)? * 1e30)?;
        let scores = (q.matmul(&k.t()?)? * f64::from(heads.scale()))?.broadcast_mul(&seen)?;
        let scores = scores.broadcast_add(&hidden)?; // [heads, lq, lk]
        let largest = scores.max_keepdim(D::Minus1)?.detach();
        let weights = scores.broadcast_sub(&largest)?.exp()?.broadcast_mul(&seen)?;
        let sums = weights.sum_keepdim(D::Minus1)?;
        // A query that sees nothing has sum 0 and weights 0: divide by 1 instead.
        let sums = (&sums + sums.eq(0.0)?.to_dtype(sums.dtype())?)?;
        let mut weights = weights.broadcast_div(&sums)?;
        if let Some(dropout) = dropout.filter(|dropout| dropout.probability > 0.0) {
            let mask = dropout_mask(dropout, heads, q_start, lq, lk);
            let mask = Tensor::from_vec(mask, weights.shape().clone(), weights.device())?;
            weights = (weights * mask.to_dtype(q.dtype())?)?;
        }
        if spans.no_key == NoKey::MeanOfValues {
            let sees_none = seen.sum_keepdim(D::Minus1)?.eq(0.0)?.to_dtype(q.dtype())?; // [lq, 1]
            weights = weights.broadcast_add(&(sees_none / lk as f64)?)?;
        }
        let out = weights.matmul(&v)?.transpose(0, 1)?.reshape((lq, heads.count * heads.width))?;
        outputs.push(out);
    }
    if outputs.is_empty() { Ok(q.clone()) } else { Tensor::cat(&outputs, 0) }
}

/// 1 where a query of sequence `s` sees a key, else 0: `[query rows, key rows]`.
fn seen(spans: &Spans, s: usize, device: &candle_core::Device) -> Result<Tensor> {
    let (lq, k_start) = (spans.queries[s + 1] - spans.queries[s], spans.keys[s]);
    let lk = spans.keys[s + 1] - k_start;
    let mut seen = Vec::with_capacity(lq * lk);
    for i in 0..lq {
        for j in 0..lk {
            let visible = spans.visible.as_ref().is_none_or(|visible| visible[k_start + j]);
            seen.push(f32::from(visible && (!spans.causal || j + lq <= i + lk)));
        }
    }
    Tensor::from_vec(seen, (lq, lk), device)
}

/// The factors that dropout gives the weights of one sequence: `[heads, lq, lk]`.
fn dropout_mask(dropout: Dropout, heads: Heads, q_start: usize, lq: usize, lk: usize) -> Vec<f32> {
    let kept = 1.0 / (1.0 - dropout.probability);
    let mut mask = Vec::with_capacity(heads.count * lq * lk);
    for head in 0..heads.count {
        for i in 0..lq {
            for j in 0..lk {
                let keep = kernel::dropout_keep(&dropout, heads.count, q_start + i, head, j);
                mask.push(if keep { kept } else { 0.0 });
            }
        }
    }
    mask
}

struct Attention {
    spans: Spans,
    heads: Heads,
    dropout: Option<Dropout>,
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl Attention {
    fn ragged(&self) -> kernel::Ragged<'_> {
        kernel::Ragged {
            q_offsets: &self.spans.queries,
            k_offsets: &self.spans.keys,
            key_visible: self.spans.visible.as_ref().map(|visible| visible.as_slice()),
            causal: self.spans.causal,
            heads: self.heads.count,
            head_dim: self.heads.width,
            scale: self.heads.scale(),
            q_stride: self.heads.count * self.heads.width,
            kv_stride: self.heads.count * self.heads.width,
            no_key: self.spans.no_key,
            dropout: self.dropout.filter(|dropout| dropout.probability > 0.0),
        }
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
