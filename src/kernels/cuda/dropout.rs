//! Factors of dropout, drawn on the card: those that the CPU draws.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DeviceRepr};
use candle_core::{Result, Shape, Tensor};

use super::super::dropout::Dropout;
use super::launch::{Argument, ROW_THREADS};
use super::{Card, CardNumbers};

/// `Draw` of `dropout.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Draw {
    seed: [u32; 2],
    stream: [u32; 2],
    threshold: u32,
    kept: f32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Draw {}

impl From<Dropout> for Draw {
    fn from(dropout: Dropout) -> Self {
        let words = |number: u64| [number as u32, (number >> 32) as u32];
        Draw {
            seed: words(dropout.seed),
            stream: words(dropout.stream),
            threshold: dropout.threshold(),
            kept: dropout.kept_factor(),
        }
    }
}

impl Card {
    /// The factor of each element of an array.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn dropout_factors(self: &Arc<Self>, dropout: Dropout, shape: Shape) -> Result<Tensor> {
        /// Elements that a thread draws.
        const EACH: usize = 4;
        let count = shape.elem_count();
        let factors = self.floats(count)?;
        let arguments = [
            Argument::Pointer(factors.device_ptr(&self.stream).0),
            Argument::Long(count as u64),
            Argument::Draw(dropout.into()),
        ];
        let blocks = count.div_ceil(EACH * ROW_THREADS);
        self.launch("dropout_factors", (blocks, 1, 1), ROW_THREADS, 0, &arguments)?;
        Ok(self.tensor(factors, shape))
    }

    /// The factors of attention's weights `[sequences, heads, queries, keys]`, given the first row of the
    /// queries of each sequence.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn attention_dropout_factors(
        self: &Arc<Self>,
        dropout: Dropout,
        starts: &[u32],
        (heads, queries, keys): (usize, usize, usize),
    ) -> Result<Tensor> {
        let shape = Shape::from((starts.len(), heads, queries, keys));
        let factors = self.floats(shape.elem_count())?;
        let starts_there = CardNumbers::new(self, starts, 0)?;
        let arguments = [
            Argument::Pointer(factors.device_ptr(&self.stream).0),
            Argument::Pointer(starts_there.all().start),
            Argument::Int(heads as i32),
            Argument::Int(queries as i32),
            Argument::Int(keys as i32),
            Argument::Draw(dropout.into()),
        ];
        let grid = (queries, heads, starts.len());
        self.launch("attention_dropout_factors", grid, ROW_THREADS, 0, &arguments)?;
        Ok(self.tensor(factors, shape))
    }
}
