//! Activations. Those other than GELU, which BART itself does not have, are candle's own operations on
//! every device.

use candle_core::Result;

use super::hidden::Hidden;

/// GELU on its own; [`linear_gelu`](super::linear::linear_gelu) has it behind a product.
pub fn gelu(x: &Hidden) -> Result<Hidden> {
    x.by_candle(super::gelu::gelu)
}

/// GELU with a hyperbolic tangent (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2).
pub fn gelu_new(x: &Hidden) -> Result<Hidden> {
    x.by_candle(|x| x.gelu())
}

/// `x * sigmoid(1.702 x)`, the coarser approximation of the same paper.
pub fn quick_gelu(x: &Hidden) -> Result<Hidden> {
    // sigmoid(z) = (1 + tanh(z / 2)) / 2, which has a gradient for every z.
    x.by_candle(|x| x * (x * (0.5 * 1.702))?.tanh()?.affine(0.5, 0.5)?)
}

/// `max(x, 0)`.
pub fn relu(x: &Hidden) -> Result<Hidden> {
    x.by_candle(|x| x.relu())
}

/// `x * sigmoid(x)` (Elfwing et al. 2017, arXiv:1702.03118).
pub fn silu(x: &Hidden) -> Result<Hidden> {
    x.by_candle(|x| x.silu())
}

/// The hyperbolic tangent.
pub fn tanh(x: &Hidden) -> Result<Hidden> {
    x.by_candle(|x| x.tanh())
}
