//! The loss of a batch: weighted cross entropy, smoothed if asked for, and what is reported of it.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::ops::cross_entropy::{RowLosses, cross_entropy};
use crate::ops::place;

/// What a loss is made of beside logits, labels and weights, and what is told of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSettings {
    /// What the weighted sum is divided by; by default the number of positions.
    pub normalizer: Option<f64>,
    /// Share of each target that goes to all classes alike.
    pub label_smoothing: f64,
    /// Whether positions without weight are computed as well, for metrics that count them.
    pub every_position: bool,
    /// How much is told.
    pub detail: Detail,
}

impl LossSettings {
    /// What the weighted sum over these positions is divided by.
    fn normalizer_of(&self, weights: &[f32]) -> f64 {
        self.normalizer.unwrap_or(weights.len() as f64)
    }
}

/// How much a step tells of its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Detail {
    /// Sums over all of them.
    #[default]
    Sums,
    /// The negative log likelihood of each as well.
    Rows,
    /// All logits as well.
    Logits,
}

impl Detail {
    /// Reads `sums`, `rows` or `logits`.
    ///
    /// # Errors
    /// `Argument` for another name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "sums" => Ok(Detail::Sums),
            "rows" => Ok(Detail::Rows),
            "logits" => Ok(Detail::Logits),
            _ => Err(Error::argument(
                "detail",
                format!("received {name:?}, allowed: sums, rows, logits"),
            )),
        }
    }
}

/// What a step computed.
#[derive(Debug, Clone, PartialEq)]
pub struct StepResult {
    /// The weighted sum of the (smoothed) losses, divided by the normalizer.
    pub loss: f64,
    /// `sum(weight * nll)`, in nats.
    pub weighted_nll_sum: f64,
    /// Sum of the weights.
    pub weight_sum: f64,
    /// Sum of the weights of rows whose label had the largest logit.
    pub correct_weight_sum: f64,
    /// Sum of the rows' nll, whatever they weigh.
    pub nll_sum: f64,
    /// Rows whose label had the largest logit, whatever they weigh.
    pub correct: usize,
    /// Rows that counted.
    pub tokens: usize,
    /// The nll of each row, if asked for.
    pub nll_of_rows: Option<Vec<f32>>,
    /// The logits `[rows, classes]`, if asked for.
    pub logits: Option<Vec<f32>>,
    /// Norm of all gradients together, before clipping; `None` in evaluation.
    pub gradient_norm: Option<f64>,
    /// Whether parameters were changed: not in evaluation, nor when loss or gradient is not finite.
    pub applied: bool,
}

impl StepResult {
    /// Before anything is computed.
    pub(super) fn of_weights(weights: &[f32], detail: Detail) -> Self {
        StepResult {
            loss: 0.0,
            weighted_nll_sum: 0.0,
            weight_sum: weights.iter().map(|&w| f64::from(w)).sum(),
            correct_weight_sum: 0.0,
            nll_sum: 0.0,
            correct: 0,
            tokens: weights.len(),
            nll_of_rows: (detail != Detail::Sums).then(Vec::new),
            logits: (detail == Detail::Logits).then(Vec::new),
            gradient_norm: None,
            applied: false,
        }
    }
}

/// The scales of rows in a loss: their weights, divided.
pub(super) fn row_scales(weights: &[f32], settings: &LossSettings) -> Vec<f32> {
    let normalizer = settings.normalizer_of(weights);
    weights.iter().map(|&w| (f64::from(w) / normalizer) as f32).collect()
}

/// The cross entropy of `labels` under `logits [rows, classes]`, weighted and divided: a tensor for
/// the backward pass, and what is reported.
pub(super) fn weighted_loss(
    logits: &Tensor,
    labels: &[u32],
    weights: &[f32],
    settings: &LossSettings,
) -> Result<(Tensor, StepResult)> {
    let (scale, smoothing) = (row_scales(weights, settings), settings.label_smoothing as f32);
    let (loss, rows) = cross_entropy(logits, labels, &scale, smoothing)?;
    let mut result = summed(&rows, weights, settings);
    if settings.detail == Detail::Logits {
        result.logits = Some(place::values(logits)?);
    }
    Ok((loss, result))
}

/// What is reported of rows, but for their logits.
pub(super) fn summed(rows: &RowLosses, weights: &[f32], settings: &LossSettings) -> StepResult {
    let LossSettings { label_smoothing, detail, .. } = *settings;
    let normalizer = settings.normalizer_of(weights);
    let mut result = StepResult::of_weights(weights, detail);
    let mut smoothing_sum = 0.0;
    for (i, &weight) in weights.iter().enumerate() {
        let (weight, nll) = (f64::from(weight), f64::from(rows.nll[i]));
        result.nll_sum += nll;
        result.weighted_nll_sum += weight * nll;
        result.correct_weight_sum += if rows.correct[i] { weight } else { 0.0 };
        result.correct += usize::from(rows.correct[i]);
        if let Some(&spread) = rows.spread.get(i) {
            smoothing_sum += weight * label_smoothing * (f64::from(spread) - nll);
        }
    }
    result.loss = (result.weighted_nll_sum + smoothing_sum) / normalizer;
    if detail != Detail::Sums {
        result.nll_of_rows = Some(rows.nll.clone());
    }
    result
}
