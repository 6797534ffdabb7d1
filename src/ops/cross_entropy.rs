//! Negative log likelihood of target ids under the softmax of logits.

use std::sync::{Arc, OnceLock};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::card_training;
use super::{floats, have_kernels, tensor, with_floats};
use crate::kernels::cross_entropy as kernel;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{CardTargets, tensor_of};

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
    if have_kernels(logits) {
        let targets = Targets::new(targets, row_scale, smoothing);
        let found = Arc::new(OnceLock::new());
        let op = CrossEntropy {
            targets,
            found: found.clone(),
            #[cfg(feature = "cuda")]
            on_card: OnceLock::new(),
        };
        let loss = logits.contiguous()?.apply_op1(op)?;
        let rows = found.get().map(|found: &Found| found.rows.clone()).unwrap_or_default();
        return Ok((loss, rows));
    }
    portable(logits, targets, row_scale, smoothing)
}

fn portable(
    logits: &Tensor,
    targets: &[u32],
    row_scale: &[f32],
    smoothing: f32,
) -> Result<(Tensor, Arc<RowLosses>)> {
    let (device, logits) = (logits.device(), &logits.to_dtype(DType::F32)?);
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

/// What rows of logits should have said, and how much each counts.
pub(super) struct Targets {
    ids: Vec<u32>,
    row_scale: Vec<f32>,
    smoothing: f32,
}

/// What the forward pass found of rows of logits.
pub(super) struct Found {
    pub loss: f32,
    pub rows: Arc<RowLosses>,
    log_sum_exp: Vec<f32>,
}

impl Targets {
    pub(super) fn new(ids: &[u32], row_scale: &[f32], smoothing: f32) -> Self {
        Targets { ids: ids.to_vec(), row_scale: row_scale.to_vec(), smoothing }
    }

    pub(super) fn forward(&self, logits: &[f32]) -> Found {
        let rows = self.ids.len();
        let (mut nll, mut log_sum_exp) = (vec![0.0; rows], vec![0.0; rows]);
        let mut correct = vec![0u8; rows];
        kernel::forward(logits, &self.ids, &mut nll, &mut log_sum_exp, &mut correct);
        let spread = match self.smoothing {
            0.0 => Vec::new(),
            _ => spreads(logits, &log_sum_exp),
        };
        let correct = correct.into_iter().map(|flag| flag != 0).collect();
        self.found(RowLosses { nll, correct, spread }, log_sum_exp)
    }

    /// The loss of all rows.
    fn found(&self, rows: RowLosses, log_sum_exp: Vec<f32>) -> Found {
        // In f64: thousands of rows are summed.
        let loss_of = |i: usize| match rows.spread.get(i) {
            Some(&spread) => rows.nll[i] + self.smoothing * (spread - rows.nll[i]),
            None => rows.nll[i],
        };
        let scales = self.row_scale.iter().enumerate();
        let loss: f64 = scales.map(|(i, &w)| f64::from(loss_of(i)) * f64::from(w)).sum();
        Found { loss: loss as f32, rows: Arc::new(rows), log_sum_exp }
    }

    /// Turns logits into the slopes of the loss, times `dloss`.
    pub(super) fn backward(&self, found: &Found, dloss: f32, logits: &mut [f32]) {
        let scale: Vec<f32> = self.row_scale.iter().map(|w| w * dloss).collect();
        kernel::backward(logits, &found.log_sum_exp, &self.ids, &scale);
        if self.smoothing > 0.0 {
            self.smooth(&scale, logits);
        }
    }

    /// Turns the slope of nll into that of the smoothed loss, `softmax - (1 - smoothing) onehot -
    /// smoothing / classes`, times the scale of the row.
    fn smooth(&self, scale: &[f32], slopes: &mut [f32]) {
        let classes = slopes.len() / scale.len().max(1);
        let rows = slopes.chunks_mut(classes.max(1)).zip(scale).zip(&self.ids);
        for ((row, &scale), &target) in rows {
            let share = self.smoothing * scale / classes as f32;
            row.iter_mut().for_each(|slope| *slope -= share);
            row[target as usize] += self.smoothing * scale;
        }
    }
}

struct CrossEntropy {
    targets: Targets,
    found: Arc<OnceLock<Found>>,
    #[cfg(feature = "cuda")]
    on_card: OnceLock<CardTargets>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let found = self.targets.forward(floats(logits, layout)?);
        let loss = found.loss;
        let _ = self.found.set(found);
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (card, there) = card_training::stored(logits, layout)?;
        let targets = CardTargets::new(&card, &self.targets.ids, &self.targets.row_scale)?;
        let rows = targets.forward(there, layout.shape().dims2()?.1)?;
        let smooths = self.targets.smoothing > 0.0;
        let losses = RowLosses {
            nll: rows.iter().map(|row| row.nll).collect(),
            correct: rows.iter().map(|row| row.correct).collect(),
            spread: rows.iter().filter(|_| smooths).map(|row| row.spread).collect(),
        };
        let found = self.targets.found(losses, Vec::new());
        let loss = card_training::scalar(found.loss, logits)?;
        let (_, _) = (self.found.set(found), self.on_card.set(targets));
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, dloss: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some(targets) = self.on_card.get() {
            let (_, there) = card_training::floats(logits)?;
            let dloss = dloss.contiguous()?;
            let (_, dloss) = card_training::floats(&dloss)?;
            let classes = logits.dim(1)?;
            let slopes = targets.backward(there, classes, self.targets.smoothing, dloss)?;
            return Ok(Some(tensor_of(slopes, logits.shape().clone())));
        }
        let Some(found) = self.found.get() else {
            candle_core::bail!("the backward of cross_entropy ran before its forward");
        };
        let mut slopes = with_floats([logits], |[logits]| logits.to_vec())?;
        self.targets.backward(found, dloss.to_scalar()?, &mut slopes);
        tensor(slopes, logits.shape().clone()).map(Some)
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
