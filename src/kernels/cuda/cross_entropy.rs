//! Cross entropy of rows of logits on a card: `cross_entropy.cu`.

use std::sync::Arc;

use candle_core::{CudaStorage, Result};

use super::launch::{Argument, ROW_THREADS};
use super::{Card, CardFloats, CardNumbers, Weight};

/// What rows of logits should have said, on a card.
#[derive(Debug)]
pub struct CardTargets {
    card: Arc<Card>,
    ids: CardNumbers,
    scales: CardFloats,
    losses: CardFloats,
}

/// What is found of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowLoss {
    /// Negative log likelihood of the target.
    pub nll: f32,
    /// The same in the mean over all classes.
    pub spread: f32,
    /// Whether the target is the first of the largest.
    pub correct: bool,
}

/// Words of a row's loss in `cross_entropy.cu`.
const WORDS: usize = 4;

impl CardTargets {
    /// A target and a scale for each row.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new(card: &Arc<Card>, ids: &[u32], scales: &[f32]) -> Result<Self> {
        assert_eq!(ids.len(), scales.len(), "one scale for each row");
        Ok(CardTargets {
            card: card.clone(),
            ids: CardNumbers::new(card, ids, 0)?,
            scales: CardFloats::new(card, scales)?,
            losses: CardFloats::new(card, &vec![0.0; WORDS * ids.len()])?,
        })
    }

    /// What each row of `logits [rows, classes]` is worth; every target is one of the classes.
    ///
    /// # Errors
    /// What the card reports.
    pub fn forward(&self, logits: Weight, classes: usize) -> Result<Vec<RowLoss>> {
        let rows = self.ids.all().count;
        assert_eq!(logits.len, rows * classes, "logits");
        let arguments = [
            Argument::Pointer(logits.floats()),
            Argument::count(classes)?,
            Argument::Pointer(self.ids.all().start),
            Argument::Pointer(self.losses.as_weight().floats()),
        ];
        self.card.launch("cross_entropy_forward", (rows, 1, 1), ROW_THREADS, 0, &arguments)?;
        let losses = self.losses.to_host()?;
        let row = |&[nll, _, spread, correct]: &[f32; WORDS]| RowLoss {
            nll,
            spread,
            correct: correct.to_bits() != 0,
        };
        Ok(losses.as_chunks().0.iter().map(row).collect())
    }

    /// The slopes of the logits, given that of the loss, a scalar.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn backward(
        &self,
        logits: Weight,
        classes: usize,
        smoothing: f32,
        dloss: Weight,
    ) -> Result<CudaStorage> {
        let rows = self.ids.all().count;
        assert!(logits.len == rows * classes && dloss.len == 1, "logits");
        let slopes = self.card.fresh(logits.len)?;
        let arguments = [
            Argument::Pointer(logits.floats()),
            Argument::count(classes)?,
            Argument::Pointer(self.ids.all().start),
            Argument::Pointer(self.scales.as_weight().floats()),
            Argument::Float(smoothing),
            Argument::Pointer(self.losses.as_weight().floats()),
            Argument::Pointer(dloss.floats()),
            Argument::Pointer(slopes.start),
        ];
        self.card.launch("cross_entropy_backward", (rows, 1, 1), ROW_THREADS, 0, &arguments)?;
        Ok(self.card.storage_of(slopes))
    }
}
