//! A training step of a sequence classifier: one label a text, the head and the whole model trained.

use std::sync::Arc;

use candle_core::Tensor;

use super::loss::{LossSettings, StepResult, weighted_loss};
use super::optimizer::Optimizer;
use super::step::update;
use crate::error::{Error, Result};
use crate::kernels::lasting::suit_training;
use crate::model::classification_head::ClassificationHead;
use crate::model::{BartModel, Batch, Parameter, Pass};

/// Texts and their labels.
#[derive(Debug)]
pub struct LabelledTexts {
    /// What the encoder reads of each text.
    pub source: Batch,
    /// What the decoder reads, up to the row that is classified.
    pub target: Batch,
    /// The class of each text.
    pub labels: Vec<u32>,
    /// How much each counts in the loss.
    pub weights: Vec<f32>,
    /// How the loss is made of them.
    pub settings: LossSettings,
}

impl LabelledTexts {
    fn loss(
        &self,
        model: &BartModel,
        head: &ClassificationHead,
        pass: &Pass,
    ) -> Result<(Tensor, StepResult)> {
        let rows = self.source.sequences();
        if self.labels.len() != rows || self.weights.len() != rows {
            let message = format!("must have a label for each of {rows} texts");
            return Err(Error::argument("y", message));
        }
        let logits = head.classify(model, &self.source, &self.target, pass)?;
        let classes = logits.width();
        if let Some(label) = self.labels.iter().find(|&&label| label as usize >= classes) {
            let message = format!("labels must be 0 to {}, received {label}", classes - 1);
            return Err(Error::argument("y", message));
        }
        weighted_loss(&logits.tensor()?, &self.labels, &self.weights, &self.settings)
    }
}

/// Loss and accuracy of a batch, without dropout; nothing is changed.
///
/// # Errors
/// `Argument` for ids outside the model's tables or labels that are no classes.
pub fn evaluate(
    model: &BartModel,
    head: &ClassificationHead,
    texts: &LabelledTexts,
) -> Result<StepResult> {
    model.place().alone(|| Ok(texts.loss(model, head, &Pass::inference())?.1))
}

/// One step of training. A loss or gradient that is not finite changes nothing: see
/// [`StepResult::applied`].
///
/// # Errors
/// As [`evaluate`], `Argument` for a model in 16 or 8 bits, and what the optimizer or the tensor library reports.
pub fn train(
    model: &BartModel,
    head: &ClassificationHead,
    optimizer: &mut Optimizer,
    texts: &LabelledTexts,
    learning_rate: f64,
    seed: u64,
) -> Result<StepResult> {
    model.check_trainable()?;
    suit_training();
    let _alone = model.lock_for_training();
    model.place().alone(|| {
        let (loss, result) = texts.loss(model, head, &model.training_pass(seed))?;
        // A language-model head of its own takes no part.
        let trainable = model.trainable();
        let of_model = trainable.iter().filter(|parameter| parameter.name() != "lm_head.weight");
        let of_head = head.parameters().iter().filter(|parameter| parameter.is_trainable());
        let parameters: Vec<&Parameter> = of_model.chain(of_head).map(Arc::as_ref).collect();
        update(&parameters, optimizer, Some(&loss), result, learning_rate)
    })
}
