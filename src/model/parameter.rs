//! Trained tensors under the names of Hugging Face's checkpoints, and how they are first drawn.

mod assign;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernels::adafactor::Matrices;
use crate::kernels::{int8, memory, pack, team};
use crate::ops::gradient::GradientBuffer;
use crate::ops::place::{self, Place};
use crate::ops::screen::LazyScreen;
use crate::ops::weight::{self, HalfFormat, Numbers, Weight};
use crate::random;

use super::low_rank::LowRank;
use super::pass::Pass;
use super::precision::Precision;

pub use assign::Source;

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

/// How often it was said what is added to a matrix, of any model.
static CHANGES_OF_ADDITIONS: AtomicU64 = AtomicU64::new(0);

/// A number that is another one once something else is added to a weight, or nothing any more.
pub(super) fn changes_of_additions() -> u64 {
    CHANGES_OF_ADDITIONS.load(Ordering::Relaxed)
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
    place: Place,
    var: Var,
    /// The same storage without gradient tracking.
    frozen: Tensor,
    gradient: GradientBuffer,
    /// Place for a coarse copy, where it is multiplied for the best of its outputs.
    screen: Arc<LazyScreen>,
    /// Whether training changes it.
    trainable: AtomicBool,
    /// What is added to a matrix, if anything is.
    low_rank: RwLock<Option<Arc<LowRank>>>,
}

/// How the values of a parameter lie in its tensor.
#[derive(Debug)]
enum StoredLayout {
    /// Floats, row-major.
    Plain,
    /// Panels of floats of 32 bits, or of 16.
    Panels,
    /// Bytes, with these scales of the rows: packed, or row-major where there are no kernels.
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

    /// Whether training changes it.
    pub fn is_trainable(&self) -> bool {
        self.trainable.load(Ordering::Relaxed)
    }

    /// Says whether training changes it, from the next step on.
    pub fn set_trainable(&self, trainable: bool) {
        self.trainable.store(trainable, Ordering::Relaxed);
    }

