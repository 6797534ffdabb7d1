//! The decoding loop for samplers, and the entry for both ways of decoding.

use super::beams;
use super::constraints::check_choice;
use super::input::{Input, Sequence};
use super::model::{PromptRow, StepModel, StepRow};
use super::options::Options;
use super::samplers::{Method, Sampler};
use super::scores;
use crate::error::{Error, Result};
use crate::random::Stream;

/// Decodes every input and returns its sequences, best first: one for samplers, as many as asked
/// for with beam search. `stop` is called before every pass of the model; its error ends the call.
///
/// # Errors
/// What `stop` or the model return; `Weights` when a logit is NaN or infinite; `Argument` when
/// every token of the vocabulary is ruled out.
pub fn generate(
    model: &mut dyn StepModel,
    inputs: &[Input],
    options: &Options,
    stop: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Vec<Sequence>>> {
    match &options.method {
        Method::Sample(sampler) => {
            let sequences = Sampling::new(inputs, options, sampler.as_ref()).run(model, stop)?;
            Ok(sequences.into_iter().map(|sequence| vec![sequence]).collect())
        }
        Method::Beam(settings) => beams::search(model, inputs, options, settings, stop),
    }
}

/// The state of a call: one sequence for each input, of which `live` still grow.
struct Sampling<'a> {
    inputs: &'a [Input],
    options: &'a Options,
    sampler: &'a dyn Sampler,
    sequences: Vec<Sequence>,
    live: Vec<usize>,
}

impl<'a> Sampling<'a> {
    fn new(inputs: &'a [Input], options: &'a Options, sampler: &'a dyn Sampler) -> Self {
        let begin = |input: &Input| Sequence {
            ids: input.prompt(input.start()).to_vec(),
            score: 0.0,
            stopped: false,
        };
        let sequences: Vec<_> = inputs.iter().map(begin).collect();
        let live = (0..inputs.len())
            .filter(|&row| sequences[row].ids.len() < inputs[row].max_length())
            .collect();
        Self { inputs, options, sampler, sequences, live }
    }

    fn run(
        mut self,
        model: &mut dyn StepModel,
        stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Sequence>> {
        let mut logits = Vec::new();
        let mut steps: Vec<StepRow> = Vec::with_capacity(self.live.len());
        if !self.live.is_empty() {
            stop()?;
            model.prefill(&self.prompts(), 1, &mut logits)?;
        }
        while !self.live.is_empty() {
            self.extend(&mut logits, model.vocabulary_size())?;
            let (sequences, inputs) = (&self.sequences, self.inputs);
            self.live.retain(|&row| {
                !sequences[row].stopped && sequences[row].ids.len() < inputs[row].max_length()
            });
            steps.clear();
            steps.extend(self.live.iter().filter_map(|&slot| {
                let ids = &self.sequences[slot].ids;
                ids.last().map(|&token| StepRow { slot, token, position: ids.len() - 1 })
            }));
            if !steps.is_empty() {
                stop()?;
                model.step(&steps, &mut logits)?;
            }
        }
        Ok(self.sequences)
    }

    fn prompts(&self) -> Vec<PromptRow<'_>> {
        let prompt = |&source: &usize| PromptRow {
            source,
            slot: source,
            tokens: &self.sequences[source].ids,
            capacity: self.inputs[source].max_length(),
        };
        self.live.iter().map(prompt).collect()
    }

    /// Appends one token to every live row. `logits` is `[live, vocabulary]`.
    fn extend(&mut self, logits: &mut [f32], vocabulary: usize) -> Result<()> {
        check_shape(logits, self.live.len(), vocabulary)?;
        let limit = self.options.vocabulary_limit.unwrap_or(vocabulary).clamp(1, vocabulary);
        for (&row, logits) in self.live.iter().zip(logits.chunks_exact_mut(vocabulary)) {
            let (input, position) = (&self.inputs[row], self.sequences[row].ids.len());
            if let Some(token) = input.forced(position) {
                self.sequences[row].ids.push(token);
                continue;
            }
            let logits = &mut logits[..limit];
            scores::check_logits(logits, input.sequence(), position)?;
            self.options.constrain(&input.context(&self.sequences[row].ids), logits)?;
            let best = logits[scores::argmax(logits) as usize];
            check_choice(best, position, &self.options.constraints)?;
            let mut draws = Stream::new(self.options.seed, input.sequence(), position as u64);
            let token = self.sampler.choose(logits, &mut draws);
            let sequence = &mut self.sequences[row];
            sequence.ids.push(token);
            sequence.stopped = self.options.stops(&sequence.ids, input.number())?;
        }
        Ok(())
    }
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
