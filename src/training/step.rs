//! One training step: forward, loss, backward and the optimizer; and the same without the last two.

use std::sync::Arc;

use candle_core::Tensor;

use super::gradients::Gradients;
use super::loss::{Detail, LossSettings, StepResult, row_scales, summed, weighted_loss};
use super::optimizer::Optimizer;
use crate::error::{Error, Result};
use crate::kernels::lasting::suit_training;
use crate::model::batch::Rows;
use crate::model::{BartModel, Batch, Parameter, Pass};

/// A padded rectangle of token ids with its mask, row-major.
#[derive(Debug, Clone)]
pub struct Padded {
    /// Token ids `[sequences, width]`.
    pub ids: Vec<u32>,
    /// Which of them are real.
    pub mask: Vec<bool>,
    /// Width of the rectangle.
    pub width: usize,
}

impl Padded {
    /// Which positions the decoder computes so that the output at `wanted` is right: the visible
    /// and the wanted ones; and all of a sequence in which a wanted one comes before the first
    /// visible one, since a query without keys takes the mean over all positions.
    fn rows_for(&self, wanted: &[bool]) -> Vec<bool> {
        let mut rows = Vec::with_capacity(wanted.len());
        for (mask, wanted) in self.mask.chunks(self.width).zip(wanted.chunks(self.width)) {
            let first_visible = mask.iter().position(|&visible| visible).unwrap_or(self.width);
            let blind = wanted[..first_visible].contains(&true);
            rows.extend(mask.iter().zip(wanted).map(|(&seen, &wanted)| blind || seen || wanted));
        }
        rows
    }

    /// Which positions the encoder computes for decoders that compute `target_rows`, `target_width`
    /// a sequence: the visible ones, or all where a decoder reads a source without any.
    fn rows_seen_by(&self, target_rows: &[bool], target_width: usize) -> Vec<bool> {
        let mut rows = Vec::with_capacity(self.mask.len());
        for (mask, target) in self.mask.chunks(self.width).zip(target_rows.chunks(target_width)) {
            let blind = !mask.contains(&true) && target.contains(&true);
            rows.extend(mask.iter().map(|&visible| blind || visible));
        }
        rows
    }

    fn batch(&self, rows: &[bool]) -> Batch {
        Batch::from_padded(&self.ids, &self.mask, self.width, Rows::Only(rows))
    }
}

/// Sources, targets and what the decoder should say at each position.
#[derive(Debug)]
pub struct Examples {
    source: Batch,
    target: Batch,
    /// Rows of `target` that count, what each should predict, and its weight in the loss.
    loss_rows: Vec<u32>,
    labels: Vec<u32>,
    weights: Vec<f32>,
    settings: LossSettings,
}

impl Examples {
    /// Reads padded rectangles; `labels` and `weights` have the target's shape. Without weights
    /// every position weighs 1, also masked ones, as in Keras.
    ///
    /// A position is computed if its mask is true or its weight is not zero, or if a query that
    /// sees no key takes the mean over all positions, this one among them; or if `settings` ask for
    /// all.
    ///
    /// # Errors
    /// `Argument` for ids outside the model's tables, or labels outside the vocabulary.
    pub fn new(
        model: &BartModel,
        source: &Padded,
        target: &Padded,
        labels: &[u32],
        weights: Option<&[f32]>,
        settings: LossSettings,
    ) -> Result<Self> {
        let every = settings.every_position;
        let counts = |i: usize| every || weights.is_none_or(|weights| weights[i] != 0.0);
        let wanted: Vec<bool> = (0..target.ids.len()).map(counts).collect();
        let target_rows = target.rows_for(&wanted);
        let source_rows = source.rows_seen_by(&target_rows, target.width);
        let examples = Examples {
            source: source.batch(&source_rows),
            target: target.batch(&target_rows),
            loss_rows: places(&wanted, &target_rows),
            labels: select(labels, &wanted),
            weights: weights.map_or_else(|| vec![1.0; labels.len()], |w| select(w, &wanted)),
            settings: LossSettings {
                normalizer: settings.normalizer.or(Some(labels.len() as f64)),
                ..settings
            },
        };
        examples.source.check("encoder_token_ids", model.config())?;
        examples.target.check("decoder_token_ids", model.config())?;
        let vocabulary = model.config().vocab_size;
        if let Some(label) = examples.labels.iter().find(|&&label| label as usize >= vocabulary) {
            let message = format!("labels must be 0 to {}, received {label}", vocabulary - 1);
            return Err(Error::argument("y", message));
        }
        Ok(examples)
    }

