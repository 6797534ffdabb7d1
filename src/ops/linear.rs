//! `y = x W^T + b`, and the same with GELU behind it.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, StorageRef, Tensor};

#[cfg(feature = "cuda")]
use super::card::Results;
use super::gradient::GradientBuffer;
use super::hidden::Hidden;
use super::weight::{HalfFormat, Weight, panels};
use super::{
    floats, frozen_linear, gelu, int8, on_cpu, round, slice, tensor, use_kernels, with_floats,
};
use crate::kernels::gelu as gelu_kernel;
use crate::kernels::gemm::{self, Epilogue, Layer, Numbers, Panels};
use crate::kernels::int8 as int8_kernel;
use crate::kernels::pool::{self, Buffer};

/// A weight `[out, in]` and its bias `[out]`.
pub type Affine<'a> = (&'a Weight, Option<&'a Tensor>);

/// `x [rows, in]` times `weight [out, in]` transposed, plus `bias [out]`. The weight says in which
/// numbers; sums and result are float32.
pub fn linear(x: &Hidden, weight: &Weight, bias: Option<&Tensor>) -> Result<Hidden> {
    #[cfg(feature = "cuda")]
    if let Some([y]) = super::card::linear_each(x, &[(weight, bias)], false, Results::Float32)? {
        return Ok(y);
    }
    let [y] = elsewhere(x, [(weight, bias)])?;
    Ok(y)
}

/// [`linear`] of several layers over the same inputs, side by side. A card may keep the results in the numbers of
/// the weights.
pub fn linear_each<const N: usize>(x: &Hidden, layers: [Affine<'_>; N]) -> Result<[Hidden; N]> {
    #[cfg(feature = "cuda")]
    if let Some(ys) = super::card::linear_each(x, &layers, false, Results::AsKept)? {
        return Ok(ys);
    }
    elsewhere(x, layers)
}

/// The same where no kernel of a card takes it.
fn elsewhere<const N: usize>(x: &Hidden, layers: [Affine<'_>; N]) -> Result<[Hidden; N]> {
    match x.floats() {
        Some(x) if layers.iter().all(by_kernel) => products(x, layers, Epilogue::None),
        _ => zip(layers, [(); N], |(weight, bias), ()| {
            x.by_candle(|x| linear_of_tensor(x, weight, bias, Epilogue::None))
        }),
    }
}

/// GELU of [`linear`], in one pass where no gradient is wanted, in one operation where it is.
pub fn linear_gelu(x: &Hidden, weight: &Weight, bias: &Tensor) -> Result<Hidden> {
    #[cfg(feature = "cuda")]
    if let Some([y]) = super::card::linear_each(x, &[(weight, Some(bias))], true, Results::AsKept)?
    {
        return Ok(y);
    }
    match x.floats() {
        Some(x) if by_kernel(&(weight, Some(bias))) => {
            let [y] = products(x, [(weight, Some(bias))], Epilogue::Gelu)?;
            Ok(y)
        }
        _ => x.by_candle(|x| linear_of_tensor(x, weight, Some(bias), Epilogue::Gelu)),
    }
}

/// Whether our kernels take a layer, and no gradient is wanted of it.
fn by_kernel((weight, bias): &Affine<'_>) -> bool {
    weight.is_packed() && !weight.stored().track_op() && !bias.is_some_and(Tensor::track_op)
}

/// Products without gradients by our kernels, in one region of the team. All weights are kept in the
/// same numbers.
pub(super) fn products<const N: usize>(
    x: &[f32],
    layers: [Affine<'_>; N],
    epilogue: Epilogue,
) -> Result<[Hidden; N]> {
    let inputs = layers.first().map_or(0, |(weight, _)| weight.columns());
    let rows = x.len() / inputs.max(1);
    let rounded = layers.iter().find_map(|(weight, _)| rounded(x, weight));
    let x = rounded.as_deref().unwrap_or(x);
    let operands = layers.map(Operands::new);
    let mut outs = layers.map(|(weight, _)| pool::buffer(rows * weight.rows()));
    if layers.iter().all(|(weight, _)| weight.scales().is_some()) {
        let layers = zip(operands.each_ref(), outs.each_mut(), Operands::int8_layer)?;
        int8_kernel::linear_each(x, rows, inputs, layers, epilogue);
    } else {
        let layers = zip(operands.each_ref(), outs.each_mut(), Operands::layer)?;
        gemm::linear_each(x, rows, inputs, layers, epilogue);
    }
    zip(outs, layers, |out, (weight, _)| Ok(Hidden::of(out, weight.rows())))
}

/// The inputs as a product with `weight` takes them, where it rounds them.
pub(super) fn rounded(x: &[f32], weight: &Weight) -> Option<Buffer> {
    weight.rounds_inputs().then(|| {
        let mut rounded = pool::buffer(x.len());
        HalfFormat::Bfloat16.round(x, &mut rounded);
        rounded
    })
}

/// A layer's tensors, held so that their floats can be read.
struct Operands<'a> {
    weight: &'a Weight,
    stored: (StorageRef<'a>, &'a Layout),
    scales: Option<(StorageRef<'a>, &'a Layout)>,
    bias: Option<(StorageRef<'a>, &'a Layout)>,
}

impl<'a> Operands<'a> {
    fn new((weight, bias): Affine<'a>) -> Self {
        Operands {
            weight,
            stored: weight.stored().storage_and_layout(),
            scales: weight.scales().map(Tensor::storage_and_layout),
            bias: bias.map(Tensor::storage_and_layout),
        }
    }

    fn layer<'o>(&'o self, out: &'o mut Buffer) -> Result<Layer<'o, Panels<'o>>> {
        let (stored, layout) = &self.stored;
        let w = panels(on_cpu(stored)?, layout, self.weight.rounded())?;
        Ok(Layer { w, n: self.weight.rows(), bias: held(&self.bias)?, out })
    }

    fn int8_layer<'o>(&'o self, out: &'o mut Buffer) -> Result<Layer<'o, int8_kernel::Weight<'o>>> {
        let (stored, layout) = &self.stored;
        let packed = slice(on_cpu(stored)?.as_slice()?, layout)?;
        let w = int8_kernel::Weight { packed, scales: held(&self.scales)?.unwrap_or_default() };
        Ok(Layer { w, n: self.weight.rows(), bias: held(&self.bias)?, out })
    }
}

