//! The matrix of a linear layer or an embedding table, as it is stored.

use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Tensor, Var};
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};

use super::gradient::GradientBuffer;
use super::screen::LazyScreen;
use super::{floats, on_cpu, slice};
pub use crate::kernels::gemm::Numbers;
use crate::kernels::gemm::Panels;
use crate::kernels::int8;
use crate::kernels::pack::{self, PANEL};

pub use crate::kernels::half_float::HalfFormat;

/// A matrix `[rows, columns]` (`[out, in]` of a linear layer, `[vocabulary, width]` of a table).
///
/// On the CPU floats of 32 and 16 bits are stored as panels `[ceil(rows / 32), columns, 32]`, the order
/// in which products read them (see [`crate::kernels::pack`]); elsewhere as they are. Gradients and optimizer
/// state have the layout of the weight, so that nothing is ever held twice. Weights in int8 are bytes
/// in panels of their own with a scale for each row (see [`crate::kernels::int8`]).
#[derive(Debug, Clone)]
pub struct Weight {
    stored: Tensor,
    rows: usize,
    columns: usize,
    scales: Option<Tensor>,
    rounded: Option<HalfFormat>,
    numbers: Numbers,
    gradient: Option<GradientBuffer>,
    screen: Option<Arc<LazyScreen>>,
}

impl Weight {
    /// Wraps a stored tensor of floats: `[rows, columns]`, or its panels.
    pub fn new(stored: Tensor, rows: usize, columns: usize) -> Self {
        debug_assert!(
            stored.dims() == [rows, columns]
                || stored.dims() == [rows.div_ceil(PANEL), columns, PANEL]
        );
        Self::of(stored, rows, columns)
    }

    fn of(stored: Tensor, rows: usize, columns: usize) -> Self {
        let (scales, rounded, gradient, screen) = (None, None, None, None);
        let numbers = Numbers::Float32;
        Weight { stored, rows, columns, scales, rounded, numbers, gradient, screen }
    }

    /// Wraps the bytes of int8 weights, of the shape [`int8::packed_shape`] or `[rows, columns]`, and their
    /// scales `[rows]`.
    pub fn int8(stored: Tensor, scales: Tensor, rows: usize, columns: usize) -> Self {
        debug_assert!(stored.dtype() == DType::U8 && scales.dims() == [rows]);
        debug_assert!(
            stored.dims() == [rows, columns]
                || stored.elem_count() == int8::packed_len(rows, columns)
        );
        Weight { scales: Some(scales), ..Self::of(stored, rows, columns) }
    }

    /// The same weight, whose gradient gathers in `buffer` where our kernels compute it.
    pub fn gathering_in(self, buffer: GradientBuffer) -> Self {
        Weight { gradient: Some(buffer), ..self }
    }

    /// The same weight of float32, which products of a training pass, forward and backward, multiply in
    /// `numbers` where our kernels compute them.
    pub fn multiplied_in(self, numbers: Numbers) -> Self {
        Weight { numbers, ..self }
    }

    /// In which numbers a training pass multiplies it.
    pub(super) fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// The same weight of float32, which products round to 16 bits.
    pub fn rounded_to(self, format: HalfFormat) -> Self {
        Weight { rounded: Some(format), ..self }
    }

    /// The same weight with the place for its coarse copy.
    pub fn screened_by(self, screen: Arc<LazyScreen>) -> Self {
        Weight { screen: Some(screen), ..self }
    }

    /// The place for its coarse copy, if it may have one.
    pub(super) fn screen(&self) -> Option<&LazyScreen> {
        self.screen.as_deref()
    }

    /// Where the gradient gathers; `None`: in candle's store.
    pub fn gradient(&self) -> Option<&GradientBuffer> {
        self.gradient.as_ref()
    }

    /// The shape in which panels are stored.
    pub fn panel_shape(rows: usize, columns: usize) -> (usize, usize, usize) {
        (rows.div_ceil(PANEL), columns, PANEL)
    }

