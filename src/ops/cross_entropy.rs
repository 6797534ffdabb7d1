//! Negative log likelihood of target ids under the softmax of logits.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::{floats, tensor, use_kernels, with_floats};
use crate::kernels::cross_entropy as kernel;

/// What each row's prediction was worth.
#[derive(Debug, Default)]
pub struct RowLosses {
    /// Negative log likelihood of each row's target, in nats.
    pub nll: Vec<f32>,
    /// Whether the target had the largest logit of its row.
    pub correct: Vec<bool>,
}

/// The sum over rows of `row_scale * nll`, a scalar for the backward pass, and each row's own.
///
/// `logits [rows, vocabulary]`; one target id and one scale a row.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &[u32],
    row_scale: &[f32],
) -> Result<(Tensor, Arc<RowLosses>)> {
    if use_kernels(logits) {
        let op = CrossEntropy {
            targets: targets.to_vec(),
            row_scale: row_scale.to_vec(),
            log_sum_exp: OnceLock::new(),
            rows: Arc::new(OnceLock::new()),
        };
        let rows = op.rows.clone();
        let loss = logits.contiguous()?.apply_op1(op)?;
        let losses = rows.get().cloned().unwrap_or_default();
        return Ok((loss, losses));
    }
    portable(logits, targets, row_scale)
}

fn portable(
    logits: &Tensor,
    targets: &[u32],
    row_scale: &[f32],
) -> Result<(Tensor, Arc<RowLosses>)> {
    let device = logits.device();
    let ids = Tensor::new(targets, device)?;
    let largest = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&largest)?;
    let log_sum_exp = shifted.exp()?.sum(D::Minus1)?.log()?;
    let picked = shifted.gather(&ids.unsqueeze(1)?, 1)?.squeeze(1)?;
    let nll = (log_sum_exp - picked)?;
    let loss = (&nll * Tensor::new(row_scale, device)?)?.sum_all()?;
    let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let correct = best.iter().zip(targets).map(|(best, target)| best == target).collect();
    Ok((loss, Arc::new(RowLosses { nll: nll.to_vec1()?, correct })))
}

struct CrossEntropy {
    targets: Vec<u32>,
    row_scale: Vec<f32>,
    log_sum_exp: OnceLock<Vec<f32>>,
    rows: Arc<OnceLock<Arc<RowLosses>>>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = floats(logits, layout)?;
        let rows = self.targets.len();
        let (mut nll, mut log_sum_exp) = (vec![0.0; rows], vec![0.0; rows]);
        let mut correct = vec![0u8; rows];
        kernel::forward(logits, &self.targets, &mut nll, &mut log_sum_exp, &mut correct);
        // In f64: thousands of rows are summed.
        let loss: f64 =
            nll.iter().zip(&self.row_scale).map(|(&nll, &w)| f64::from(nll) * f64::from(w)).sum();
        let correct = correct.into_iter().map(|flag| flag != 0).collect();
        let _ = self.log_sum_exp.set(log_sum_exp);
        let _ = self.rows.set(Arc::new(RowLosses { nll, correct }));
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, dloss: &Tensor) -> Result<Option<Tensor>> {
        let Some(log_sum_exp) = self.log_sum_exp.get() else {
            candle_core::bail!("the backward of cross_entropy ran before its forward");
        };
        let dloss = dloss.to_scalar::<f32>()?;
        let scale: Vec<f32> = self.row_scale.iter().map(|w| w * dloss).collect();
        let dlogits = with_floats([logits], |[logits]| {
            let mut dlogits = vec![0.0; logits.len()];
            kernel::backward(logits, log_sum_exp, &self.targets, &scale, &mut dlogits);
            dlogits
        })?;
        tensor(dlogits, logits.shape().clone()).map(Some)
    }
}
