//! Trained tensors under the names of Hugging Face's checkpoints, and how they are first drawn.

use std::sync::Arc;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernels::{pack, team};
use crate::ops::gradient::GradientBuffer;
use crate::ops::weight::Weight;
use crate::ops::with_floats;
use crate::random;

use super::pass::Pass;

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
    packed: bool,
    var: Var,
    /// The same storage without gradient tracking.
    frozen: Tensor,
    gradient: GradientBuffer,
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

    /// The variable that the optimizer changes, in the layout it is stored in.
    pub fn var(&self) -> &Var {
        &self.var
    }

    /// The stored tensor, tracked if `pass` is for training.
    pub fn tensor(&self, pass: &Pass) -> &Tensor {
        if pass.is_training() { self.var.as_tensor() } else { &self.frozen }
    }

    /// The same as a matrix.
    pub fn weight(&self, pass: &Pass) -> Weight {
        let weight = Weight::new(self.tensor(pass).clone(), self.shape[0], self.shape[1]);
        if pass.is_training() { weight.gathering_in(self.gradient.clone()) } else { weight }
    }

    /// Where the gradient of a matrix gathers in a backward pass by our kernels.
    pub fn gradient(&self) -> &GradientBuffer {
        &self.gradient
    }

    /// A copy of the values, row-major in [`Self::shape`].
    pub fn values(&self) -> Result<Vec<f32>> {
        Ok(with_floats([&self.frozen], |[stored]| self.rows_of(stored))?)
    }

    /// A copy of floats in the layout of this parameter (a gradient, say), row-major in
    /// [`Self::shape`].
    pub fn rows_of(&self, stored: &[f32]) -> Vec<f32> {
        if !self.packed {
            return stored.to_vec();
        }
        let mut rows = vec![0.0; self.count()];
        pack::to_rows(stored, self.shape[0], self.shape[1], &mut rows);
        rows
    }

    /// Replaces the values by `values`, row-major in [`Self::shape`].
    ///
    /// # Errors
    /// [`Error::Weights`] if their number differs.
    pub fn assign(&self, values: &[f32]) -> Result<()> {
        if values.len() != self.count() {
            let (got, want) = (values.len(), &self.shape);
            return Err(Error::Weights(format!(
                "`{}` has shape {want:?}, received {got} values",
                self.name
            )));
        }
        self.update(|stored| {
            if self.packed {
                pack::from_rows(values, self.shape[0], self.shape[1], stored);
            } else {
                stored.copy_from_slice(values);
            }
        })
    }

    /// Replaces the values as they are read: `read` fills each run of them, in row-major order, so
    /// that a matrix is never held a second time.
    ///
    /// # Errors
    /// What `read` returns; values before the failure are replaced, later ones are not.
    pub fn assign_from(&self, mut read: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        let mut outcome = Ok(());
        self.update(|stored| {
            outcome = if self.packed {
                let (rows, columns) = (self.shape[0], self.shape[1]);
                pack::from_row_runs(rows, columns, stored, &mut read)
            } else {
                read(stored)
            };
        })?;
        outcome
    }

    /// Changes the stored floats in place.
    pub fn update(&self, change: impl FnMut(&mut [f32])) -> Result<()> {
        Ok(self.frozen.inplace_op1(&Update(std::sync::Mutex::new(change)))?)
    }
}

/// An in-place change of a CPU tensor's floats.
struct Update<F>(std::sync::Mutex<F>);

impl<F: FnMut(&mut [f32])> InplaceOp1 for Update<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else {
            candle_core::bail!("parameters are float32");
        };
        let mut change = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (change)(values);
        Ok(())
    }
}

/// Makes parameters and keeps their list, in the order of the checkpoint.
#[derive(Debug)]
pub struct Parameters {
    initialisation: Initialisation,
    list: Vec<Arc<Parameter>>,
    taken_over: Vec<Arc<Parameter>>,
}

impl Parameters {
    /// An empty list.
    pub fn new(initialisation: Initialisation) -> Self {
        Parameters { initialisation, list: Vec::new(), taken_over: Vec::new() }
    }

    /// An empty list, for a model that takes over those of `others` whose name and shape it asks
    /// for; their values are then common to both. The rest starts at zero.
    pub fn taking_over(others: &[Arc<Parameter>]) -> Self {
        Parameters { taken_over: others.to_vec(), ..Parameters::new(Initialisation::Zeros) }
    }

    /// The list.
    pub fn into_list(self) -> Vec<Arc<Parameter>> {
        self.list
    }

    /// A matrix `[rows, columns]` that products or look-ups read: stored as panels.
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Arc<Parameter>> {
        if let Some(parameter) = self.take_over(name, &[rows, columns]) {
            return Ok(parameter);
        }
        let values = self.draw(rows * columns);
        let panels = match values {
            Some(values) => Weight::pack(&values, rows, columns),
            None => vec![0.0; pack::packed_len(rows, columns)],
        };
        let var = Var::from_vec(panels, Weight::panel_shape(rows, columns), &Device::Cpu)?;
        self.add(name, vec![rows, columns], var, true)
    }

    /// A plain table `[rows, columns]`, such as positions.
    pub fn table(&mut self, name: &str, rows: usize, columns: usize) -> Result<Arc<Parameter>> {
        if let Some(parameter) = self.take_over(name, &[rows, columns]) {
            return Ok(parameter);
        }
        let values = self.draw(rows * columns).unwrap_or_else(|| vec![0.0; rows * columns]);
        let var = Var::from_vec(values, (rows, columns), &Device::Cpu)?;
        self.add(name, vec![rows, columns], var, false)
    }

    /// A vector of a constant: biases start at 0, norms at 1.
    pub fn vector(&mut self, name: &str, length: usize, start: f32) -> Result<Arc<Parameter>> {
        if let Some(parameter) = self.take_over(name, &[length]) {
            return Ok(parameter);
        }
        let var = Var::from_vec(vec![start; length], length, &Device::Cpu)?;
        self.add(name, vec![length], var, false)
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
        packed: bool,
    ) -> Result<Arc<Parameter>> {
        let frozen = var.as_detached_tensor();
        let parameter = Arc::new(Parameter {
            name: name.to_string(),
            shape,
            packed,
            var,
            frozen,
            gradient: GradientBuffer::default(),
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
