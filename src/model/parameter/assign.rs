//! Giving a parameter its values, from wherever they are: read by the whole team, a run at a time, straight into
//! the layout in which they are kept.

use std::sync::Mutex;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor};

use super::{Parameter, StoredLayout};
use crate::error::{Error, Result};
use crate::kernels::{int8, pack, parallel};
use crate::ops::{place, weight};

/// Reads a run of values, from the given one on; several threads ask at once.
type Read<'a, T> = pack::Read<'a, T, Error>;

/// Where values come from. They are row-major in [`Parameter::shape`], or with `transposed` those of the
/// transposed matrix.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Floats.
    Floats {
        /// Reads them.
        read: &'a Read<'a, f32>,
        /// Whether a matrix is stored the other way round.
        transposed: bool,
    },
    /// Whole numbers of 8 bits.
    Int8 {
        /// Reads them.
        read: &'a Read<'a, i8>,
        /// The scales of the rows of [`Parameter::shape`], which divide.
        scales: &'a [f32],
        /// As above.
        transposed: bool,
    },
}

/// Values of a table or vector that are read at a time.
const READ_AT_ONCE: usize = 1 << 16;

impl Parameter {
    /// Replaces the values by `values`, row-major in [`Self::shape`], in the model's precision.
    ///
    /// # Errors
    /// [`Error::Weights`] if their number differs, or the precision cannot hold one; nothing is
    /// replaced then.
    pub fn assign(&self, values: &[f32]) -> Result<()> {
        if values.len() != self.count() {
            let got = values.len();
            return Err(self.wrong(format!("has shape {:?}, received {got} values", self.shape)));
        }
        self.check(values)?;
        let read = |first: usize, run: &mut [f32]| copy(values, first, run);
        self.assign_from(Source::Floats { read: &read, transposed: false })
    }

    /// Replaces a matrix in int8 by `values`, row-major, and `scales` of its rows: Keras', which
    /// divide.
    ///
    /// # Errors
    /// [`Error::Weights`] if this is no matrix in int8, a length differs, a value is -128, or a scale is
    /// not above zero and finite.
    pub fn assign_int8(&self, values: &[i8], scales: &[f32]) -> Result<()> {
        if !self.is_int8() {
            return Err(self.wrong("is not kept in int8"));
        }
        if values.len() != self.count() || scales.len() != self.shape[0] {
            let (got, of) = (values.len(), scales.len());
            let shape = &self.shape;
            return Err(
                self.wrong(format!("has shape {shape:?}, received {got} values, {of} scales"))
            );
        }
        if values.contains(&i8::MIN) {
            return Err(self.below_int8());
        }
        let read = |first: usize, run: &mut [i8]| copy(values, first, run);
        self.assign_from(Source::Int8 { read: &read, scales, transposed: false })
    }

    /// Replaces the values as they are read. A matrix is never held a second time, but for one of floats
    /// that comes transposed and is kept in int8.
    ///
    /// # Errors
    /// What the source returns, or [`Error::Weights`] if it does not fit, or the precision cannot hold a
    /// value; some values are replaced then, others not.
    pub fn assign_from(&self, source: Source<'_>) -> Result<()> {
        if !self.place.has_kernels() {
            return self.assign_portable(source);
        }
        match source {
            Source::Floats { read, transposed } => {
                let read = |first: usize, run: &mut [f32]| {
                    read(first, run)?;
                    self.check(run)
                };
                self.assign_floats(&read, transposed)
            }
            Source::Int8 { read, scales, transposed } => {
                self.check_scales(scales)?;
                let read = |first: usize, run: &mut [i8]| {
                    read(first, run)?;
                    if run.contains(&i8::MIN) { Err(self.below_int8()) } else { Ok(()) }
                };
                match &self.layout {
                    StoredLayout::Int8(stored) => {
                        self.assign_quantized(&read, scales, stored, transposed)
                    }
                    _ => self.assign_floats(&self.scaled(&read, scales, transposed), transposed),
                }
            }
        }
    }

