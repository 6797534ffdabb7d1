//! Dropout (Srivastava et al. 2014) with a mask that depends on seed, stream and element only, so
//! that every device, thread count and way of computing draws the same one.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{floats, tensor, use_kernels, with_floats};
use crate::kernels::elementwise;

/// One draw of dropout: which elements stay is a function of these numbers and the element's index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability of setting an element to zero.
    pub probability: f32,
    /// Seed of the training step.
    pub seed: u64,
    /// Which dropout of the step this is.
    pub stream: u64,
}

/// Sets elements to zero with `dropout.probability` and scales the rest by `1 / (1 - p)`.
pub fn dropout(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    match dropout {
        None => Ok(x.clone()),
        Some(dropout) if dropout.probability == 0.0 => Ok(x.clone()),
        Some(dropout) if use_kernels(x) => x.contiguous()?.apply_op1(Masked(dropout)),
        Some(dropout) => {
            let mut mask = vec![1.0; x.elem_count()];
            elementwise::dropout(&mut mask, dropout.probability, dropout.seed, dropout.stream);
            x * Tensor::from_vec(mask, x.shape().clone(), x.device())?.to_dtype(x.dtype())?
        }
    }
}

struct Masked(Dropout);

impl Masked {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut out = x.to_vec();
        elementwise::dropout(&mut out, self.0.probability, self.0.seed, self.0.stream);
        out
    }
}

impl CustomOp1 for Masked {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(floats(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let dout = dout.contiguous()?;
        let dx = with_floats([&dout], |[dout]| self.apply(dout))?;
        tensor(dx, x.shape().clone()).map(Some)
    }
}
