//! Products of training on NVIDIA's cards in bfloat16, with float32 sums: the weights, what is multiplied by them
//! and all gradients are float32.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};

use super::weight::{HalfFormat, Weight};
use super::{Way, way};
use crate::kernels::cuda::{Card, Weight as Matrix, tensor_of};

/// `x [rows, in]` times `weight [out, in]` transposed; `None` where it is not for a card, or not in bfloat16.
pub(super) fn product(x: &Tensor, weight: &Weight) -> Result<Option<Tensor>> {
    let stored = weight.stored();
    let floats = x.dtype() == DType::F32 && stored.dtype() == DType::F32;
    let wanted = weight.rounded() == Some(HalfFormat::Bfloat16) && floats && !weight.is_packed();
    if !wanted || !x.device().is_cuda() || way() == Way::Portable {
        return Ok(None);
    }
    x.contiguous()?.apply_op2(stored, Product).map(Some)
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product in bfloat16"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _weight: &CpuStorage,
        _weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("a product of a card was asked of the CPU")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let card = Card::of(&candle_core::Device::Cuda(x.device.clone()))?;
        let (rows, inputs) = x_layout.shape().dims2()?;
        let outputs = weight_layout.shape().dims2()?.0;
        let x = floats(Matrix::new(&card, x, x_layout)?)?;
        let weight = floats(Matrix::new(&card, weight, weight_layout)?)?;
        let factors = [(x, false), (weight, true)];
        let product = card.product_bfloat16((rows, outputs, inputs), factors)?;
        Ok((product, Shape::from((rows, outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((rows, inputs), outputs) = (x.dims2()?, weight.dim(0)?);
        let card = Card::of(x.device())?;
        let dy = dy.contiguous()?;
        let of = |tensor: &Tensor| floats(Matrix::of_tensor(&card, tensor)?);
        let x = x.contiguous()?;
        let product = |(m, n, k), factors| -> Result<Tensor> {
            Ok(tensor_of(card.product_bfloat16((m, n, k), factors)?, Shape::from((m, n))))
        };
        let dx = x
            .track_op()
            .then(|| product((rows, inputs, outputs), [(of(&dy)?, false), (of(weight)?, false)]));
        let dweight = weight
            .track_op()
            .then(|| product((outputs, inputs, rows), [(of(&dy)?, true), (of(&x)?, false)]));
        Ok((dx.transpose()?, dweight.transpose()?))
    }
}

fn floats(matrix: Option<Matrix>) -> Result<Matrix> {
    match matrix {
        Some(matrix) => Ok(matrix),
        None => candle_core::bail!("a product in bfloat16 takes floats"),
    }
}
