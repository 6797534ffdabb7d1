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
use super::speculation::{Speculation, Speculative};
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
    /// Guesses, where they are made.
    speculation: Option<Speculation>,
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
        let mut sampling = Self {
            inputs,
            options,
            settings,
            rows,
            live,
            has_begun: false,
            speculation: None,
            logits: Vec::new(),
            steps: Vec::new(),
        };
        sampling.part_with_ended();
        sampling
    }

    fn input(&self, row: usize) -> &Input {
        &self.inputs[row / self.settings.returned]
    }

    fn has_ended(&self, row: usize) -> bool {
        let sequence = &self.rows[row];
        sequence.stopped || sequence.ids.len() >= self.input(row).max_length()
    }

    /// Takes rows that have stopped or have no room out of the batch.
    fn part_with_ended(&mut self) {
        let mut live = mem::take(&mut self.live);
        live.retain(|&row| !self.has_ended(row));
        self.live = live;
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

    /// Feeds the prompts.
    fn begin(&mut self, model: &mut dyn StepModel, logits: &mut Vec<f32>) -> Result<()> {
        let speculates = match self.options.speculative {
            Speculative::Off => false,
            Speculative::Auto => model.is_batch_invariant(),
            Speculative::Source => true,
        };
        if speculates {
            let rows = self.rows.iter().enumerate();
            let rows = rows.map(|(row, sequence)| (self.input(row), sequence));
            self.speculation = Some(Speculation::new(rows));
        }
        model.prefill(&self.prompts(), self.settings.returned, logits)
    }

    /// Writes down what each live row is fed: its last token, and what may follow it.
    fn plan(&mut self, vocabulary: usize) {
        self.steps.clear();
        for &slot in &self.live {
            let (ids, input) = (&self.rows[slot].ids, &self.inputs[slot / self.settings.returned]);
            let draft = match &mut self.speculation {
                Some(speculation) => {
                    speculation.guess(slot, input, ids, self.live.len(), vocabulary);
                    speculation.draft(slot)
                }
                None => &[],
            };
            let fed = ids.last().into_iter().chain(draft);
            let step = |(position, &token)| StepRow { slot, token, position };
            self.steps.extend((ids.len() - 1..).zip(fed).map(step));
        }
    }

    /// Appends tokens to every live row: one, and as many more as were guessed right. `logits` is
    /// `[fed, vocabulary]`.
    fn extend(&mut self, model: &mut dyn StepModel, logits: &mut [f32]) -> Result<()> {
        let vocabulary = model.vocabulary_size();
        // The first pass feeds prompts, whose last tokens alone have scores.
        let fed = if self.steps.is_empty() { self.live.len() } else { self.steps.len() };
        check_shape(logits, fed, vocabulary)?;
        let mut logits = logits.chunks_exact_mut(vocabulary);
        for place in 0..self.live.len() {
            let row = self.live[place];
            let guesses = self.guesses(row);
            let held = self.rows[row].ids.len() + guesses;
            let mut logits = logits.by_ref().take(1 + guesses);
            for guess in 0..=guesses {
                let Some(logits) = logits.next() else { break };
                self.append(row, logits)?;
                if self.has_ended(row) || !self.was_guessed(row, guess) {
                    break;
                }
            }
            logits.for_each(drop);
            let needed = self.rows[row].ids.len() - 1;
            if needed < held && !self.has_ended(row) {
                model.rewind(row, needed)?;
            }
        }
        Ok(())
    }

    /// How many guesses a row was fed.
    fn guesses(&self, row: usize) -> usize {
        self.speculation.as_ref().map_or(0, |speculation| speculation.draft(row).len())
    }

    /// Whether a row's last token is the guess with this number.
    fn was_guessed(&self, row: usize, guess: usize) -> bool {
        let draft = self.speculation.as_ref().map_or(&[][..], |all| all.draft(row));
        draft.get(guess).is_some_and(|guess| self.rows[row].ids.last() == Some(guess))
    }

    /// Appends to a row the token that the logits `[vocabulary]` lead to.
    fn append(&mut self, row: usize, logits: &mut [f32]) -> Result<()> {
        let (source, answer) = (row / self.settings.returned, row % self.settings.returned);
        let (input, sequence) = (&self.inputs[source], &mut self.rows[row]);
        let limit = self.options.vocabulary_limit.unwrap_or(logits.len()).clamp(1, logits.len());
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
        if let Some(speculation) = &mut self.speculation {
            speculation.follow(row, input, &sequence.ids);
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
            self.plan(model.vocabulary_size());
            model.step(&self.steps, &mut logits)?;
        } else {
            self.begin(model, &mut logits)?;
        }
        self.extend(model, &mut logits)?;
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
