//! Trained tensors under the names of Hugging Face's checkpoints, and how they are first drawn.

use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernels::{int8, pack, team};
use crate::ops::gradient::GradientBuffer;
use crate::ops::screen::LazyScreen;
use crate::ops::weight::{self, HalfFormat, Weight};
use crate::ops::with_floats;
use crate::random;

use super::pass::Pass;
use super::precision::Precision;

/// How parameters start.
#[derive(Debug, Clone, Copy)]
pub enum Initialisation {
    /// All zero: weights are loaded next.
    Zeros,
    /// Drawn as keras-hub does: truncated normal for matrices, zeros for biases, ones for norms.
    Random {
        /// Seed of the draw.
        seed: u64,
        /// Standard deviation before truncation at twice its value.
        deviation: f64,
    },
}

/// Values that one thread draws at a time.
const DRAWN_AT_ONCE: usize = 1 << 16;

/// One trained tensor.
#[derive(Debug)]
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    layout: StoredLayout,
    /// The 16 bits its values are rounded to; those of a vector have 32 all the same.
    kept_in: Option<HalfFormat>,
    /// What products round it to.
    rounded: Option<HalfFormat>,
    var: Var,
    /// The same storage without gradient tracking.
    frozen: Tensor,
    gradient: GradientBuffer,
    /// Place for a coarse copy, where it is multiplied for the best of its outputs.
    screen: Arc<LazyScreen>,
}

/// How the values of a parameter lie in its tensor.
#[derive(Debug)]
enum StoredLayout {
    /// Floats, as they are.
    Plain,
    /// Panels of floats of 32 bits, or of 16.
    Panels,
    /// Bytes, with these scales of the rows.
    Int8(Tensor),
}

impl Parameter {
    /// Its name in Hugging Face's checkpoints, without the prefix `model.`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape in Hugging Face's checkpoints (`[out, in]` for matrices).
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its values in a file of the model's precision.
    pub fn bytes(&self) -> usize {
        match (&self.layout, self.kept_in) {
            (StoredLayout::Int8(scales), _) => self.count() + 4 * scales.elem_count(),
            (_, Some(_)) => 2 * self.count(),
            (_, None) => 4 * self.count(),
        }
    }

    /// The variable that the optimizer changes, in the layout it is stored in.
    pub fn var(&self) -> &Var {
        &self.var
    }

    /// The stored tensor, tracked if `pass` is for training.
    pub fn tensor(&self, pass: &Pass) -> &Tensor {
        if pass.is_training() { self.var.as_tensor() } else { &self.frozen }
    }

    /// The same as a matrix. Training computes with the float32 weights as they are.
    pub fn weight(&self, pass: &Pass) -> Weight {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        if let StoredLayout::Int8(scales) = &self.layout {
            return Weight::int8(self.frozen.clone(), scales.clone(), rows, columns);
        }
        let weight = Weight::new(self.tensor(pass).clone(), rows, columns);
        match self.rounded {
            _ if pass.is_training() => weight.gathering_in(self.gradient.clone()),
            Some(format) => weight.rounded_to(format).screened_by(self.screen.clone()),
            None => weight.screened_by(self.screen.clone()),
        }
    }

    /// Where the gradient of a matrix gathers in a backward pass by our kernels.
    pub fn gradient(&self) -> &GradientBuffer {
        &self.gradient
    }

    /// A copy of the values as float32, row-major in [`Self::shape`].
    pub fn values(&self) -> Result<Vec<f32>> {
        match &self.layout {
            StoredLayout::Plain => Ok(with_floats([&self.frozen], |[stored]| stored.to_vec())?),
            StoredLayout::Panels => Ok(weight::rows(&self.frozen, self.shape[0], self.shape[1])?),
            StoredLayout::Int8(_) => {
                let (values, scales) = self.int8_values()?.expect("its layout is int8");
                let columns = self.shape[1].max(1);
                let scaled = values.iter().enumerate();
                Ok(scaled.map(|(i, &value)| f32::from(value) / scales[i / columns]).collect())
            }
        }
    }

