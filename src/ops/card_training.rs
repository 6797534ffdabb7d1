//! What the operations of training do on NVIDIA's cards: the arms of those that are written out for the CPU too.

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendDevice;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};

use super::{Way, way};
use crate::kernels::cuda::{Card, CardSide, Side, Weight as Matrix, tensor_of};

/// Whether kernels of a card take it, with gradients.
pub(super) fn takes(x: &Tensor) -> bool {
    way() == Way::Kernel && x.device().is_cuda() && x.dtype() == candle_core::DType::F32
}

/// Floats on a card, for as long as the tensor lives, which is contiguous.
pub(super) fn floats(tensor: &Tensor) -> Result<(Arc<Card>, Matrix)> {
    let card = Card::of(tensor.device())?;
    let matrix = known(Matrix::of_tensor(&card, tensor)?)?;
    Ok((card, matrix))
}

/// The same of an operand.
pub(super) fn stored(storage: &CudaStorage, layout: &Layout) -> Result<(Arc<Card>, Matrix)> {
    let card = Card::of(&Device::Cuda(storage.device.clone()))?;
    let matrix = known(Matrix::new(&card, storage, layout)?)?;
    Ok((card, matrix))
}

fn known(matrix: Option<Matrix>) -> Result<Matrix> {
    match matrix {
        Some(matrix) => Ok(matrix),
        None => candle_core::bail!("a kernel of training takes floats"),
    }
}

/// What a norm leaves to its backward pass.
pub(super) struct SavedNorm {
    /// The sums that were normed; none without a residual.
    sums: Option<Tensor>,
    statistics: Tensor,
}

type Operand<'a> = (&'a CudaStorage, &'a Layout);

/// See [`add_layer_norm`](super::add_layer_norm::add_layer_norm).
pub(super) fn norm(
    x: Operand<'_>,
    residual: Option<Operand<'_>>,
    affine: Operand<'_>,
) -> Result<(CudaStorage, SavedNorm)> {
    let (card, matrix) = stored(x.0, x.1)?;
    let residual = residual.map(|(storage, layout)| stored(storage, layout)).transpose()?;
    let affine = stored(affine.0, affine.1)?.1;
    let normed = card.norm_forward(matrix, residual.map(|(_, matrix)| matrix), affine)?;
    let shape = x.1.shape().clone();
    let rows = matrix.len() * 2 / affine.len();
    let saved = SavedNorm {
        sums: normed.sums.map(|sums| tensor_of(sums, shape)),
        statistics: tensor_of(normed.statistics, Shape::from((rows, 2))),
    };
    Ok((normed.out, saved))
}

impl SavedNorm {
    /// Slopes of the sums and of gain and bias.
    pub(super) fn backward(
        &self,
        x: &Tensor,
        affine: &Tensor,
        dout: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let dout = dout.contiguous()?;
        let (card, slopes) = floats(&dout)?;
        let sums = floats(self.sums.as_ref().unwrap_or(x))?.1;
        let saved = (sums, floats(&self.statistics)?.1);
        let (dx, daffine) = card.norm_backward(slopes, saved, floats(affine)?.1)?;
        Ok((tensor_of(dx, x.shape().clone()), tensor_of(daffine, affine.shape().clone())))
    }
}

/// A scalar on the card of an operand.
pub(super) fn scalar(value: f32, beside: &CudaStorage) -> Result<CudaStorage> {
    beside.device.storage_from_slice(&[value])
}

/// The weights of attention from the scores of sequences side by side.
pub(super) fn attention_weights(scores: &Tensor, side: &Side<'_>) -> Result<Tensor> {
    let side = CardSide::new(&Card::of(scores.device())?, side)?;
    scores.contiguous()?.apply_op1(AttentionWeights { side, log_sums: OnceLock::new() })
}

struct AttentionWeights {
    side: CardSide,
    log_sums: OnceLock<Tensor>,
}

impl CustomOp1 for AttentionWeights {
    fn name(&self) -> &'static str {
        "attention weights"
    }

    fn cpu_fwd(&self, _scores: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("the weights of a card were asked of the CPU")
    }

    fn cuda_fwd(&self, scores: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (weights, log_sums) = self.side.forward(stored(scores, layout)?.1)?;
        let rows = layout.shape().elem_count() / layout.dims().last().map_or(1, |&keys| keys);
        let _ = self.log_sums.set(tensor_of(log_sums, Shape::from(rows)));
        Ok((weights, layout.shape().clone()))
    }

    fn bwd(&self, scores: &Tensor, _weights: &Tensor, dweights: &Tensor) -> Result<Option<Tensor>> {
        let Some(log_sums) = self.log_sums.get() else {
            candle_core::bail!("the backward of attention ran before its forward");
        };
        let (scores, dweights) = (scores.contiguous()?, dweights.contiguous()?);
        let (scores_there, dweights_there) = (floats(&scores)?.1, floats(&dweights)?.1);
        let dscores = self.side.backward(scores_there, floats(log_sums)?.1, dweights_there)?;
        Ok(Some(tensor_of(dscores, scores.shape().clone())))
    }
}