/// The floats of a tensor that is held.
pub(super) fn held<'o>(tensor: &'o Option<(StorageRef<'_>, &Layout)>) -> Result<Option<&'o [f32]>> {
    tensor.as_ref().map(|(storage, layout)| floats(on_cpu(storage)?, layout)).transpose()
}

/// What `make` gives for each pair, without a vector in between.
fn zip<A, B, R, const N: usize>(
    a: [A; N],
    b: [B; N],
    mut make: impl FnMut(A, B) -> Result<R>,
) -> Result<[R; N]> {
    let (mut b, mut failure) = (b.into_iter(), None);
    let made = a.map(|a| match make(a, b.next()?) {
        Ok(result) => Some(result),
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(made.map(|result| result.expect("both have N, and none failed"))),
    }
}

/// [`linear`] of rows that gradients may go through, and what follows it.
fn linear_of_tensor(
    x: &Tensor,
    weight: &Weight,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    let by_card = super::card_product::product(x, weight)?;
    #[cfg(not(feature = "cuda"))]
    let by_card = None;
    let y = if let Some(y) = by_card {
        with_bias(y, bias)?
    } else if use_kernels(x) && weight.is_packed() && !weight.stored().track_op() {
        frozen_linear::linear(x, weight, bias)?
    } else if let Some(scales) = weight.scales() {
        int8::linear(x, weight, scales, bias)?
    } else {
        let x = &if weight.rounds_inputs() {
            round::rounded_tensor(x, HalfFormat::Bfloat16)?
        } else {
            x.clone()
        };
        if use_kernels(x) && weight.is_packed() {
            let (x, op) = (x.contiguous()?, TrainedLinear::new(weight, epilogue));
            return match bias {
                Some(bias) => x.apply_op3(weight.stored(), bias, op),
                None => x.apply_op2(weight.stored(), op),
            };
        }
        let weight = weight.dense_for_products()?;
        let y = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(x.dtype())?;
        with_bias(y, bias)?
    };
    match epilogue {
        Epilogue::None => Ok(y),
        Epilogue::Gelu => gelu::gelu(&y),
    }
}

fn with_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        #[cfg(feature = "cuda")]
        Some(bias) if super::card_training::takes(&y) => super::card_product::add_bias(&y, bias),
        Some(bias) => y.broadcast_add(&bias.to_dtype(y.dtype())?),
        None => Ok(y),
    }
}

