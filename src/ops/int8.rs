//! Products and look-ups of weights in int8, by Keras' scheme (see [`crate::kernels::int8`]). They
//! are not trained; gradients of what they multiply pass the rounding as if there were none.

use candle_core::{Result, Tensor};

use super::weight::Weight;
use crate::kernels::int8;

/// `x [rows, in]` times `weight [out, in]` transposed, plus `bias [out]`, by candle's own operations.
/// `scales` are the weight's.
///
/// The whole numbers are held in float32, sums up to 2^24 exactly.
pub(super) fn linear(
    x: &Tensor,
    weight: &Weight,
    scales: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    // Adding this and taking it away rounds what is below 2^22 to whole numbers, ties to even.
    const ROUNDER: f64 = 12_582_912.0;
    let largest = (x.abs()?.max_keepdim(1)?.detach() + f64::from(int8::EPSILON))?;
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
pub(super) fn gather(
    weight: &Weight,
    scales: &Tensor,
    tokens: &[u32],
    out: &mut [f32],
) -> Result<()> {
    let (rows, width) = (weight.rows(), weight.columns());
    weight.with_int8(scales, |w| int8::gather_rows(w.packed, w.scales, rows, width, tokens, out))
}
