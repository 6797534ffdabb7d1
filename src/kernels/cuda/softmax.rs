//! The weights of attention from its scores, for training: `softmax.cu`.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::{CudaStorage, Result};

use super::super::dropout::Dropout;
use super::dropout::Draw;
use super::launch::{Argument, ROW_THREADS};
use super::training::WARPS;
use super::{Card, CardNumbers, Weight};

/// Sequences side by side: their scores are `[sequences, heads, queries, keys]`, filled up to the longest.
pub struct Side<'a> {
    /// Of each: the first row of its queries, how many queries, and how many keys.
    pub sequences: &'a [[u32; 3]],
    /// Whether a key may be seen, `[sequences, keys]`; `None`: all may.
    pub visible: Option<&'a [u32]>,
    /// Heads, and queries and keys of the longest.
    pub sizes: [usize; 3],
    /// What scores are multiplied by.
    pub scale: f32,
    /// Whether a query sees keys up to its own place, counted from the end.
    pub causal: bool,
    /// Whether a query that sees no key gets the mean of all values, else nothing.
    pub mean_of_all: bool,
    /// What is dropped of the weights.
    pub dropout: Option<Dropout>,
}

/// [`Side`] on a card.
#[derive(Debug)]
pub struct CardSide {
    card: Arc<Card>,
    sequences: CardNumbers,
    visible: Option<CardNumbers>,
    count: usize,
    sizes: [usize; 3],
    scale: f32,
    causal: bool,
    mean_of_all: bool,
    dropout: Option<Dropout>,
}

/// `Weights` of `softmax.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct WeightsParameter {
    /// `sequences` and `visible`.
    pointers: [CUdeviceptr; 2],
    draw: Draw,
    sizes: [i32; 3],
    scale: f32,
    causal: u32,
    mean_of_all: u32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for WeightsParameter {}

impl CardSide {
    /// On a card.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new(card: &Arc<Card>, side: &Side<'_>) -> Result<Self> {
        let visible = side.visible.map(|visible| {
            assert_eq!(visible.len(), side.sequences.len() * side.sizes[2], "keys");
            CardNumbers::new(card, visible, 0)
        });
        Ok(CardSide {
            card: card.clone(),
            sequences: CardNumbers::new(card, side.sequences.as_flattened(), 0)?,
            visible: visible.transpose()?,
            count: side.sequences.len(),
            sizes: side.sizes,
            scale: side.scale,
            causal: side.causal,
            mean_of_all: side.mean_of_all,
            dropout: side.dropout,
        })
    }

    fn rows(&self) -> usize {
        self.count * self.sizes[0] * self.sizes[1]
    }

    fn parameter(&self) -> WeightsParameter {
        let visible = self.visible.as_ref().map_or(0, |visible| visible.all().start);
        WeightsParameter {
            pointers: [self.sequences.all().start, visible],
            draw: self.dropout.map_or(Draw::NONE, Draw::from),
            sizes: self.sizes.map(|size| size as i32),
            scale: self.scale,
            causal: self.causal.into(),
            mean_of_all: self.mean_of_all.into(),
        }
    }

    /// The weights, and of each row the logarithm of the sum of its exponentials.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn forward(&self, scores: Weight) -> Result<(CudaStorage, CudaStorage)> {
        let rows = self.rows();
        assert_eq!(scores.len, rows * self.sizes[2], "scores");
        let (weights, log_sums) = (self.card.fresh(scores.len)?, self.card.fresh(rows)?);
        let arguments = [
            Argument::Pointer(scores.floats()),
            Argument::Weights(self.parameter()),
            Argument::count(rows)?,
            Argument::Pointer(weights.start),
            Argument::Pointer(log_sums.start),
        ];
        let grid = (rows.div_ceil(WARPS), 1, 1);
        self.card.launch("weights_forward", grid, ROW_THREADS, 0, &arguments)?;
        Ok((self.card.storage_of(weights), self.card.storage_of(log_sums)))
    }

    /// The slopes of the scores, from those of the weights.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn backward(
        &self,
        scores: Weight,
        log_sums: Weight,
        dweights: Weight,
    ) -> Result<CudaStorage> {
        let rows = self.rows();
        assert!(scores.len == rows * self.sizes[2] && dweights.len == scores.len, "scores");
        assert_eq!(log_sums.len, rows, "sums");
        let dscores = self.card.fresh(scores.len)?;
        let arguments = [
            Argument::Pointer(scores.floats()),
            Argument::Weights(self.parameter()),
            Argument::count(rows)?,
            Argument::Pointer(log_sums.floats()),
            Argument::Pointer(dweights.floats()),
            Argument::Pointer(dscores.start),
        ];
        let grid = (rows.div_ceil(WARPS), 1, 1);
        self.card.launch("weights_backward", grid, ROW_THREADS, 0, &arguments)?;
        Ok(self.card.storage_of(dscores))
    }
}
