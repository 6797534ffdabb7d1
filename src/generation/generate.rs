//! The decoding loop for samplers, and the entry for all ways of decoding.

use std::iter::repeat_n;

use super::beams;
use super::constraints::check_choice;
use super::contrastive;
use super::input::{Input, Sequence};
use super::model::{PromptRow, StepModel, StepRow};
use super::options::Options;
use super::samplers::{Choice, Method, SampleSettings};
use super::scores;
use crate::error::{Error, Result};
use crate::random::Stream;

/// Decodes every input and returns its sequences: as many as asked for, best first with beam search.
/// `stop` is called before every pass of the model; its error ends the call.
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
        Method::Sample(settings) => Sampling::new(inputs, options, settings).run(model, stop),
        Method::Contrastive(settings) => {
            contrastive::search(model, inputs, options, *settings, stop)
        }
        Method::Beam(settings) => beams::search(model, inputs, options, settings, stop),
    }
}

/// The state of a call: `returned` rows for each input, of which `live` still grow.
struct Sampling<'a> {
    inputs: &'a [Input],
    options: &'a Options,
    settings: &'a SampleSettings,
    /// Row `r` is answer `r % returned` of input `r / returned`, and has the cache slot `r`.
    rows: Vec<Sequence>,
    live: Vec<usize>,
}

impl<'a> Sampling<'a> {
    fn new(inputs: &'a [Input], options: &'a Options, settings: &'a SampleSettings) -> Self {
        let begin = |input: &Input| Sequence {
            ids: input.prompt(input.start()).to_vec(),
            score: 0.0,
            token_logprobs: Vec::new(),
            stopped: false,
        };
        let rows: Vec<_> =
            inputs.iter().flat_map(|input| repeat_n(input, settings.returned)).map(begin).collect();
        let live = (0..rows.len())
            .filter(|&row| rows[row].ids.len() < inputs[row / settings.returned].max_length())
            .collect();
        Self { inputs, options, settings, rows, live }
    }

    fn run(
        mut self,
        model: &mut dyn StepModel,
        stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Vec<Sequence>>> {
        let mut logits = Vec::new();
        let mut steps: Vec<StepRow> = Vec::with_capacity(self.live.len());
        if !self.live.is_empty() {
            stop()?;
            model.prefill(&self.prompts(), self.settings.returned, &mut logits)?;
        }
        while !self.live.is_empty() {
            self.extend(&mut logits, model.vocabulary_size())?;
            let (rows, inputs, returned) = (&self.rows, self.inputs, self.settings.returned);
            self.live.retain(|&row| {
                !rows[row].stopped && rows[row].ids.len() < inputs[row / returned].max_length()
            });
            steps.clear();
            steps.extend(self.live.iter().filter_map(|&slot| {
                let ids = &self.rows[slot].ids;
                ids.last().map(|&token| StepRow { slot, token, position: ids.len() - 1 })
            }));
            if !steps.is_empty() {
                stop()?;
                model.step(&steps, &mut logits)?;
            }
        }
        let mut rows = self.rows.into_iter();
        Ok(self
            .inputs
            .iter()
            .map(|_| rows.by_ref().take(self.settings.returned).collect())
            .collect())
    }

    fn prompts(&self) -> Vec<PromptRow<'_>> {
        let prompt = |&row: &usize| {
            let source = row / self.settings.returned;
            PromptRow {
                source,
                slot: row,
                tokens: &self.rows[row].ids,
                capacity: self.inputs[source].max_length(),
            }
        };
        self.live.iter().map(prompt).collect()
    }

    /// Appends one token to every live row. `logits` is `[live, vocabulary]`.
    fn extend(&mut self, logits: &mut [f32], vocabulary: usize) -> Result<()> {
        check_shape(logits, self.live.len(), vocabulary)?;
        let limit = self.options.vocabulary_limit.unwrap_or(vocabulary).clamp(1, vocabulary);
        for (&row, logits) in self.live.iter().zip(logits.chunks_exact_mut(vocabulary)) {
            let (source, answer) = (row / self.settings.returned, row % self.settings.returned);
            let (input, sequence) = (&self.inputs[source], &mut self.rows[row]);
            match input.forced(sequence.ids.len()) {
                Some(token) => {
                    sequence.ids.push(token);
                    if self.options.token_logprobs {
                        sequence.token_logprobs.push(0.0);
                    }
                }
                None => self.settings.choose(
                    self.options,
                    input,
                    input.stream(answer),
                    sequence,
                    &mut logits[..limit],
                )?,
            }
        }
        Ok(())
    }
}

impl SampleSettings {
    /// Appends the token that the sampler chooses to `sequence`, whose random stream is `stream`.
    fn choose(
        &self,
        options: &Options,
        input: &Input,
        stream: u64,
        sequence: &mut Sequence,
        logits: &mut [f32],
    ) -> Result<()> {
        let position = sequence.ids.len();
        scores::check_logits(logits, input.sequence(), position)?;
        options.constrain(&input.context(&sequence.ids), logits)?;
        let best = logits[scores::argmax(logits) as usize];
        check_choice(best, position, &options.constraints)?;
        let mut draws = Stream::new(options.seed, stream, position as u64);
        let Choice { token, log_probability } = self.sampler.choose(logits, &mut draws);
        if options.token_logprobs {
            let of_logits = || scores::log_probability(logits, token);
            sequence.token_logprobs.push(log_probability.unwrap_or_else(of_logits));
        }
        sequence.ids.push(token);
        sequence.stopped = options.stops(&sequence.ids, input.sequence())?;
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