    /// [`Self::assign_from`] of a tensor that candle's own operations read: by a copy in memory.
    fn assign_portable(&self, source: Source<'_>) -> Result<()> {
        match (source, &self.layout) {
            (Source::Int8 { read, scales, transposed }, StoredLayout::Int8(stored)) => {
                self.check_scales(scales)?;
                self.set_int8(&self.read_all(read, transposed)?, scales, stored)
            }
            (Source::Int8 { read, scales, transposed }, _) => {
                self.check_scales(scales)?;
                let scaled = self.scaled(read, scales, transposed);
                self.set_floats(self.read_all(&scaled, transposed)?)
            }
            (Source::Floats { read, transposed }, StoredLayout::Int8(stored)) => {
                let values = self.read_all(read, transposed)?;
                self.check(&values)?;
                let columns = self.matrix_shape().1.max(1);
                let mut whole = vec![0; values.len()];
                let rows = values.chunks(columns).zip(whole.chunks_mut(columns));
                let scales: Vec<f32> = rows.map(|(x, to)| int8::quantize_row(x, to)).collect();
                self.set_int8(&whole, &scales, stored)
            }
            (Source::Floats { read, transposed }, _) => {
                self.set_floats(self.read_all(read, transposed)?)
            }
        }
    }

    /// All values, row-major.
    fn read_all<T: Copy + Default + Send>(
        &self,
        read: &Read<'_, T>,
        transposed: bool,
    ) -> Result<Vec<T>> {
        let mut values = vec![T::default(); self.count()];
        parallel::try_run_chunks(&mut values, READ_AT_ONCE, |part, run| {
            read(part * READ_AT_ONCE, run)
        })?;
        if transposed {
            let (rows, columns) = self.matrix_shape();
            values =
                (0..rows * columns).map(|i| values[i % columns * rows + i / columns]).collect();
        }
        Ok(values)
    }

    fn set_floats(&self, mut values: Vec<f32>) -> Result<()> {
        self.check(&values)?;
        if let Some(format) = self.kept_in {
            let exact = values.clone();
            format.round(&exact, &mut values);
        }
        let values = Tensor::from_vec(values, &self.shape[..], &Device::Cpu)?;
        let values = values.to_dtype(self.frozen.dtype())?;
        self.place
            .alone(|| Ok(self.frozen.slice_set(&values.to_device(self.place.device())?, 0, 0)?))
    }

    fn set_int8(&self, values: &[i8], scales: &[f32], stored_scales: &Tensor) -> Result<()> {
        if values.contains(&i8::MIN) {
            return Err(self.below_int8());
        }
        let device = self.place.device();
        let bytes: Vec<u8> = values.iter().copied().map(int8::byte).collect();
        self.place.alone(|| {
            self.frozen.slice_set(&Tensor::from_vec(bytes, &self.shape[..], device)?, 0, 0)?;
            Ok(stored_scales.slice_set(&Tensor::new(scales, device)?, 0, 0)?)
        })
    }

    fn assign_floats(&self, read: &Read<'_, f32>, transposed: bool) -> Result<()> {
        let (rows, columns) = self.matrix_shape();
        let mut outcome = Ok(());
        self.change(|stored| {
            outcome = match (&self.layout, stored) {
                (StoredLayout::Plain, CpuStorage::F32(stored)) => self.read_plain(stored, read),
                (StoredLayout::Int8(scales), CpuStorage::U8(stored)) if !transposed => {
                    quantize((rows, columns), stored, scales, read)
                }
                (StoredLayout::Int8(scales), CpuStorage::U8(stored)) => {
                    // A row has one scale, so all of it must be known first.
                    read_transposed(rows, columns, read).and_then(|values| {
                        let read = |first: usize, run: &mut [f32]| copy(&values, first, run);
                        quantize((rows, columns), stored, scales, &read)
                    })
                }
                (_, stored) => weight::read(stored, rows, columns, transposed, read),
            };
        })?;
        outcome
    }

    /// Reads what is kept as it is.
    fn read_plain(&self, stored: &mut [f32], read: &Read<'_, f32>) -> Result<()> {
        parallel::try_run_chunks(stored, READ_AT_ONCE, |part, run| {
            read(part * READ_AT_ONCE, run)?;
            if let Some(format) = self.kept_in {
                let values = run.to_vec();
                format.round(&values, run);
            }
            Ok(())
        })
    }

    fn assign_quantized(
        &self,
        read: &Read<'_, i8>,
        scales: &[f32],
        stored_scales: &Tensor,
        transposed: bool,
    ) -> Result<()> {
        let (rows, columns) = self.matrix_shape();
        let mut outcome = Ok(());
        self.change(|stored| {
            if let CpuStorage::U8(stored) = stored {
                outcome = if transposed {
                    int8::read_columns(rows, columns, stored, read)
                } else {
                    int8::read_rows(rows, columns, stored, read)
                };
            }
        })?;
        outcome?;
        change(stored_scales, |stored| {
            if let CpuStorage::F32(stored) = stored {
                stored.copy_from_slice(scales);
            }
        })
    }

