//! Products and look-ups of weights in int8, by Keras' scheme (see [`crate::kernels::int8`]). There
//! is no backward: such a model is not trained.

use candle_core::{Result, Tensor};

use super::weight::Weight;
use super::{gelu, tensor, use_kernels, with_floats};
use crate::kernels::gemm::Epilogue;
use crate::kernels::int8;

/// `x [rows, in]` times `weight [out, in]` transposed, plus `bias [out]`; GELU behind it if asked.
/// `scales` are the weight's.
pub(super) fn linear(
    x: &Tensor,
    weight: &Weight,
    scales: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Tensor> {
    if !use_kernels(x) {
        let y = portable_linear(x, weight, scales, bias)?;
        return if epilogue == Epilogue::Gelu { gelu::gelu(&y) } else { Ok(y) };
    }
    let ((rows, inputs), outputs) = (x.dims2()?, weight.rows());
    let mut out = vec![0.0; rows * outputs];
    weight.with_int8(scales, |w| {
        let mut product = |x: &[f32], bias: Option<&[f32]>| {
            int8::linear(x, rows, inputs, w, outputs, bias, epilogue, &mut out);
        };
        match bias {
            Some(bias) => with_floats([&x.contiguous()?, bias], |[x, bias]| product(x, Some(bias))),
            None => with_floats([&x.contiguous()?], |[x]| product(x, None)),
        }
    })??;
    tensor(out, (rows, outputs))
}

/// The same in whole numbers that float32 holds, up to sums of 2^24 exactly.
fn portable_linear(
    x: &Tensor,
    weight: &Weight,
    scales: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    // Adding this and taking it away rounds what is below 2^22 to whole numbers, ties to even.
    const ROUNDER: f64 = 12_582_912.0;
    let largest = (x.abs()?.max_keepdim(1)? + f64::from(int8::EPSILON))?;
    let x_scales = largest.ones_like()?.affine(f64::from(int8::LARGEST), 0.0)?.div(&largest)?;
    let x = ((x.broadcast_mul(&x_scales)? + ROUNDER)? - ROUNDER)?;
    let sums = x.matmul(&weight.dense()?.t()?)?;
    let y = sums.div(&x_scales.broadcast_mul(&scales.unsqueeze(0)?)?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// Rows `tokens` of a table `[vocabulary, width]`, by our kernels.
pub(super) fn gather(weight: &Weight, scales: &Tensor, tokens: &[u32]) -> Result<Vec<f32>> {
    let (rows, width) = (weight.rows(), weight.columns());
    let mut out = vec![0.0; tokens.len() * width];
    weight.with_int8(scales, |w| {
        int8::gather_rows(w.packed, w.scales, rows, width, tokens, &mut out);
    })?;
    Ok(out)
}
