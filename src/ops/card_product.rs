//! Products of training on NVIDIA's cards in bfloat16, with float32 sums: the weights, what is multiplied by them
//! and all gradients are float32. And the biases of all products.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};

use super::card_training;
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
        let product = card.product_bfloat16(1, (rows, outputs, inputs), factors)?;
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
            Ok(tensor_of(card.product_bfloat16(1, (m, n, k), factors)?, Shape::from((m, n))))
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

/// `a [.., m, k]` times `b [.., k, n]`, or `b [.., n, k]` if it is `transposed`: as many matrices of both.
pub(super) fn products(a: &Tensor, b: &Tensor, transposed: bool) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, Products { transposed })
}

struct Products {
    transposed: bool,
}

impl CustomOp2 for Products {
    fn name(&self) -> &'static str {
        "products in bfloat16"
    }

    fn cpu_fwd(
        &self,
        _a: &CpuStorage,
        _a_layout: &Layout,
        _b: &CpuStorage,
        _b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("products of a card were asked of the CPU")
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (mut dims, others) = (a_layout.dims().to_vec(), b_layout.dims());
        let [.., m, k] = dims[..] else { candle_core::bail!("a product of no matrices") };
        let n = others[others.len() - if self.transposed { 2 } else { 1 }];
        let count = a_layout.shape().elem_count() / (m * k).max(1);
        let (card, a) = card_training::stored(a, a_layout)?;
        let factors = [(a, false), (card_training::stored(b, b_layout)?.1, self.transposed)];
        let products = card.product_bfloat16(count, (m, n, k), factors)?;
        *dims.last_mut().expect("it has two") = n;
        Ok((products, Shape::from(dims)))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let [.., m, k] = *a.dims() else { candle_core::bail!("a product of no matrices") };
        let (n, count) = (dy.dim(D::Minus1)?, a.elem_count() / (m * k).max(1));
        let (card, a_there) = card_training::floats(a)?;
        let (b_there, dy_there) = (card_training::floats(b)?.1, card_training::floats(&dy)?.1);
        let of_a = [(dy_there, false), (b_there, !self.transposed)];
        let da = card.product_bfloat16(count, (m, k, n), of_a)?;
        let db = match self.transposed {
            true => card.product_bfloat16(count, (n, k, m), [(dy_there, true), (a_there, false)]),
            false => card.product_bfloat16(count, (k, n, m), [(a_there, true), (dy_there, false)]),
        }?;
        Ok((Some(tensor_of(da, a.shape().clone())), Some(tensor_of(db, b.shape().clone()))))
    }
}

/// `bias [width]` added to each row of `y [rows, width]`.
pub(super) fn add_bias(y: &Tensor, bias: &Tensor) -> Result<Tensor> {
    y.contiguous()?.apply_op2(&bias.to_dtype(y.dtype())?, AddBias)
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(
        &self,
        _y: &CpuStorage,
        _y_layout: &Layout,
        _bias: &CpuStorage,
        _bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("a bias on a card was asked of the CPU")
    }

    fn cuda_fwd(
        &self,
        y: &CudaStorage,
        y_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (card, y) = card_training::stored(y, y_layout)?;
        let sum = card.add_bias(y, card_training::stored(bias, bias_layout)?.1)?;
        Ok((sum, y_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _y: &Tensor,
        bias: &Tensor,
        _sum: &Tensor,
        dsum: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dbias = bias.track_op().then(|| -> Result<Tensor> {
            let dsum = dsum.contiguous()?;
            let (card, slopes) = card_training::floats(&dsum)?;
            Ok(tensor_of(card.sum_columns(slopes, bias.elem_count())?, bias.shape().clone()))
        });
        Ok((Some(dsum.clone()), dbias.transpose()?))
    }
}

fn floats(matrix: Option<Matrix>) -> Result<Matrix> {
    match matrix {
        Some(matrix) => Ok(matrix),
        None => candle_core::bail!("a product in bfloat16 takes floats"),
    }
}
