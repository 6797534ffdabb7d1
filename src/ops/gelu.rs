//! GELU, exact: `x * Phi(x)` with the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{floats, tensor, use_kernels, with_floats};
use crate::kernels::gelu;

/// `x * Phi(x)`, element by element.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if use_kernels(x) {
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

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let dout = dout.contiguous()?;
        let dx = with_floats([x, &dout], |[x, dout]| {
            let mut dx = vec![0.0; x.len()];
            gelu::backward(x, dout, &mut dx);
            dx
        })?;
        tensor(dx, x.shape().clone()).map(Some)
    }
}