    /// What is added to the matrix, if anything is.
    pub fn low_rank(&self) -> Option<Arc<LowRank>> {
        self.low_rank.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what is added to the matrix from the next pass on.
    pub(super) fn set_low_rank(&self, low_rank: Option<Arc<LowRank>>) {
        CHANGES_OF_ADDITIONS.fetch_add(1, Ordering::Relaxed);
        *self.low_rank.write().unwrap_or_else(PoisonError::into_inner) = low_rank;
    }

    /// Whether a pass wants its gradient.
    fn is_trained_in(&self, pass: &Pass) -> bool {
        pass.is_training() && self.is_trainable()
    }

    /// The stored tensor, tracked if `pass` trains it.
    pub fn tensor(&self, pass: &Pass) -> &Tensor {
        if self.is_trained_in(pass) { self.var.as_tensor() } else { &self.frozen }
    }

    /// The same as a matrix. Training multiplies the float32 weights as they are, or as bfloat16 where the
    /// model rounds them to it and the processor has such products.
    pub fn weight(&self, pass: &Pass) -> Weight {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        if let StoredLayout::Int8(scales) = &self.layout {
            return Weight::int8(self.frozen.clone(), scales.clone(), rows, columns);
        }
        let weight = Weight::new(self.tensor(pass).clone(), rows, columns);
        match self.rounded {
            Some(HalfFormat::Bfloat16) if self.is_trained_in(pass) => {
                weight.gathering_in(self.gradient.clone()).multiplied_in(Numbers::Bfloat16Pairs)
            }
            _ if self.is_trained_in(pass) => weight.gathering_in(self.gradient.clone()),
            _ if pass.is_training() => weight,
            Some(format) => weight.rounded_to(format).screened_by(self.screen.clone()),
            None => weight.screened_by(self.screen.clone()),
        }
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where the gradient of a matrix gathers in a backward pass by our kernels.
    pub fn gradient(&self) -> &GradientBuffer {
        &self.gradient
    }

    /// A copy of the values as float32, row-major in [`Self::shape`].
    pub fn values(&self) -> Result<Vec<f32>> {
        match &self.layout {
            StoredLayout::Plain => Ok(place::values(&self.frozen)?),
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

    /// How its values lie as a matrix, for optimizers that look at rows and columns; `None` if it is
    /// none.
    pub fn matrices(&self) -> Option<Matrices> {
        let &[rows, columns] = &self.shape[..] else { return None };
        let lanes = if matches!(self.layout, StoredLayout::Panels) { pack::PANEL } else { 1 };
        Some(Matrices { count: 1, rows, columns, lanes })
    }

    /// Whether its values are kept in float32, and are not rounded when they change.
    pub fn keeps_float32(&self) -> bool {
        !self.is_int8() && self.kept_in.is_none()
    }

    /// Whether it is a matrix in int8.
    pub fn is_int8(&self) -> bool {
        matches!(self.layout, StoredLayout::Int8(_))
    }

    /// The values and scales of a matrix in int8, row-major; `None` for another parameter.
    pub fn int8_values(&self) -> Result<Option<(Vec<i8>, Vec<f32>)>> {
        let StoredLayout::Int8(scales) = &self.layout else { return Ok(None) };
        if !self.place.has_kernels() {
            let bytes = self.frozen.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u8>()?;
            let values = bytes.into_iter().map(int8::value).collect();
            return Ok(Some((values, place::values(scales)?)));
        }
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let copy =
            |w: int8::Weight<'_>| (int8::to_rows(w.packed, rows, columns), w.scales.to_vec());
        Ok(Some(self.weight(&Pass::inference()).with_int8(scales, copy)?))
    }

    /// [`Self::values`] with what is added to the matrix: what a file gets.
    pub fn merged_values(&self) -> Result<Vec<f32>> {
        let values = self.values()?;
        match self.low_rank() {
            Some(low_rank) => low_rank.merged(&values),
            None => Ok(values),
        }
    }

    /// [`Self::int8_values`] with what is added to the matrix, quantised anew.
    pub fn merged_int8_values(&self) -> Result<Option<(Vec<i8>, Vec<f32>)>> {
        if self.low_rank().is_none() || !self.is_int8() {
            return self.int8_values();
        }
        let merged = self.merged_values()?;
        let mut values = vec![0; merged.len()];
        let rows = merged.chunks(self.shape[1].max(1)).zip(values.chunks_mut(self.shape[1].max(1)));
        let scales = rows.map(|(row, values)| int8::quantize_row(row, values)).collect();
        Ok(Some((values, scales)))
    }
}

/// Makes parameters and keeps their list, in the order of the checkpoint.
#[derive(Debug)]
pub struct Parameters {
    initialisation: Initialisation,
    precision: Precision,
    place: Place,
    list: Vec<Arc<Parameter>>,
    taken_over: Vec<Arc<Parameter>>,
}

impl Parameters {
    /// An empty list.
    pub fn new(initialisation: Initialisation, precision: Precision, place: Place) -> Self {
        Parameters { initialisation, precision, place, list: Vec::new(), taken_over: Vec::new() }
    }

    /// An empty list, for a model that takes over those of `others` whose name and shape it asks
    /// for; their values are then common to both. The rest starts at zero.
    pub fn taking_over(others: &[Arc<Parameter>], precision: Precision, place: Place) -> Self {
        let taken_over = others.to_vec();
        Parameters { taken_over, ..Parameters::new(Initialisation::Zeros, precision, place) }
    }

    /// Where they are made.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The precision in which they are made.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Those made so far.
    pub fn list(&self) -> &[Arc<Parameter>] {
        &self.list
    }

    /// The list.
    pub fn into_list(self) -> Vec<Arc<Parameter>> {
        self.list
    }

    /// A matrix `[rows, columns]` that products or look-ups read: stored as panels, or in int8; row-major
    /// where there are no kernels.
    ///
    /// # Errors
    /// `Argument` if int8 cannot multiply so many columns exactly.
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Arc<Parameter>> {
        if let Some(parameter) = self.take_over(name, &[rows, columns]) {
            return Ok(parameter);
        }
        if !self.place.has_kernels() {
            return self.portable_matrix(name, rows, columns);
        }
        let values = self.draw(rows * columns);
        let cpu = &Device::Cpu;
        let shape = Weight::panel_shape(rows, columns);
        let (var, layout) = match (self.precision, self.precision.stored()) {
            (Precision::Int8, _) => {
                check_inputs(name, columns)?;
                let zeros = memory::filled(int8::packed_len(rows, columns), int8::OFFSET);
                let var = Var::from_vec(zeros, int8::packed_shape(rows, columns), cpu)?;
                (var, StoredLayout::Int8(Tensor::ones(rows, DType::F32, cpu)?))
            }
            (_, Some(format)) => {
                let zeros = memory::zeros(pack::packed_len(rows, columns));
                (weight::half_floats(zeros, shape, format)?, StoredLayout::Panels)
            }
            (_, None) => {
                let panels = match &values {
                    Some(values) => Weight::pack(values, rows, columns),
                    None => memory::zeros(pack::packed_len(rows, columns)),
                };
                let var = Var::from_vec(panels, shape, cpu)?;
                return self.add(name, vec![rows, columns], var, StoredLayout::Panels);
            }
        };
        let parameter = self.add(name, vec![rows, columns], var, layout)?;
        values.map_or(Ok(()), |values| parameter.assign(&values))?;
        Ok(parameter)
    }

    /// The same for candle's own operations.
    fn portable_matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Arc<Parameter>> {
        let values = self.draw(rows * columns);
        let (device, shape) = (self.place.device().clone(), (rows, columns));
        let parameter = if self.precision == Precision::Int8 {
            check_inputs(name, columns)?;
            let zeros = Tensor::full(int8::OFFSET, shape, &device)?;
            let layout = StoredLayout::Int8(Tensor::ones(rows, DType::F32, &device)?);
            self.add(name, vec![rows, columns], Var::from_tensor(&zeros)?, layout)?
        } else {
            let dtype = self.precision.stored().map_or(DType::F32, weight::dtype);
            let var = Var::zeros(shape, dtype, &device)?;
            self.add(name, vec![rows, columns], var, StoredLayout::Plain)?
        };
        values.map_or(Ok(()), |values| parameter.assign(&values))?;
        Ok(parameter)
    }

    /// A plain table `[rows, columns]`, such as positions.
    pub fn table(&mut self, name: &str, rows: usize, columns: usize) -> Result<Arc<Parameter>> {
        if let Some(parameter) = self.take_over(name, &[rows, columns]) {
            return Ok(parameter);
        }
        let values = self.draw(rows * columns).unwrap_or_else(|| memory::zeros(rows * columns));
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
        let var = Var::from_vec(rounded, shape.clone(), self.place.device())?;
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
            place: self.place.clone(),
            var,
            frozen,
            gradient: GradientBuffer::default(),
            screen: Arc::default(),
            trainable: AtomicBool::new(true),
            low_rank: RwLock::default(),
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
