//! The language-model head over rows of floats: all scores, or only what a choice among them needs.
//!
//! What a generation calls for every token. So it takes slices, and writes into memory that is kept.

use candle_core::{Result, Tensor};

use super::weight::{HalfFormat, Weight, panels};
use super::{floats, linear, on_cpu, tensor, with_floats};
pub use crate::kernels::best::{Ask, Best};
use crate::kernels::gemm::{self, Epilogue};
use crate::kernels::int8;
use crate::kernels::screen::Screening;

/// Memory that is kept from one call to the next.
#[derive(Debug, Default)]
pub struct Buffers {
    /// Inputs as a product takes them, where it rounds them.
    rounded: Vec<f32>,
    screening: Screening,
}

impl Buffers {
    /// `x` as a product with `weight` takes it, and the rest.
    fn inputs<'a>(&'a mut self, x: &'a [f32], weight: &Weight) -> (&'a [f32], &'a mut Screening) {
        if !weight.rounds_inputs() {
            return (x, &mut self.screening);
        }
        self.rounded.resize(x.len(), 0.0);
        HalfFormat::Bfloat16.round(x, &mut self.rounded);
        (&self.rounded, &mut self.screening)
    }
}

/// All scores `[rows, outputs]` of `x [rows, inputs]`, in `out`: those of [`linear::linear`].
pub fn scores(
    x: &[f32],
    weight: &Weight,
    bias: Option<&Tensor>,
    buffers: &mut Buffers,
    out: &mut Vec<f32>,
) -> Result<()> {
    let (inputs, outputs) = (weight.columns(), weight.rows());
    let rows = x.len() / inputs.max(1);
    if !has_kernel(weight) {
        let y = linear::linear(&tensor(x.to_vec(), (rows, inputs))?, weight, bias)?;
        out.clear();
        return with_floats([&y.contiguous()?], |[y]| out.extend_from_slice(y));
    }
    out.resize(rows * outputs, 0.0);
    with_bias(bias, |bias| {
        if let Some(scales) = weight.scales() {
            return weight.with_int8(scales, |w| {
                int8::linear(x, rows, inputs, w, outputs, bias, Epilogue::None, out);
            });
        }
        let (x, _) = buffers.inputs(x, weight);
        let (stored, layout) = weight.stored().storage_and_layout();
        let w = panels(on_cpu(&stored)?, layout, weight.rounded())?;
        gemm::linear(x, rows, inputs, w, outputs, bias, Epilogue::None, out);
        Ok(())
    })?
}

/// What `ask` asks of the first `limit` scores of each row, with the bits of [`scores`]. `false` if it is
/// not to be had this way: there is no kernel, or a score is not a finite number.
pub fn best(
    x: &[f32],
    weight: &Weight,
    bias: Option<&Tensor>,
    (limit, ask): (usize, Ask),
    buffers: &mut Buffers,
    best: &mut Best,
) -> Result<bool> {
    if !has_kernel(weight) {
        return Ok(false);
    }
    let inputs = weight.columns();
    let (rows, limit) = (x.len() / inputs.max(1), limit.min(weight.rows()));
    with_bias(bias, |bias| {
        if let Some(scales) = weight.scales() {
            return weight.with_int8(scales, |w| {
                int8::linear_best(x, rows, inputs, w, limit, bias, ask, best)
            });
        }
        let (x, screening) = buffers.inputs(x, weight);
        let (stored, layout) = weight.stored().storage_and_layout();
        let w = panels(on_cpu(&stored)?, layout, weight.rounded())?;
        if let Some(screen) = weight.screen().filter(|_| !ask.log_sum) {
            let found = screen.with(w, (weight.rows(), inputs), |screen| {
                screen.linear_best(x, w, limit, bias, ask.count, screening, best)
            });
            if found {
                return Ok(true);
            }
        }
        Ok(gemm::linear_best(x, rows, inputs, w, limit, bias, ask, best))
    })?
}

/// Whether a kernel computes with this weight.
fn has_kernel(weight: &Weight) -> bool {
    super::way() == super::Way::Kernel && weight.is_packed() && weight.stored().device().is_cpu()
}

/// Calls `work` with the floats of a bias, if there is one.
fn with_bias<R>(bias: Option<&Tensor>, work: impl FnOnce(Option<&[f32]>) -> R) -> Result<R> {
    match bias {
        None => Ok(work(None)),
        Some(bias) => {
            let (storage, layout) = bias.storage_and_layout();
            Ok(work(Some(floats(on_cpu(&storage)?, layout)?)))
        }
    }
}
