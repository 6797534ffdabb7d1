//! The language-model head and the cross entropy of its logits in one operation, for training: the logits
//! become their own slopes where they lie, and stand in memory once, [rows, vocabulary].

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::cross_entropy::{Found, RowLosses, Targets};
use super::hidden::Hidden;
use super::linear::{TrainedLinear, held};
use super::weight::Weight;
use super::{tensor, use_kernels};
use crate::kernels::gemm::Epilogue;

/// [`cross_entropy`](super::cross_entropy::cross_entropy) of [`linear`](super::linear::linear), to the bit; its
/// row scales, targets and smoothing. `None` where the two are better apart: without a trained weight, or by
/// candle's operations.
pub fn head_loss(
    hidden: &Hidden,
    weight: &Weight,
    bias: Option<&Tensor>,
    (targets, row_scale, smoothing): (&[u32], &[f32], f32),
) -> Result<Option<(Tensor, Arc<RowLosses>)>> {
    let trained = weight.is_packed() && weight.stored().track_op();
    if !trained || bias.is_some_and(Tensor::track_op) {
        return Ok(None);
    }
    let x = hidden.tensor()?;
    if !use_kernels(&x) {
        return Ok(None);
    }
    let found = Arc::new(OnceLock::new());
    let op = HeadLoss {
        head: TrainedLinear::new(weight, Epilogue::None),
        bias: bias.cloned(),
        targets: Targets::new(targets, row_scale, smoothing),
        found: found.clone(),
        slopes: Mutex::default(),
    };
    let loss = x.contiguous()?.apply_op2(weight.stored(), op)?;
    let rows = found.get().map(|found: &Found| found.rows.clone()).unwrap_or_default();
    Ok(Some((loss, rows)))
}

struct HeadLoss {
    head: TrainedLinear,
    bias: Option<Tensor>,
    targets: Targets,
    found: Arc<OnceLock<Found>>,
    /// Of the logits, for a loss that counts once; taken by the backward pass.
    slopes: Mutex<Option<Vec<f32>>>,
}

impl CustomOp2 for HeadLoss {
    fn name(&self) -> &'static str {
        "head_loss"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let bias = self.bias.as_ref().map(Tensor::storage_and_layout);
        let bias = held(&bias)?;
        let mut logits = self.head.forward((x, x_layout), (weight, weight_layout), bias)?.0;
        let found = self.targets.forward(&logits);
        let loss = found.loss;
        self.targets.backward(&found, 1.0, &mut logits);
        *self.slopes.lock().unwrap_or_else(PoisonError::into_inner) = Some(logits);
        let _ = self.found.set(found);
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _loss: &Tensor,
        dloss: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let slopes = self.slopes.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut slopes) = slopes else {
            candle_core::bail!("head_loss has one backward pass, after its forward pass");
        };
        let dloss = dloss.to_scalar::<f32>()?;
        if dloss != 1.0 {
            slopes.iter_mut().for_each(|slope| *slope *= dloss);
        }
        let rows = x.dims2()?.0;
        let classes = slopes.len() / rows.max(1);
        self.head.backward(x, weight, &tensor(slopes, (rows, classes))?)
    }
}
