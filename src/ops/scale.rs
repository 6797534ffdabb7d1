//! Rows times a number.

use candle_core::Result;

use super::hidden::Hidden;

/// `x * factor`
pub fn scale(x: Hidden, factor: f32) -> Result<Hidden> {
    if factor == 1.0 {
        return Ok(x);
    }
    if let Some(floats) = x.floats() {
        let times = |out: &mut [f32]| out.iter_mut().zip(floats).for_each(|(y, x)| *y = x * factor);
        return Ok(Hidden::computed(x.rows(), x.width(), times));
    }
    (x.tensor()? * f64::from(factor))?.try_into()
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_way;
    use super::*;

    #[test]
    fn both_ways_scale_alike() {
        for factor in [1.0, -0.5] {
            let both = in_way(|| {
                let write = |out: &mut [f32]| (0..6).for_each(|i| out[i] = i as f32);
                let scaled = scale(Hidden::new(2, 3, write).unwrap(), factor).unwrap();
                scaled.read(<[f32]>::to_vec).unwrap()
            });
            assert_eq!(both.kernel, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0].map(|x| x * factor));
            assert_eq!(both.kernel, both.portable);
        }
    }
}
