//! A generation as a machine that is moved step by step, and the loop that moves it to its end.

use std::fmt;
use std::sync::Arc;

use super::beams;
use super::contrastive;
use super::input::{Input, Sequence};
use super::model::StepModel;
use super::options::Options;
use super::samplers::Method;
use super::sampling::Sampling;
use crate::error::{Error, Result};

/// Decodes every input and returns its sequences: as many as asked for, best first with beam search.
/// `stop` is called before every pass of the model; its error ends the call.
///
/// # Errors
/// What `stop` or the model return; `Weights` when a logit is NaN or infinite; `Argument` when
/// every token of the vocabulary is ruled out.
pub fn generate(
    model: &mut dyn StepModel,
    inputs: Vec<Input>,
    options: Arc<Options>,
    stop: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Vec<Sequence>>> {
    let mut generation = Generation::new(inputs, options);
    while !generation.is_over() {
        generation.step(model, stop)?;
    }
    Ok(generation.finish())
}

/// A generation that is moved by its owner, who may do something else between two steps. It holds
/// all but the model, which has to be the same in every step.
pub struct Generation(Box<dyn Decoding>);

impl Generation {
    /// Before its first step: nothing was computed.
    pub fn new(inputs: Vec<Input>, options: Arc<Options>) -> Self {
        let inputs = inputs.into_iter().map(Arc::new).collect();
        Self(match &options.method {
            Method::Sample(settings) => {
                let settings = settings.clone();
                Box::new(Sampling::new(inputs, options, settings))
            }
            Method::Contrastive(settings) => {
                let settings = *settings;
                Box::new(contrastive::Search::new(inputs, options, settings))
            }
            Method::Beam(settings) => {
                let settings = settings.clone();
                beams::search(inputs, options, settings)
            }
        })
    }

    /// Whether every sequence has ended, so that [`Generation::finish`] has the answers.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }

    /// Runs the model once and extends what is not at its end. `stop` is asked before.
    ///
    /// # Errors
    /// Those of [`generate`]; after one the generation is of no use any more.
    pub fn step(
        &mut self,
        model: &mut dyn StepModel,
        stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.0.step(model, stop)
    }

    /// The beginning, prompt included, that the first answer to an input will have whatever comes:
    /// each step makes it longer or leaves it as it is.
    pub fn certain(&self, input: usize) -> &[u32] {
        self.0.certain(input)
    }

    /// The answers to each input, best first.
    pub fn finish(self) -> Vec<Vec<Sequence>> {
        self.0.finish()
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}

/// A way of decoding; see [`Generation`], whose methods these are.
pub(super) trait Decoding: Send {
    fn is_over(&self) -> bool;
    fn step(
        &mut self,
        model: &mut dyn StepModel,
        stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()>;
    /// Is asked only while the generation is not over.
    fn certain(&self, input: usize) -> &[u32];
    fn finish(self: Box<Self>) -> Vec<Vec<Sequence>>;
}

/// Refuses logits of another shape than `[rows, vocabulary]`.
pub(super) fn check_shape(logits: &[f32], rows: usize, vocabulary: usize) -> Result<()> {
    if logits.len() == rows * vocabulary && vocabulary > 0 {
        return Ok(());
    }
    let message =
        format!("returned {} logits for {rows} rows of {vocabulary} tokens", logits.len());
    Err(Error::argument("model", message))
}

/// Refuses scores or choices after another number of rows.
pub(super) fn check_rows(found: usize, rows: usize) -> Result<()> {
    if found == rows {
        return Ok(());
    }
    let message = format!("returned what follows {found} rows for {rows}");
    Err(Error::argument("model", message))
}
