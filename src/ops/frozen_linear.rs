//! `y = x W^T + b` of a weight that is not trained, within a pass that wants gradients of `x`: weights of
//! any precision, the bits of a pass without gradients, and half a backward.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::floats;
use super::linear::{input_gradient, products};
use super::weight::Weight;
use crate::kernels::gemm::{Epilogue, Numbers};

/// `x [rows, in]` times `weight [out, in]` transposed, plus `bias [out]`.
///
/// The gradient passes roundings of inputs as if there were none (Bengio et al. 2013,
/// arXiv:1308.3432, the straight-through estimator).
pub(super) fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    match bias {
        Some(bias) if bias.track_op() => {
            x.apply_op1(FrozenLinear { weight: weight.clone(), bias: None })?.broadcast_add(bias)
        }
        _ => x.apply_op1(FrozenLinear { weight: weight.clone(), bias: bias.cloned() }),
    }
}

struct FrozenLinear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen_linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = layout.shape().dims2()?.0;
        let layer = (&self.weight, self.bias.as_ref());
        let [y] = products(floats(x, layout)?, [layer], Epilogue::None)?;
        let y = y.read(<[f32]>::to_vec)?;
        Ok((CpuStorage::F32(y), Shape::from((rows, self.weight.rows()))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let inputs = x.dims2()?.1;
        let dy = dy.contiguous()?;
        let gradient = |weight: &[f32]| input_gradient(Numbers::Float32, &dy, weight, inputs);
        self.weight.with_float_panels(gradient)?.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::weight::{HalfFormat, half_floats};
    use super::super::{int8, tensor};
    use super::*;
    use crate::kernels::int8 as kernel;
    use crate::kernels::pack;
    use crate::kernels::testing::noise;
    use candle_core::{Device, Var};

    const ROWS: usize = 5;
    const INPUTS: usize = 19;
    const OUTPUTS: usize = 37;

    /// The weight in every precision that is kept.
    fn weights(values: &[f32]) -> Vec<(&'static str, Weight)> {
        let floats = Weight::pack(values, OUTPUTS, INPUTS);
        let shape = Weight::panel_shape(OUTPUTS, INPUTS);
        let plain = Tensor::from_vec(floats.clone(), shape, &Device::Cpu).unwrap();
        let mut bits = vec![0; pack::packed_len(OUTPUTS, INPUTS)];
        HalfFormat::Bfloat16.narrow(&floats, &mut bits);
        let half = half_floats(bits, shape, HalfFormat::Bfloat16).unwrap().as_detached_tensor();
        let mut bytes = vec![0; kernel::packed_len(OUTPUTS, INPUTS)];
        let mut scales = vec![0.0; OUTPUTS];
        let read = |first: usize, run: &mut [f32]| {
            run.copy_from_slice(&values[first..][..run.len()]);
            Ok::<_, ()>(())
        };
        kernel::quantize_rows(OUTPUTS, INPUTS, &mut bytes, &mut scales, &read).unwrap();
        let shape = kernel::packed_shape(OUTPUTS, INPUTS);
        let bytes = Tensor::from_vec(bytes, shape, &Device::Cpu).unwrap();
        let scales = tensor(scales, OUTPUTS).unwrap();
        vec![
            ("float32", Weight::new(plain, OUTPUTS, INPUTS)),
            ("bfloat16", Weight::new(half, OUTPUTS, INPUTS)),
            ("int8", Weight::int8(bytes, scales, OUTPUTS, INPUTS)),
        ]
    }

    #[test]
    fn the_gradient_is_that_of_candle_in_every_precision() {
        let values = noise(OUTPUTS * INPUTS, 1);
        let x = Var::from_vec(noise(ROWS * INPUTS, 2), (ROWS, INPUTS), &Device::Cpu).unwrap();
        let bias = tensor(noise(OUTPUTS, 3), OUTPUTS).unwrap();
        let upstream = tensor(noise(ROWS * OUTPUTS, 4), (ROWS, OUTPUTS)).unwrap();
        for (name, weight) in weights(&values) {
            let gradient = |y: &Tensor| {
                let loss = (y * &upstream).unwrap().sum_all().unwrap();
                let store = loss.backward().unwrap();
                store.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let by_kernel = gradient(&linear(&x, &weight, Some(&bias)).unwrap());
            let by_candle = match weight.scales() {
                Some(scales) => int8::linear(&x, &weight, scales, Some(&bias)).unwrap(),
                None => x.matmul(&weight.dense().unwrap().t().unwrap()).unwrap(),
            };
            for (a, b) in by_kernel.iter().zip(gradient(&by_candle)) {
                assert!((a - b).abs() < 2e-5, "{name}: {a} {b}");
            }
        }
    }
}