    /// A copy of floats in the layout of this parameter (a gradient, say), row-major in
    /// [`Self::shape`].
    pub fn rows_of(&self, stored: &[f32]) -> Vec<f32> {
        if !matches!(self.layout, StoredLayout::Panels) {
            return stored.to_vec();
        }
        let mut rows = vec![0.0; self.count()];
        pack::to_rows(stored, self.shape[0], self.shape[1], &mut rows);
        rows
    }

    /// Replaces the values by `values`, row-major in [`Self::shape`], in the model's precision.
    ///
    /// # Errors
    /// [`Error::Weights`] if their number differs, or the precision cannot hold one.
    pub fn assign(&self, values: &[f32]) -> Result<()> {
        if values.len() != self.count() {
            let (got, want) = (values.len(), &self.shape);
            return Err(Error::Weights(format!(
                "`{}` has shape {want:?}, received {got} values",
                self.name
            )));
        }
        self.check(values)?;
        let mut rest = values;
        self.assign_from(|run| {
            let (values, later) = rest.split_at(run.len());
            run.copy_from_slice(values);
            rest = later;
            Ok(())
        })
    }

    /// Replaces the values as they are read: `read` fills each run of them, in row-major order, so
    /// that a matrix is never held a second time.
    ///
    /// # Errors
    /// What `read` returns, or [`Error::Weights`] if the precision cannot hold a value; values
    /// before the failure are replaced, later ones are not.
    pub fn assign_from(&self, mut read: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        let mut outcome = Ok(());
        let mut read = |run: &mut [f32]| {
            read(run)?;
            self.check(run)
        };
        self.change(|stored| {
            outcome = match (&self.layout, stored) {
                (StoredLayout::Plain, CpuStorage::F32(stored)) => {
                    let read = read(stored);
                    if let Some(format) = self.kept_in {
                        let values = stored.clone();
                        format.round(&values, stored);
                    }
                    read
                }
                (StoredLayout::Int8(scales), CpuStorage::U8(stored)) => {
                    self.quantize(stored, scales, &mut read)
                }
                (_, stored) => {
                    weight::from_row_runs(stored, self.shape[0], self.shape[1], &mut read)
                }
            };
        })?;
        outcome
    }

    fn quantize(
        &self,
        stored: &mut [u8],
        scales: &Tensor,
        read: impl FnMut(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let (mut outcome, mut read) = (Ok(()), Some(read));
        let (rows, columns) = (self.shape[0], self.shape[1]);
        change(scales, |scales| {
            if let (CpuStorage::F32(scales), Some(read)) = (scales, read.take()) {
                outcome = int8::from_row_runs(rows, columns, stored, scales, read);
            }
        })?;
        outcome
    }

    /// Whether it is a matrix in int8.
    pub fn is_int8(&self) -> bool {
        matches!(self.layout, StoredLayout::Int8(_))
    }

    /// The values and scales of a matrix in int8, row-major; `None` for another parameter.
    pub fn int8_values(&self) -> Result<Option<(Vec<i8>, Vec<f32>)>> {
        let StoredLayout::Int8(scales) = &self.layout else { return Ok(None) };
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let copy =
            |w: int8::Weight<'_>| (int8::to_rows(w.packed, rows, columns), w.scales.to_vec());
        Ok(Some(self.weight(&Pass::inference()).with_int8(scales, copy)?))
    }

    /// Replaces a matrix in int8 by `values`, row-major, and `scales` of its rows: Keras', which
    /// divide.
    ///
    /// # Errors
    /// [`Error::Weights`] if this is no matrix in int8, a length differs, a value is -128, or a scale is
    /// not above zero and finite.
    pub fn assign_int8(&self, values: &[i8], scales: &[f32]) -> Result<()> {
        let wrong = |what: String| Err(Error::Weights(format!("`{}` {what}", self.name)));
        let StoredLayout::Int8(stored_scales) = &self.layout else {
            return wrong("is not kept in int8".to_string());
        };
        let (rows, columns) = (self.shape[0], self.shape[1]);
        if values.len() != self.count() || scales.len() != rows {
            let (got, of) = (values.len(), scales.len());
            return wrong(format!(
                "has shape {:?}, received {got} values, {of} scales",
                self.shape
            ));
        }
        if let Some(scale) = scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
            return wrong(format!("has the scale {scale}: scales are finite and above 0"));
        }
        if values.contains(&i8::MIN) {
            return wrong("has the value -128: quantised values are from -127 to 127".to_string());
        }
        self.change(|stored| {
            if let CpuStorage::U8(stored) = stored {
                int8::from_rows(values, rows, columns, stored);
            }
        })?;
        change(stored_scales, |stored| {
            if let CpuStorage::F32(stored) = stored {
                stored.copy_from_slice(scales);
            }
        })
    }

