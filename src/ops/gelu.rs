//! GELU, exact: `x * Phi(x)` with the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415).

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::card_training;
use super::{floats, have_kernels, tensor, with_floats};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::tensor_of;
use crate::kernels::gelu;

/// `x * Phi(x)`, element by element.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if have_kernels(x) {
        return x.contiguous()?.apply_op1(Gelu);
    }
    x.gelu_erf()
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, layout)?;
        let mut out = vec![0.0; x.len()];
        gelu::forward(x, &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (card, x) = card_training::stored(x, layout)?;
        Ok((card.gelu_forward(x)?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let dout = dout.contiguous()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let (card, there) = card_training::floats(x)?;
            let dx = card.gelu_backward(there, card_training::floats(&dout)?.1)?;
            return Ok(Some(tensor_of(dx, x.shape().clone())));
        }
        let dx = with_floats([x, &dout], |[x, dout]| {
            let mut dx = vec![0.0; x.len()];
            gelu::backward(x, dout, &mut dx);
            dx
        })?;
        tensor(dx, x.shape().clone()).map(Some)
    }
}
