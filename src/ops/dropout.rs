//! Dropout (Srivastava et al. 2014) with a mask that depends on seed, stream and element only, so
//! that every device, thread count and way of computing draws the same one.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::card_training;
use super::hidden::Hidden;
use super::{floats, have_kernels, tensor, with_floats};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::tensor_of;
use crate::kernels::dropout as kernel;

pub use crate::kernels::dropout::Dropout;

/// Sets elements to zero with the draw's probability and divides the rest by its complement.
pub fn dropout(x: Hidden, draw: Dropout) -> Result<Hidden> {
    if draw.probability == 0.0 {
        return Ok(x);
    }
    x.by_candle(|x| {
        if have_kernels(x) {
            return x.contiguous()?.apply_op1(Drop(draw));
        }
        x * factors(draw, x)?.to_dtype(x.dtype())?
    })
}

/// What each element of `x` is multiplied by.
fn factors(draw: Dropout, x: &Tensor) -> Result<Tensor> {
    let factors: Vec<f32> = (0..x.elem_count() as u64).map(|i| draw.factor(i)).collect();
    Tensor::from_vec(factors, x.shape().clone(), x.device())
}

struct Drop(Dropout);

impl Drop {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        kernel::apply(&self.0, x, &mut out);
        out
    }
}

impl CustomOp1 for Drop {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(floats(x, layout)?)), layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (card, x) = card_training::stored(x, layout)?;
        Ok((card.dropout(x, self.0)?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let dout = dout.contiguous()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let (card, slopes) = card_training::floats(&dout)?;
            return Ok(Some(tensor_of(card.dropout(slopes, self.0)?, x.shape().clone())));
        }
        let dx = with_floats([&dout], |[dout]| self.apply(dout))?;
        tensor(dx, x.shape().clone()).map(Some)
    }
}
