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
    /// Negative log likelihood in the mean over all classes; empty without smoothing.
    pub spread: Vec<f32>,
}

/// The sum over rows of `row_scale * nll`, a scalar for the backward pass, and each row's own.
/// With `smoothing` a row's loss is `(1 - smoothing) nll + smoothing spread`: that share of the target
/// is given to all classes alike (Szegedy et al., 2016).
///
/// `logits [rows, vocabulary]`; one target id and one scale a row.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &[u32],
    row_scale: &[f32],
    smoothing: f32,
) -> Result<(Tensor, Arc<RowLosses>)> {
    if use_kernels(logits) {
        let op = CrossEntropy {
            targets: targets.to_vec(),
            row_scale: row_scale.to_vec(),
            smoothing,
            log_sum_exp: OnceLock::new(),
            rows: Arc::new(OnceLock::new()),
        };
        let rows = op.rows.clone();
        let loss = logits.contiguous()?.apply_op1(op)?;
        let losses = rows.get().cloned().unwrap_or_default();
        return Ok((loss, losses));
    }
    portable(logits, targets, row_scale, smoothing)
}

fn portable(
    logits: &Tensor,
    targets: &[u32],
    row_scale: &[f32],
    smoothing: f32,
) -> Result<(Tensor, Arc<RowLosses>)> {
    let device = logits.device();
    let ids = Tensor::new(targets, device)?;
    let largest = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&largest)?;
    let log_sum_exp = shifted.exp()?.sum(D::Minus1)?.log()?;
    let picked = shifted.gather(&ids.unsqueeze(1)?, 1)?.squeeze(1)?;
    let nll = (&log_sum_exp - picked)?;
    let (mut losses, mut spread) = (nll.clone(), Vec::new());
    if smoothing > 0.0 {
        let mean = (&log_sum_exp - shifted.mean(D::Minus1)?)?;
        spread = mean.to_vec1()?;
        losses = (&nll + ((mean - &nll)? * f64::from(smoothing))?)?;
    }
    let loss = (losses * Tensor::new(row_scale, device)?)?.sum_all()?;
    let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let correct = best.iter().zip(targets).map(|(best, target)| best == target).collect();
    Ok((loss, Arc::new(RowLosses { nll: nll.to_vec1()?, correct, spread })))
}

struct CrossEntropy {
    targets: Vec<u32>,
    row_scale: Vec<f32>,
    smoothing: f32,
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
        let spread = match self.smoothing {
            0.0 => Vec::new(),
            _ => spreads(logits, &log_sum_exp),
        };
        // In f64: thousands of rows are summed.
        let loss_of = |i: usize| match spread.get(i) {
            Some(&spread) => nll[i] + self.smoothing * (spread - nll[i]),
            None => nll[i],
        };
        let scales = self.row_scale.iter().enumerate();
        let loss: f64 = scales.map(|(i, &w)| f64::from(loss_of(i)) * f64::from(w)).sum();
        let correct = correct.into_iter().map(|flag| flag != 0).collect();
        let _ = self.log_sum_exp.set(log_sum_exp);
        let _ = self.rows.set(Arc::new(RowLosses { nll, correct, spread }));
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
            if self.smoothing > 0.0 {
                self.smooth(&scale, &mut dlogits);
            }
            dlogits
        })?;
        tensor(dlogits, logits.shape().clone()).map(Some)
    }
}

impl CrossEntropy {
    /// Turns the slope of nll into that of the smoothed loss, `softmax - (1 - smoothing) onehot -
    /// smoothing / classes`, times the scale of the row.
    fn smooth(&self, scale: &[f32], dlogits: &mut [f32]) {
        let classes = dlogits.len() / scale.len().max(1);
        let rows = dlogits.chunks_mut(classes.max(1)).zip(scale).zip(&self.targets);
        for ((row, &scale), &target) in rows {
            let share = self.smoothing * scale / classes as f32;
            row.iter_mut().for_each(|slope| *slope -= share);
            row[target as usize] += self.smoothing * scale;
        }
    }
}

/// Negative log likelihoods in the mean over all classes, a row each.
fn spreads(logits: &[f32], log_sum_exp: &[f32]) -> Vec<f32> {
    let classes = logits.len().checked_div(log_sum_exp.len()).unwrap_or(0).max(1);
    let rows = logits.chunks(classes).zip(log_sum_exp);
    rows.map(|(row, &total)| total - mean(row)).collect()
}

/// The mean of a row, in f64 and sixteen sums, so that they can be taken side by side.
fn mean(row: &[f32]) -> f32 {
    let mut sums = [0.0_f64; 16];
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, &x)| *sum += f64::from(x));
    (sums.iter().sum::<f64>() / row.len().max(1) as f64) as f32
}