/// A product with a weight that is trained, and what follows it.
pub(super) struct TrainedLinear {
    out_features: usize,
    rounded: Option<HalfFormat>,
    numbers: Numbers,
    gradient: Option<GradientBuffer>,
    epilogue: Epilogue,
    /// What GELU was taken of.
    inner: OnceLock<Vec<f32>>,
}

impl TrainedLinear {
    pub(super) fn new(weight: &Weight, epilogue: Epilogue) -> Self {
        TrainedLinear {
            out_features: weight.rows(),
            rounded: weight.rounded(),
            numbers: weight.numbers(),
            gradient: weight.gradient().cloned(),
            epilogue,
            inner: OnceLock::new(),
        }
    }

    /// The results, [rows, outputs], and their shape.
    pub(super) fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(Vec<f32>, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let shape = Shape::from((rows, self.out_features));
        let mut out = vec![0.0; shape.elem_count()];
        let w = panels(weight, weight_layout, self.rounded)?;
        let layer = Layer { w, n: self.out_features, bias, out: &mut out };
        let x = floats(x, x_layout)?;
        gemm::linear_each_in(self.numbers, x, rows, inputs, [layer], Epilogue::None);
        if self.epilogue == Epilogue::None {
            return Ok((out, shape));
        }
        let mut activated = vec![0.0; out.len()];
        gelu_kernel::forward(&out, &mut activated);
        let _ = self.inner.set(out);
        Ok((activated, shape))
    }

    /// Gradient of the product and its bias, given that of what follows.
    fn product_gradient(&self, dy: &Tensor) -> Result<Tensor> {
        let dy = dy.contiguous()?;
        if self.epilogue == Epilogue::None {
            return Ok(dy);
        }
        let Some(inner) = self.inner.get() else {
            candle_core::bail!("the backward of linear ran before its forward");
        };
        let mut dinner = vec![0.0; inner.len()];
        with_floats([&dy], |[dy]| gelu_kernel::backward(inner, dy, &mut dinner))?;
        tensor(dinner, dy.shape().clone())
    }

    /// Gradients of the input and of the packed weight.
    pub(super) fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let inputs = x.dims2()?.1;
        let dx = if x.track_op() {
            let gradient = |[weight]: [&[f32]; 1]| input_gradient(self.numbers, dy, weight, inputs);
            Some(with_floats([weight], gradient)??)
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
                gemm::linear_backward_weight(self.numbers, x, dy, rows, inputs, outputs, dweight);
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

/// The gradient `[rows, inputs]` of a product's input, for `dy [rows, outputs]` and the panels of its weight.
pub(super) fn input_gradient(
    numbers: Numbers,
    dy: &Tensor,
    weight: &[f32],
    inputs: usize,
) -> Result<Tensor> {
    let (rows, outputs) = dy.dims2()?;
    let mut dx = vec![0.0; rows * inputs];
    with_floats([dy], |[dy]| {
        gemm::linear_backward_input(numbers, dy, rows, outputs, weight, inputs, &mut dx);
    })?;
    tensor(dx, (rows, inputs))
}

impl CustomOp2 for TrainedLinear {
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
        let (out, shape) = self.forward((x, x_layout), (weight, weight_layout), None)?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, &self.product_gradient(dy)?)
    }
}

impl CustomOp3 for TrainedLinear {
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
        let bias = Some(floats(bias, bias_layout)?);
        let (out, shape) = self.forward((x, x_layout), (weight, weight_layout), bias)?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = self.product_gradient(dy)?;
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
