//! Products of training on NVIDIA's cards in bfloat16, with float32 sums: the weights, what is multiplied by them
//! and all gradients are float32. And the biases of all products.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};

use super::card_training;
use super::weight::{HalfFormat, Weight};
use crate::kernels::cuda::tensor_of;

/// `x [rows, in]` times `weight [out, in]` transposed; `None` where it is not for a card, or not in bfloat16.
pub(super) fn product(x: &Tensor, weight: &Weight) -> Result<Option<Tensor>> {
    let stored = weight.stored();
    let has_floats = stored.dtype() == DType::F32 && !weight.is_packed();
    let rounds = weight.rounded() == Some(HalfFormat::Bfloat16);
    match rounds && has_floats && card_training::takes(x) {
        true => products(x, stored, true).map(Some),
        false => Ok(None),
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
        let (count, m, k) = matrices(&dims)?;
        let n = others[others.len() - if self.transposed { 2 } else { 1 }];
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
        let ((count, m, k), n) = (matrices(a.dims())?, dy.dim(D::Minus1)?);
        let (card, a_there) = card_training::floats(a)?;
        let (b_there, dy_there) = (card_training::floats(b)?.1, card_training::floats(&dy)?.1);
        let gradient = |of: &Tensor, sizes, factors| -> Result<Option<Tensor>> {
            let wanted = of.track_op().then(|| card.product_bfloat16(count, sizes, factors));
            Ok(wanted.transpose()?.map(|gradient| tensor_of(gradient, of.shape().clone())))
        };
        let da = gradient(a, (m, k, n), [(dy_there, false), (b_there, !self.transposed)])?;
        let db = match self.transposed {
            true => gradient(b, (n, k, m), [(dy_there, true), (a_there, false)]),
            false => gradient(b, (k, n, m), [(a_there, true), (dy_there, false)]),
        }?;
        Ok((da, db))
    }
}

/// How many matrices there are, and of how many rows and columns.
fn matrices(dims: &[usize]) -> Result<(usize, usize, usize)> {
    match dims {
        [more @ .., rows, columns] => Ok((more.iter().product(), *rows, *columns)),
        _ => candle_core::bail!("a product of no matrices"),
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
