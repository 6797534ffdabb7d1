//! Layer normalisation of a sum: the post-norm residual block `LN(x + residual)`
//! (Ba, Kiros and Hinton 2016, arXiv:1607.06450).

use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::card_training::{self, SavedNorm};
use super::hidden::Hidden;
use super::{floats, have_kernels, tensor, with_floats};
use crate::kernels::layer_norm;

/// The constant inside the square root, as in keras-hub and Hugging Face.
pub const EPSILON: f32 = 1e-5;

/// `LN(x + residual) * gamma + beta` over the last dimension of `x [rows, width]`; without a
/// residual, `LN(x)`.
pub fn add_layer_norm(
    x: &Hidden,
    residual: Option<&Hidden>,
    gamma: &Tensor,
    beta: &Tensor,
) -> Result<Hidden> {
    #[cfg(feature = "cuda")]
    if let Some(normed) = super::card::add_layer_norm(x, residual, gamma, beta)? {
        return Ok(normed);
    }
    let other_floats = residual.is_none_or(|residual| residual.floats().is_some());
    if let Some(x_floats) = x.floats_beside(&[gamma, beta]).filter(|_| other_floats) {
        let normed = |other: Option<&[f32]>| {
            with_floats([gamma, beta], |[gamma, beta]| {
                Hidden::computed(x.rows(), x.width(), |out| {
                    layer_norm::forward(x_floats, other, gamma, beta, EPSILON, out);
                })
            })
        };
        return match residual {
            Some(residual) => residual.read(|other| normed(Some(other)))?,
            None => normed(None),
        };
    }
    let (x, residual) = (x.tensor()?, residual.map(Hidden::tensor).transpose()?);
    if !have_kernels(&x) {
        return portable(&x, residual.as_ref(), gamma, beta)?.try_into();
    }
    let affine = Tensor::stack(&[gamma, beta], 0)?; // [2, width]
    let (x, op) = (x.contiguous()?, LayerNorm::default());
    match residual {
        Some(residual) => x.apply_op3(&residual.contiguous()?, &affine, op),
        None => x.apply_op2(&affine, op),
    }?
    .try_into()
}

fn portable(
    x: &Tensor,
    residual: Option<&Tensor>,
    gamma: &Tensor,
    beta: &Tensor,
) -> Result<Tensor> {
    let sum = match residual {
        Some(residual) => (x + residual)?,
        None => x.clone(),
    };
    let (x, dtype) = (sum.to_dtype(DType::F32)?, sum.dtype());
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + f64::from(EPSILON))?.sqrt()?)?;
    normed.broadcast_mul(gamma)?.broadcast_add(beta)?.to_dtype(dtype)
}

/// Layer norm of one tensor or of the sum of two, with gain and bias as `[2, width]`.
#[derive(Default)]
struct LayerNorm {
    saved: OnceLock<Saved>,
    #[cfg(feature = "cuda")]
    on_card: OnceLock<SavedNorm>,
}

/// What the forward pass leaves to the backward pass.
struct Saved {
    /// `x + residual`; without a residual it is `x`, and this is empty.
    sum: Vec<f32>,
    /// Mean and reciprocal deviation of each row.
    mean_rstd: Vec<f32>,
}

impl LayerNorm {
    fn forward(
        &self,
        (x, layout): (&CpuStorage, &Layout),
        residual: Option<&[f32]>,
        affine: &[f32],
    ) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, layout)?;
        let (gamma, beta) = affine.split_at(affine.len() / 2);
        let mut out = vec![0.0; x.len()];
        let mut sum = residual.map(|residual| vec![0.0; residual.len()]);
        let mut mean_rstd = vec![0.0; 2 * (x.len() / gamma.len())];
        let saved = (sum.as_deref_mut(), &mut mean_rstd[..]);
        layer_norm::forward_save(x, residual, gamma, beta, EPSILON, &mut out, saved);
        let _ = self.saved.set(Saved { sum: sum.unwrap_or_default(), mean_rstd });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// Gradients of the sum, which are those of each of its terms, and of gain and bias.
    fn backward(&self, x: &Tensor, affine: &Tensor, dout: &Tensor) -> Result<(Tensor, Tensor)> {
        #[cfg(feature = "cuda")]
        if let Some(saved) = self.on_card.get() {
            return saved.backward(x, affine, dout);
        }
        let Some(Saved { sum, mean_rstd }) = self.saved.get() else {
            candle_core::bail!("the backward of layer_norm ran before its forward");
        };
        let dout = dout.contiguous()?;
        let (dx, daffine) = with_floats([&dout, x, affine], |[dout, x, affine]| {
            let sum = if sum.is_empty() { x } else { sum };
            let (mut dx, mut daffine) = (vec![0.0; x.len()], vec![0.0; affine.len()]);
            let (dgamma, dbeta) = daffine.split_at_mut(affine.len() / 2);
            let gamma = &affine[..affine.len() / 2];
            layer_norm::backward(dout, sum, mean_rstd, gamma, &mut dx, dgamma, dbeta);
            (dx, daffine)
        })?;
        Ok((tensor(dx, x.shape().clone())?, tensor(daffine, affine.shape().clone())?))
    }
}

impl CustomOp2 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), None, floats(affine, affine_layout)?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        affine: &CudaStorage,
        affine_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (out, saved) = card_training::norm((x, x_layout), None, (affine, affine_layout))?;
        let _ = self.on_card.set(saved);
        Ok((out, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        affine: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, daffine) = self.backward(x, affine, dout)?;
        Ok((Some(dx), Some(daffine)))
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "add_layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let residual = floats(residual, residual_layout)?;
        self.forward((x, x_layout), Some(residual), floats(affine, affine_layout)?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        residual: &CudaStorage,
        residual_layout: &Layout,
        affine: &CudaStorage,
        affine_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let residual = Some((residual, residual_layout));
        let (out, saved) = card_training::norm((x, x_layout), residual, (affine, affine_layout))?;
        let _ = self.on_card.set(saved);
        Ok((out, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _residual: &Tensor,
        affine: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, daffine) = self.backward(x, affine, dout)?;
        Ok((Some(dx.clone()), Some(dx), Some(daffine)))
    }
}
