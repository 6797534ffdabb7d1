//! Rounding to 16 bits and back: what inputs of some products go through, and keys and values that
//! a cache keeps in 16 bits.

use candle_core::{Result, Tensor};

use super::hidden::Hidden;
use super::weight::{HalfFormat, dtype};

/// `x`, each element rounded to `format`.
pub fn rounded(x: &Hidden, format: HalfFormat) -> Result<Hidden> {
    #[cfg(feature = "cuda")]
    if let Some(rounded) = super::card::rounded(x, format)? {
        return Ok(rounded);
    }
    match x.floats() {
        Some(floats) => Ok(Hidden::computed(x.rows(), x.width(), |out| format.round(floats, out))),
        None => rounded_tensor(&x.tensor()?, format)?.try_into(),
    }
}

/// The same by candle's own operations.
pub(super) fn rounded_tensor(x: &Tensor, format: HalfFormat) -> Result<Tensor> {
    x.to_dtype(dtype(format))?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_way;
    use super::*;
    use crate::kernels::testing::noise;

    #[test]
    fn both_ways_round_alike() {
        let mut values = noise(40_000, 3);
        values.extend([0.0, -0.0, 1e-40, -1e-40, 6e-8, 65_519.0, 3.4e38, f32::INFINITY]);
        for format in [HalfFormat::Float16, HalfFormat::Bfloat16] {
            let both = in_way(|| {
                let write = |out: &mut [f32]| out.copy_from_slice(&values);
                let x = Hidden::new(8, values.len() / 8, write).unwrap();
                rounded(&x, format).unwrap().read(<[f32]>::to_vec).unwrap()
            });
            assert_eq!(both.kernel, both.portable);
        }
    }
}
