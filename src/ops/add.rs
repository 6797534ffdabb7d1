//! The sum of a residual connection whose norm stands elsewhere.

use candle_core::Result;

use super::hidden::Hidden;
use crate::kernels::elementwise;

/// `a + b`, both of one shape.
pub fn add(a: &Hidden, b: &Hidden) -> Result<Hidden> {
    if let (Some(x), Some(y)) = (a.floats(), b.floats()) {
        return Ok(Hidden::computed(a.rows(), a.width(), |out| elementwise::add(x, y, out)));
    }
    (a.tensor()? + b.tensor()?)?.try_into()
}
