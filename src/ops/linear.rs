//! `y = x W^T + b`, and the same with GELU behind it.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::gradient::GradientBuffer;
use super::weight::{HalfFormat, Weight, panels};
use super::{floats, gelu, int8, round, tensor, use_kernels, wants_gradient, with_floats};
use crate::kernels::gemm::{self, Epilogue};

/// `x [rows, in]` times `weight [out, in]` transposed, plus `bias [out]`. The weight says in which
/// numbers; sums and result are float32.
pub fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    if let Some(scales) = weight.scales() {
        return int8::linear(x, weight, scales, bias, Epilogue::None);
    }
    let x = &inputs(x, weight)?;
    if use_kernels(x) && weight.is_packed() {
        let x = x.contiguous()?;
        let op = Linear::new(weight, Epilogue::None);
        return match bias {
            Some(bias) => x.apply_op3(weight.stored(), bias, op),
            None => x.apply_op2(weight.stored(), op),
        };
    }
    let y = x.matmul(&weight.dense_for_products()?.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// GELU of [`linear`], in one pass where no gradient is wanted.
pub fn linear_gelu(x: &Tensor, weight: &Weight, bias: &Tensor) -> Result<Tensor> {
    let fused =
        use_kernels(x) && weight.is_packed() && !wants_gradient(&[x, weight.stored(), bias]);
    if !fused {
        return gelu::gelu(&linear(x, weight, Some(bias))?);
    }
    if let Some(scales) = weight.scales() {
        return int8::linear(x, weight, scales, Some(bias), Epilogue::Gelu);
    }
    let op = Linear::new(weight, Epilogue::Gelu);
    inputs(x, weight)?.contiguous()?.apply_op3_no_bwd(weight.stored(), bias, &op)
}

/// `x` as a product with `weight` takes it.
fn inputs(x: &Tensor, weight: &Weight) -> Result<Tensor> {
    if weight.rounds_inputs() {
        return round::rounded(x, HalfFormat::Bfloat16);
    }
    Ok(x.clone())
}

struct Linear {
    out_features: usize,
    rounded: Option<HalfFormat>,
    epilogue: Epilogue,
    gradient: Option<GradientBuffer>,
}

impl Linear {
    fn new(weight: &Weight, epilogue: Epilogue) -> Self {
        Linear {
            out_features: weight.rows(),
            rounded: weight.rounded(),
            epilogue,
            gradient: weight.gradient().cloned(),
        }
    }

    fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let bias = bias.map(|(bias, layout)| floats(bias, layout)).transpose()?;
        let mut out = vec![0.0; rows * self.out_features];
        gemm::linear(
            floats(x, x_layout)?,
            rows,
            inputs,
            panels(weight, weight_layout, self.rounded)?,
            self.out_features,
            bias,
            self.epilogue,
            &mut out,
        );
        Ok((CpuStorage::F32(out), Shape::from((rows, self.out_features))))
    }

    /// Gradients of the input and of the packed weight.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, inputs) = x.dims2()?;
        let outputs = self.out_features;
        let dx = if x.track_op() {
            let dx = with_floats([dy, weight], |[dy, weight]| {
                let mut dx = vec![0.0; rows * inputs];
                gemm::linear_backward_input(dy, rows, outputs, weight, inputs, &mut dx);
                dx
            })?;
            Some(tensor(dx, (rows, inputs))?)
        } else {
            None
        };
        let dweight = if weight.track_op() { self.weight_gradient(x, weight, dy)? } else { None };
        Ok((dx, dweight))
    }

    /// The gradient of the packed weight; `None` if it went into the weight's buffer.
    fn weight_gradient(&self, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let ((rows, inputs), outputs) = (x.dims2()?, self.out_features);
        let count = weight.elem_count();
        with_floats([x, dy], |[x, dy]| {
            let write = |dweight: &mut [f32]| {
                gemm::linear_backward_weight(x, dy, rows, inputs, outputs, dweight);
            };
            if let Some(buffer) = &self.gradient {
                buffer.add_dense(count, write);
                return Ok(None);
            }
            let mut dweight = vec![0.0; count];
            write(&mut dweight);
            tensor(dweight, weight.shape().clone()).map(Some)
        })?
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, &dy.contiguous()?)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear_bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (dx, dweight) = self.backward(x, weight, &dy)?;
        if !bias.track_op() {
            return Ok((dx, dweight, None));
        }
        let (rows, outputs) = dy.dims2()?;
        let dbias = with_floats([&dy], |[dy]| {
            let mut dbias = vec![0.0; outputs];
            gemm::column_sums(dy, rows, outputs, &mut dbias);
            dbias
        })?;
        Ok((dx, dweight, Some(tensor(dbias, outputs)?)))
    }
}