    /// Packs row-major floats `[rows, columns]` for storage on the CPU.
    pub fn pack(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        let mut panels = vec![0.0; pack::packed_len(rows, columns)];
        pack::from_rows(values, rows, columns, &mut panels);
        panels
    }

    /// The stored tensor.
    pub fn stored(&self) -> &Tensor {
        &self.stored
    }

    /// The scales of a weight in int8.
    pub fn scales(&self) -> Option<&Tensor> {
        self.scales.as_ref()
    }

    /// What products round this weight to, if it is stored in float32.
    pub fn rounded(&self) -> Option<HalfFormat> {
        self.rounded
    }

    /// Number of rows (outputs, or entries of a table).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs, or width of a table).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether the matrix is stored as our kernels read it.
    pub fn is_packed(&self) -> bool {
        self.stored.rank() > 2
    }

    /// Whether a product rounds its inputs to bfloat16, as processors with such products do. Those of a weight
    /// that is not packed are in its own numbers.
    pub fn rounds_inputs(&self) -> bool {
        let stored = self.is_packed() && self.stored.dtype() == DType::BF16;
        stored || self.rounded == Some(HalfFormat::Bfloat16)
    }

    /// The type of the rows that a table gives.
    pub(super) fn row_dtype(&self) -> DType {
        match self.scales {
            None if !self.is_packed() => self.stored.dtype(),
            _ => DType::F32,
        }
    }

    /// The matrix as `[rows, columns]`, by candle's own operations (gradients flow through): in float32,
    /// or in its own type where it is not packed. In int8 it is not divided by its scales yet.
    pub fn dense(&self) -> Result<Tensor> {
        if self.scales.is_some() && !self.is_packed() {
            return self.stored.to_dtype(DType::F32)? - f64::from(int8::OFFSET);
        }
        if self.scales.is_some() {
            let (panels, groups, width, group) = self.stored.dims4()?;
            let bytes = self.stored.transpose(1, 2)?.reshape((panels * width, groups * group))?;
            let bytes = bytes.narrow(0, 0, self.rows)?.narrow(1, 0, self.columns)?;
            return bytes.contiguous()?.to_dtype(DType::F32)? - f64::from(int8::OFFSET);
        }
        if !self.is_packed() {
            return Ok(self.stored.clone());
        }
        let stored = self.stored.to_dtype(DType::F32)?;
        let (panels, columns, width) = stored.dims3()?;
        stored.transpose(1, 2)?.reshape((panels * width, columns))?.narrow(0, 0, self.rows)
    }

    /// [`Self::dense`] as a product takes it: rounded where it is to be.
    pub fn dense_for_products(&self) -> Result<Tensor> {
        let dense = self.dense()?;
        match self.rounded {
            None => Ok(dense),
            Some(HalfFormat::Float16) => dense.to_dtype(DType::F16)?.to_dtype(DType::F32),
            Some(HalfFormat::Bfloat16) => dense.to_dtype(DType::BF16)?.to_dtype(DType::F32),
        }
    }

