//! Decoding token by token: each row's next token is chosen by a sampler from its scores alone.

use std::iter::repeat_n;
use std::mem;
use std::sync::Arc;

use super::constraints::check_choice;
use super::generate::{Decoding, check_shape};
use super::input::{Input, Sequence};
use super::model::{PromptRow, StepModel, StepRow};
use super::options::Options;
use super::samplers::{Choice, SampleSettings};
use super::scores;
use crate::error::Result;
use crate::random::Stream;

/// The state of a generation: `returned` rows for each input, of which `live` still grow.
pub(super) struct Sampling {
    inputs: Vec<Arc<Input>>,
    options: Arc<Options>,
    settings: Arc<SampleSettings>,
    /// Row `r` is answer `r % returned` of input `r / returned`, and has the cache slot `r`.
    rows: Vec<Sequence>,
    live: Vec<usize>,
    /// Whether the prompts were fed.
    has_begun: bool,
    logits: Vec<f32>,
    steps: Vec<StepRow>,
}

impl Sampling {
    pub fn new(
        inputs: Vec<Arc<Input>>,
        options: Arc<Options>,
        settings: Arc<SampleSettings>,
    ) -> Self {
        let begin = |input: &Arc<Input>| Sequence {
            ids: input.prompt(input.start()).to_vec(),
            score: 0.0,
            token_logprobs: Vec::new(),
            stopped: false,
        };
        let rows: Vec<_> =
            inputs.iter().flat_map(|input| repeat_n(input, settings.returned)).map(begin).collect();
        let live = (0..rows.len()).collect();
        let (logits, steps) = (Vec::new(), Vec::new());
        let mut sampling =
            Self { inputs, options, settings, rows, live, has_begun: false, logits, steps };
        sampling.part_with_ended();
        sampling
    }

    /// Takes rows that have stopped or have no room out of the batch.
    fn part_with_ended(&mut self) {
        let (rows, inputs, returned) = (&self.rows, &self.inputs, self.settings.returned);
        self.live.retain(|&row| {
            !rows[row].stopped && rows[row].ids.len() < inputs[row / returned].max_length()
        });
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

    /// Writes down what each live row is fed.
    fn plan(&mut self) {
        self.steps.clear();
        let rows = &self.rows;
        self.steps.extend(self.live.iter().filter_map(|&slot| {
            let ids = &rows[slot].ids;
            ids.last().map(|&token| StepRow { slot, token, position: ids.len() - 1 })
        }));
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
                    &self.options,
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

impl Decoding for Sampling {
    fn is_over(&self) -> bool {
        self.live.is_empty()
    }

    fn step(
        &mut self,
        model: &mut dyn StepModel,
        stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        stop()?;
        let mut logits = mem::take(&mut self.logits);
        if mem::replace(&mut self.has_begun, true) {
            self.plan();
            model.step(&self.steps, &mut logits)?;
        } else {
            model.prefill(&self.prompts(), self.settings.returned, &mut logits)?;
        }
        self.extend(&mut logits, model.vocabulary_size())?;
        self.logits = logits;
        self.part_with_ended();
        Ok(())
    }

    fn certain(&self, input: usize) -> &[u32] {
        // What was chosen stays.
        &self.rows[input * self.settings.returned].ids
    }

    fn finish(self: Box<Self>) -> Vec<Vec<Sequence>> {
        let mut rows = self.rows.into_iter();
        let returned = self.settings.returned;
        self.inputs.iter().map(|_| rows.by_ref().take(returned).collect()).collect()
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