    /// The loss tensor, and what is reported of it.
    fn loss(&self, model: &BartModel, pass: &Pass) -> Result<(Option<Tensor>, StepResult)> {
        if self.loss_rows.is_empty() {
            return Ok((None, StepResult::of_weights(&self.weights, self.settings.detail)));
        }
        let memory = model.encode(&self.source, pass)?;
        let mut hidden = model.decode(&self.target, &memory, &self.source, pass)?;
        if self.loss_rows.len() < self.target.rows() {
            hidden = hidden.select(&self.loss_rows)?;
        }
        let settings = &self.settings;
        if settings.detail != Detail::Logits {
            let scale = row_scales(&self.weights, settings);
            let targets = (&self.labels[..], &scale[..], settings.label_smoothing as f32);
            if let Some((loss, rows)) = model.head_loss(&hidden, targets, pass)? {
                return Ok((Some(loss), summed(&rows, &self.weights, settings)));
            }
        }
        let logits = model.logits(&hidden, pass)?.tensor()?;
        let (loss, result) = weighted_loss(&logits, &self.labels, &self.weights, settings)?;
        Ok((Some(loss), result))
    }
}

/// Where the wanted positions lie among those that are computed.
fn places(wanted: &[bool], computed: &[bool]) -> Vec<u32> {
    let mut row = 0;
    let mut rows = Vec::new();
    for (&wanted, &computed) in wanted.iter().zip(computed) {
        if wanted {
            rows.push(row);
        }
        row += u32::from(computed);
    }
    rows
}

fn select<T: Copy>(values: &[T], wanted: &[bool]) -> Vec<T> {
    values.iter().zip(wanted).filter(|(_, wanted)| **wanted).map(|(value, _)| *value).collect()
}

/// Loss and accuracy of a batch, without dropout; nothing is changed.
///
/// # Errors
/// Only what the tensor library reports.
pub fn evaluate(model: &BartModel, examples: &Examples) -> Result<StepResult> {
    model.place().alone(|| Ok(examples.loss(model, &Pass::inference())?.1))
}

/// One step of training. A loss or gradient that is not finite changes nothing: see
/// [`StepResult::applied`].
///
/// # Errors
/// `Argument` for a model in 16 or 8 bits, else what the optimizer or the tensor library reports.
pub fn train(
    model: &BartModel,
    optimizer: &mut Optimizer,
    examples: &Examples,
    learning_rate: f64,
    seed: u64,
) -> Result<StepResult> {
    model.check_trainable()?;
    suit_training();
    let _alone = model.lock_for_training();
    model.place().alone(|| {
        let (loss, result) = examples.loss(model, &model.training_pass(seed))?;
        let trainable = model.trainable();
        let parameters: Vec<&Parameter> = trainable.iter().map(Arc::as_ref).collect();
        update(&parameters, optimizer, loss.as_ref(), result, learning_rate)
    })
}

/// Changes `parameters` by the gradients of a loss, if both are finite.
pub(super) fn update(
    parameters: &[&Parameter],
    optimizer: &mut Optimizer,
    loss: Option<&Tensor>,
    mut result: StepResult,
    learning_rate: f64,
) -> Result<StepResult> {
    if !result.loss.is_finite() {
        return Ok(result);
    }
    let gradients = Gradients::of(parameters, loss)?;
    #[cfg(feature = "cuda")]
    if let Some(card) = super::on_card::card_of(parameters, optimizer)? {
        return super::on_card::update(
            &card,
            parameters,
            &gradients,
            optimizer,
            result,
            learning_rate,
        );
    }
    let norm = gradients.norm()?;
    result.gradient_norm = Some(norm);
    if !norm.is_finite() {
        return Ok(result);
    }
    optimizer.begin_step(learning_rate);
    if optimizer.accumulates() {
        for parameter in parameters {
            let (name, matrices) = (parameter.name(), parameter.matrices());
            gradients
                .with(parameter, |gradient| optimizer.accumulate(name, matrices, gradient))??;
        }
    }
    optimizer.clip_to_global_norm(norm);
    for parameter in parameters {
        let mut outcome = Ok(());
        gradients.with(parameter, |gradient| {
            parameter.update(|value| {
                outcome = optimizer.update(parameter.name(), parameter.matrices(), value, gradient);
            })
        })??;
        outcome?;
    }
    result.applied = true;
    Ok(result)
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