    /// Refuses values that the precision cannot hold.
    ///
    /// # Errors
    /// [`Error::Weights`]
    pub fn check(&self, values: &[f32]) -> Result<()> {
        if matches!(self.layout, StoredLayout::Int8(_)) {
            return match values.iter().find(|value| !value.is_finite()) {
                None => Ok(()),
                Some(value) => Err(Error::Weights(format!(
                    "`{}` has the value {value}, which int8 cannot hold",
                    self.name
                ))),
            };
        }
        let Some(format) = self.kept_in else { return Ok(()) };
        match values.iter().find(|value| format.overflows(**value)) {
            None => Ok(()),
            Some(value) => Err(Error::Weights(format!(
                "`{}` has the value {value}, which the model's 16 bits cannot hold\n\
                 hint: dtype=\"bfloat16\" and \"float32\" hold larger ones",
                self.name
            ))),
        }
    }

    /// Changes the stored floats in place.
    ///
    /// # Errors
    /// That of the tensor library if they are not float32, as all that is trained is.
    pub fn update(&self, mut change: impl FnMut(&mut [f32])) -> Result<()> {
        let mut floats = false;
        self.change(|stored| {
            if let CpuStorage::F32(stored) = stored {
                floats = true;
                change(stored);
            }
        })?;
        if floats { Ok(()) } else { Err(Error::Weights(format!("`{}` is not float32", self.name))) }
    }

    fn change(&self, mut work: impl FnMut(&mut CpuStorage)) -> Result<()> {
        change(&self.frozen, |stored| {
            self.screen.forget();
            work(stored);
        })
    }
}

/// Changes a CPU tensor in place.
fn change(tensor: &Tensor, work: impl FnMut(&mut CpuStorage)) -> Result<()> {
    Ok(tensor.inplace_op1(&Update(std::sync::Mutex::new(work)))?)
}

/// An in-place change of a CPU tensor.
struct Update<F>(std::sync::Mutex<F>);

impl<F: FnMut(&mut CpuStorage)> InplaceOp1 for Update<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> candle_core::Result<()> {
        let mut change = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (change)(storage);
        Ok(())
    }
}

/// Makes parameters and keeps their list, in the order of the checkpoint.
#[derive(Debug)]
pub struct Parameters {
    initialisation: Initialisation,
    precision: Precision,
    list: Vec<Arc<Parameter>>,
    taken_over: Vec<Arc<Parameter>>,
}

impl Parameters {
    /// An empty list.
    pub fn new(initialisation: Initialisation, precision: Precision) -> Self {
        Parameters { initialisation, precision, list: Vec::new(), taken_over: Vec::new() }
    }

    /// An empty list, for a model that takes over those of `others` whose name and shape it asks
    /// for; their values are then common to both. The rest starts at zero.
    pub fn taking_over(others: &[Arc<Parameter>], precision: Precision) -> Self {
        let taken_over = others.to_vec();
        Parameters { taken_over, ..Parameters::new(Initialisation::Zeros, precision) }
    }

    /// The precision in which they are made.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The list.
    pub fn into_list(self) -> Vec<Arc<Parameter>> {
        self.list
    }

