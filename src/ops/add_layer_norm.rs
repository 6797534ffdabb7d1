//! Layer normalisation of a sum: the post-norm residual block `LN(x + residual)`
//! (Ba, Kiros and Hinton 2016, arXiv:1607.06450).

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::hidden::Hidden;
use super::{floats, tensor, use_kernels, with_floats};
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
    if !use_kernels(&x) {
        return portable(&x, residual.as_ref(), gamma, beta)?.try_into();
    }
    let sum = match residual {
        Some(residual) => (x + residual)?,
        None => x.contiguous()?,
    };
    sum.apply_op3(gamma, beta, LayerNorm { mean_rstd: OnceLock::new() })?.try_into()
}

fn portable(
    x: &Tensor,
    residual: Option<&Tensor>,
    gamma: &Tensor,
    beta: &Tensor,
) -> Result<Tensor> {
    let x = match residual {
        Some(residual) => (x + residual)?,
        None => x.clone(),
    };
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + f64::from(EPSILON))?.sqrt()?)?;
    normed.broadcast_mul(gamma)?.broadcast_add(beta)
}

/// Layer norm that remembers mean and reciprocal deviation of each row for its backward.
struct LayerNorm {
    mean_rstd: OnceLock<Vec<f32>>,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, x_layout)?;
        let gamma = floats(gamma, gamma_layout)?;
        let mut out = vec![0.0; x.len()];
        let mut mean_rstd = vec![0.0; 2 * (x.len() / gamma.len())];
        let beta = floats(beta, beta_layout)?;
        let mut sum = vec![0.0; x.len()];
        layer_norm::forward_save(x, None, gamma, beta, EPSILON, &mut out, &mut sum, &mut mean_rstd);
        let _ = self.mean_rstd.set(mean_rstd);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _beta: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(mean_rstd) = self.mean_rstd.get() else {
            candle_core::bail!("the backward of layer_norm ran before its forward");
        };
        let dout = dout.contiguous()?;
        let width = gamma.elem_count();
        let (dx, dgamma, dbeta) = with_floats([&dout, x, gamma], |[dout, x, gamma]| {
            let (mut dx, mut dgamma, mut dbeta) =
                (vec![0.0; x.len()], vec![0.0; width], vec![0.0; width]);
            layer_norm::backward(dout, x, mean_rstd, gamma, &mut dx, &mut dgamma, &mut dbeta);
            (dx, dgamma, dbeta)
        })?;
        Ok((
            Some(tensor(dx, x.shape().clone())?),
            Some(tensor(dgamma, width)?),
            Some(tensor(dbeta, width)?),
        ))
    }
}
