//! Rounding to 16 bits and back: what inputs of some products go through, and keys and values that
//! a cache keeps in 16 bits.

use candle_core::{DType, Result, Tensor};

use super::weight::{HalfFormat, dtype};
use super::{tensor, use_kernels, wants_gradient, with_floats};

/// `x` in float32, each element rounded to `format`.
pub fn rounded(x: &Tensor, format: HalfFormat) -> Result<Tensor> {
    if !use_kernels(x) || wants_gradient(&[x]) {
        return x.to_dtype(dtype(format))?.to_dtype(DType::F32);
    }
    let out = with_floats([&x.contiguous()?], |[x]| {
        let mut out = vec![0.0; x.len()];
        format.round(x, &mut out);
        out
    })?;
    tensor(out, x.shape().clone())
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
                let x = tensor(values.clone(), (8, values.len() / 8)).unwrap();
                rounded(&x, format).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            });
            assert_eq!(both.kernel, both.portable);
        }
    }
}