    /// A matrix `[rows, columns]` that products or look-ups read: stored as panels, or in int8.
    ///
    /// # Errors
    /// `Argument` if int8 cannot multiply so many columns exactly.
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Arc<Parameter>> {
        if let Some(parameter) = self.take_over(name, &[rows, columns]) {
            return Ok(parameter);
        }
        let values = self.draw(rows * columns);
        let cpu = &Device::Cpu;
        let shape = Weight::panel_shape(rows, columns);
        let (var, layout) = match (self.precision, self.precision.stored()) {
            (Precision::Int8, _) => {
                check_inputs(name, columns)?;
                let zeros = vec![int8::OFFSET; int8::packed_len(rows, columns)];
                let var = Var::from_vec(zeros, int8::packed_shape(rows, columns), cpu)?;
                (var, StoredLayout::Int8(Tensor::ones(rows, DType::F32, cpu)?))
            }
            (_, Some(format)) => {
                (Var::zeros(shape, weight::dtype(format), cpu)?, StoredLayout::Panels)
            }
            (_, None) => {
                let panels = match &values {
                    Some(values) => Weight::pack(values, rows, columns),
                    None => vec![0.0; pack::packed_len(rows, columns)],
                };
                let var = Var::from_vec(panels, shape, cpu)?;
                return self.add(name, vec![rows, columns], var, StoredLayout::Panels);
            }
        };
        let parameter = self.add(name, vec![rows, columns], var, layout)?;
        values.map_or(Ok(()), |values| parameter.assign(&values))?;
        Ok(parameter)
    }

    /// A plain table `[rows, columns]`, such as positions.
    pub fn table(&mut self, name: &str, rows: usize, columns: usize) -> Result<Arc<Parameter>> {
        if let Some(parameter) = self.take_over(name, &[rows, columns]) {
            return Ok(parameter);
        }
        let values = self.draw(rows * columns).unwrap_or_else(|| vec![0.0; rows * columns]);
        self.plain(name, vec![rows, columns], values)
    }

    /// A vector of a constant: biases start at 0, norms at 1.
    pub fn vector(&mut self, name: &str, length: usize, start: f32) -> Result<Arc<Parameter>> {
        if let Some(parameter) = self.take_over(name, &[length]) {
            return Ok(parameter);
        }
        self.plain(name, vec![length], vec![start; length])
    }

    /// Floats as they are, rounded where the model keeps 16 bits.
    fn plain(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) -> Result<Arc<Parameter>> {
        let mut rounded = values;
        if let Some(format) = self.precision.stored() {
            let values = rounded.clone();
            format.round(&values, &mut rounded);
        }
        let var = Var::from_vec(rounded, shape.clone(), &Device::Cpu)?;
        self.add(name, shape, var, StoredLayout::Plain)
    }

    fn take_over(&mut self, name: &str, shape: &[usize]) -> Option<Arc<Parameter>> {
        let found = self.taken_over.iter().find(|p| p.name() == name && p.shape() == shape)?;
        self.list.push(found.clone());
        Some(found.clone())
    }

    fn add(
        &mut self,
        name: &str,
        shape: Vec<usize>,
        var: Var,
        layout: StoredLayout,
    ) -> Result<Arc<Parameter>> {
        let frozen = var.as_detached_tensor();
        let parameter = Arc::new(Parameter {
            name: name.to_string(),
            shape,
            layout,
            kept_in: self.precision.stored(),
            rounded: self.precision.rounded(),
            var,
            frozen,
            gradient: GradientBuffer::default(),
            screen: Arc::default(),
        });
        self.list.push(parameter.clone());
        Ok(parameter)
    }

    /// Truncated normal values, a stream of its own for each parameter.
    fn draw(&self, count: usize) -> Option<Vec<f32>> {
        let Initialisation::Random { seed, deviation } = self.initialisation else { return None };
        let mut values = vec![0.0; count];
        let stream = self.list.len() as u64;
        team::run_chunks(&mut values, DRAWN_AT_ONCE, &|part, values| {
            let first = (part * DRAWN_AT_ONCE) as u64;
            random::fill_truncated_normal(seed, stream, first, deviation as f32, values);
        });
        Some(values)
    }
}

/// Refuses a matrix whose products in int8 could leave 32 bits.
fn check_inputs(name: &str, columns: usize) -> Result<()> {
    if columns <= int8::MOST_INPUTS {
        return Ok(());
    }
    let most = int8::MOST_INPUTS;
    let message = format!("int8 multiplies at most {most} inputs, `{name}` has {columns}");
    Err(Error::argument("dtype", message))
}