    /// Quantised values as the floats that they mean.
    fn scaled<'a>(
        &self,
        read: &'a Read<'a, i8>,
        scales: &'a [f32],
        transposed: bool,
    ) -> impl Fn(usize, &mut [f32]) -> Result<()> + Sync + 'a {
        let (rows, columns) = self.matrix_shape();
        move |first, run| {
            let mut values = vec![0; run.len()];
            read(first, &mut values)?;
            for (i, (to, value)) in run.iter_mut().zip(values).enumerate() {
                let place = first + i;
                let row = if transposed { place % rows } else { place / columns };
                *to = f32::from(value) / scales[row];
            }
            Ok(())
        }
    }

    fn matrix_shape(&self) -> (usize, usize) {
        (self.shape[0], self.shape.get(1).copied().unwrap_or(1))
    }

    fn check_scales(&self, scales: &[f32]) -> Result<()> {
        if self.shape.len() != 2 || scales.len() != self.shape[0] {
            let got = scales.len();
            return Err(self.wrong(format!("has shape {:?}, received {got} scales", self.shape)));
        }
        match scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
            None => Ok(()),
            Some(scale) => {
                Err(self.wrong(format!("has the scale {scale}: scales are finite and above 0")))
            }
        }
    }

    /// Refuses values that the precision cannot hold.
    ///
    /// # Errors
    /// [`Error::Weights`]
    pub fn check(&self, values: &[f32]) -> Result<()> {
        if self.is_int8() {
            return match values.iter().find(|value| !value.is_finite()) {
                None => Ok(()),
                Some(value) => {
                    Err(self.wrong(format!("has the value {value}, which int8 cannot hold")))
                }
            };
        }
        let Some(format) = self.kept_in else { return Ok(()) };
        match values.iter().find(|value| format.overflows(**value)) {
            None => Ok(()),
            Some(value) => Err(self.wrong(format!(
                "has the value {value}, which the model's 16 bits cannot hold\n\
                 hint: dtype=\"bfloat16\" and \"float32\" hold larger ones"
            ))),
        }
    }

    fn below_int8(&self) -> Error {
        self.wrong("has the value -128: quantised values are from -127 to 127")
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::Weights(format!("`{}` {what}", self.name))
    }

    /// Changes the stored floats in place.
    ///
    /// # Errors
    /// That of the tensor library if they are not float32, as all that is trained is.
    pub fn update(&self, mut change: impl FnMut(&mut [f32])) -> Result<()> {
        if !self.place.has_kernels() && self.keeps_float32() {
            let mut values = place::values(&self.frozen)?;
            change(&mut values);
            return self.set_floats(values);
        }
        let mut floats = false;
        self.change(|stored| {
            if let CpuStorage::F32(stored) = stored {
                floats = true;
                change(stored);
            }
        })?;
        if floats { Ok(()) } else { Err(self.wrong("is not float32")) }
    }

    fn change(&self, mut work: impl FnMut(&mut CpuStorage)) -> Result<()> {
        change(&self.frozen, |stored| {
            self.screen.forget();
            work(stored);
        })
    }
}

/// A run of values in memory.
fn copy<T: Copy>(values: &[T], first: usize, run: &mut [T]) -> Result<()> {
    run.copy_from_slice(&values[first..][..run.len()]);
    Ok(())
}

/// All values, row-major, of a matrix that comes transposed.
fn read_transposed(rows: usize, columns: usize, read: &Read<'_, f32>) -> Result<Vec<f32>> {
    let mut panels = vec![0.0; pack::packed_len(rows, columns)];
    pack::read_columns(rows, columns, &mut panels, read)?;
    let mut values = vec![0.0; rows * columns];
    pack::to_rows(&panels, rows, columns, &mut values);
    Ok(values)
}

fn quantize(
    (rows, columns): (usize, usize),
    stored: &mut [u8],
    scales: &Tensor,
    read: &Read<'_, f32>,
) -> Result<()> {
    let mut outcome = Ok(());
    change(scales, |scales| {
        if let CpuStorage::F32(scales) = scales {
            outcome = int8::quantize_rows(rows, columns, stored, scales, read);
        }
    })?;
    outcome
}

/// Changes a CPU tensor in place.
fn change(tensor: &Tensor, work: impl FnMut(&mut CpuStorage)) -> Result<()> {
    Ok(tensor.inplace_op1(&Update(Mutex::new(work)))?)
}

/// An in-place change of a CPU tensor.
struct Update<F>(Mutex<F>);

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