    /// Calls `work` with the bytes and scales of a CPU weight in int8.
    pub fn with_int8<R>(
        &self,
        scales: &Tensor,
        work: impl FnOnce(int8::Weight<'_>) -> R,
    ) -> Result<R> {
        let (stored, layout) = self.stored.storage_and_layout();
        let (scales, scales_layout) = scales.storage_and_layout();
        let packed = slice(on_cpu(&stored)?.as_slice()?, layout)?;
        let scales = floats(on_cpu(&scales)?, scales_layout)?;
        Ok(work(int8::Weight { packed, scales }))
    }

    /// Calls `work` with the panels of a CPU weight in float32, whatever it is kept in.
    pub(super) fn with_float_panels<R>(&self, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
        let (rows, columns) = (self.rows, self.columns);
        let mut wide = Vec::new();
        if let Some(scales) = &self.scales {
            let values = self.with_int8(scales, |w| {
                let values = int8::to_rows(w.packed, rows, columns);
                let scaled = values.iter().enumerate();
                scaled.map(|(i, &value)| f32::from(value) / w.scales[i / columns]).collect()
            });
            let values: Vec<f32> = values?;
            wide = Self::pack(&values, rows, columns);
        } else {
            let (stored, layout) = self.stored.storage_and_layout();
            match panels(on_cpu(&stored)?, layout, None)? {
                Panels::Float(panels) | Panels::Rounded(_, panels) => return Ok(work(panels)),
                Panels::Half(format, panels) => {
                    wide.resize(panels.len(), 0.0);
                    format.widen(panels, &mut wide);
                }
            }
        }
        Ok(work(&wide))
    }
}

/// The panels of a CPU weight as products read them.
pub(super) fn panels<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
    rounded: Option<HalfFormat>,
) -> Result<Panels<'a>> {
    Ok(match (storage, rounded) {
        (CpuStorage::F16(values), _) => {
            Panels::Half(HalfFormat::Float16, slice(values, layout)?.reinterpret_cast())
        }
        (CpuStorage::BF16(values), _) => {
            Panels::Half(HalfFormat::Bfloat16, slice(values, layout)?.reinterpret_cast())
        }
        (_, Some(format)) => Panels::Rounded(format, floats(storage, layout)?),
        (_, None) => Panels::Float(floats(storage, layout)?),
    })
}

/// A variable on the CPU of floats of 16 bits.
pub fn half_floats(bits: Vec<u16>, shape: impl Into<Shape>, format: HalfFormat) -> Result<Var> {
    match format {
        HalfFormat::Float16 => {
            Var::from_vec(bits.reinterpret_into::<f16>(), shape.into(), &Device::Cpu)
        }
        HalfFormat::Bfloat16 => {
            Var::from_vec(bits.reinterpret_into::<bf16>(), shape.into(), &Device::Cpu)
        }
    }
}

/// The type of a tensor of this format.
pub fn dtype(format: HalfFormat) -> DType {
    match format {
        HalfFormat::Float16 => DType::F16,
        HalfFormat::Bfloat16 => DType::BF16,
    }
}

/// The values `[rows, columns]` of a CPU tensor of panels, row-major.
pub fn rows(stored: &Tensor, rows: usize, columns: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; rows * columns];
    let (storage, layout) = stored.storage_and_layout();
    match panels(on_cpu(&storage)?, layout, None)? {
        Panels::Half(format, panels) => format.to_rows(panels, rows, columns, &mut values),
        Panels::Float(panels) | Panels::Rounded(_, panels) => {
            pack::to_rows(panels, rows, columns, &mut values);
        }
    }
    Ok(values)
}

/// Packs the row-major `[rows, columns]` that `read` hands out, or the transposed matrix, in the type of the panels
/// `stored`.
///
/// # Errors
/// What `read` returns; the values are then of no use.
pub fn read<E: Send>(
    stored: &mut CpuStorage,
    rows: usize,
    columns: usize,
    transposed: bool,
    read: &pack::Read<'_, f32, E>,
) -> std::result::Result<(), E> {
    let shape = (rows, columns);
    match stored {
        CpuStorage::F16(stored) => {
            HalfFormat::Float16.read(shape, stored.reinterpret_cast_mut(), transposed, read)
        }
        CpuStorage::BF16(stored) => {
            HalfFormat::Bfloat16.read(shape, stored.reinterpret_cast_mut(), transposed, read)
        }
        CpuStorage::F32(stored) if transposed => pack::read_columns(rows, columns, stored, read),
        CpuStorage::F32(stored) => pack::read_rows(rows, columns, stored, read),
        _ => unreachable!("panels are floats"),
    }
}

#[cfg(test)]
#[path = "weight_tests.rs"]
mod tests;
