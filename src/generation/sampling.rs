//! Decoding token by token: each row's next token is chosen by a sampler from its scores alone.

use std::iter::repeat_n;
use std::mem;
use std::sync::Arc;

use super::constraints::check_choice;
use super::generate::{Decoding, check_rows, check_shape};
use super::input::{Input, Sequence, with_room};
use super::model::{PromptRow, Scores, StepModel, StepRow, View, Wanted};
use super::options::Options;
use super::ruled_out::RuledOut;
use super::samplers::{Choice, SampleSettings};
use super::scores;
use super::speculation::{Speculation, Speculative};
use crate::error::Result;
use crate::kernels::parallel;
use crate::ops::choices::{Choices, Chosen, Pick};
use crate::ops::head::Best;
use crate::random::Stream;

/// Scores below which the rows of a pass are not shared among threads.
const SCORES_TO_SHARE: usize = 1 << 14;

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
    scores: Scores,
    steps: Vec<StepRow>,
    ruled_out: RuledOut,
    choices: Choices,
    /// What was chosen, from all scores or by the model, after rows of the last pass.
    chosen: Vec<Chosen>,
    /// A row's history with some of its guesses; the best tokens that are allowed.
    history: Vec<u32>,
    candidates: Vec<(u32, f32)>,
}

impl Sampling {
    pub fn new(
        inputs: Vec<Arc<Input>>,
        options: Arc<Options>,
        settings: Arc<SampleSettings>,
    ) -> Self {
        let begin = |input: &Arc<Input>| {
            let most = input.max_length();
            let scored = if options.token_logprobs { most } else { 0 };
            Sequence {
                ids: with_room(input.prompt(input.start()), most),
                score: 0.0,
                token_logprobs: Vec::with_capacity(scored),
                stopped: false,
            }
        };
        let rows: Vec<_> =
            inputs.iter().flat_map(|input| repeat_n(input, settings.returned)).map(begin).collect();
        let live = (0..rows.len()).collect();
        let longest = inputs.iter().map(|input| input.max_length()).max().unwrap_or(0);
        let mut sampling = Self {
            inputs,
            options,
            settings,
            rows,
            live,
            has_begun: false,
            speculation: None,
            scores: Scores::default(),
            steps: Vec::new(),
            ruled_out: RuledOut::default(),
            choices: Choices::default(),
            chosen: Vec::new(),
            history: Vec::with_capacity(longest),
            candidates: Vec::new(),
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
    fn begin(&mut self, model: &mut dyn StepModel, scores: &mut Scores) -> Result<()> {
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
        let wanted = self.wanted(model.vocabulary_size());
        model.prefill(&self.prompts(), self.settings.returned, wanted, scores)
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

    /// What has to be known of the scores after each row that is fed.
    fn wanted(&mut self, vocabulary: usize) -> Wanted {
        let Some(candidates) = self.settings.sampler.candidates() else { return Wanted::All };
        self.ruled_out.clear();
        for &row in &self.live {
            let input = &self.inputs[row / self.settings.returned];
            let draft = self.speculation.as_ref().map_or(&[][..], |all| all.draft(row));
            self.history.clone_from(&self.rows[row].ids);
            for guess in 0..=draft.len() {
                if input.forced(self.history.len()).is_some() {
                    self.ruled_out.push_none();
                } else if !self.ruled_out.push(&self.options, &input.context(&self.history)) {
                    return Wanted::All;
                }
                self.history.extend(draft.get(guess));
            }
        }
        let log_sum = self.options.token_logprobs;
        if log_sum && !self.ruled_out.is_empty() {
            // Of the tokens that are left: not the sum over all.
            return Wanted::All;
        }
        self.ruled_out.wanted(candidates, self.limit(vocabulary), log_sum)
    }

    /// Says how a model is to choose after each row that is fed; whether it can be said.
    fn describe(&mut self, vocabulary: usize) -> bool {
        let Some(pick) = self.settings.sampler.pick() else { return false };
        let limit = self.limit(vocabulary);
        let choices = &mut self.choices;
        choices.clear();
        (choices.pick, choices.limit) = (pick, limit);
        choices.log_probabilities = self.options.token_logprobs;
        for &row in &self.live {
            let input = &self.inputs[row / self.settings.returned];
            let ids = &self.rows[row].ids;
            let given = input.forced(ids.len());
            let is_told =
                given.is_some() || self.options.describe(&input.context(ids), &mut choices.rules);
            if !is_told {
                return false;
            }
            choices.push(given, ids.len());
            if pick != Pick::Best {
                let stream = input.stream(row % self.settings.returned);
                choices.keys.push(Stream::key(self.options.seed, stream));
            }
        }
        true
    }

    /// Feeds the live rows.
    fn go_on(&mut self, model: &mut dyn StepModel, scores: &mut Scores) -> Result<()> {
        let vocabulary = model.vocabulary_size();
        self.plan(vocabulary);
        let is_told = model.chooses() && self.speculation.is_none() && self.describe(vocabulary);
        let wanted = match is_told {
            true => {
                model.choose_by(&mut self.choices);
                Wanted::Chosen
            }
            false => self.wanted(vocabulary),
        };
        model.step(&self.steps, wanted, scores)
    }

    /// Only tokens below this are generated.
    fn limit(&self, vocabulary: usize) -> usize {
        self.options.vocabulary_limit.unwrap_or(vocabulary).clamp(1, vocabulary)
    }

    /// Chooses after all of the rows that were fed, where none depends on another; whether it has.
    fn choose_at_once(
        &mut self,
        view: &mut View<'_>,
        fed: usize,
        vocabulary: usize,
    ) -> Result<bool> {
        match view {
            View::Best(best) => check_rows(best.rows(), fed).map(|()| false),
            View::Chosen(chosen) => {
                check_rows(chosen.len(), fed)?;
                self.chosen.clear();
                self.chosen.extend_from_slice(chosen);
                Ok(true)
            }
            View::All(logits) => {
                check_shape(logits, fed, vocabulary)?;
                let at_once = fed == self.live.len() && !self.options.calls_functions();
                if at_once {
                    let live = mem::take(&mut self.live);
                    let outcome = self.choose(&live, logits, vocabulary);
                    self.live = live;
                    outcome?;
                }
                Ok(at_once)
            }
        }
    }

    /// Appends tokens to every live row: one, and as many more as were guessed right.
    fn extend(&mut self, model: &mut dyn StepModel, scores: &mut Scores) -> Result<()> {
        let vocabulary = model.vocabulary_size();
        // The first pass feeds prompts, whose last tokens alone have scores.
        let fed = if self.steps.is_empty() { self.live.len() } else { self.steps.len() };
        let mut view = scores.view();
        let at_once = self.choose_at_once(&mut view, fed, vocabulary)?;
        let mut first = 0;
        for place in 0..self.live.len() {
            let row = self.live[place];
            let guesses = self.guesses(row);
            let held = self.rows[row].ids.len() + guesses;
            for guess in 0..=guesses {
                let fed = first + guess;
                if let View::Best(best) = &view {
                    if let Some(chosen) = self.choose_of(row, fed, best) {
                        self.append(row, chosen)?;
                    } else {
                        model.all_scores(scores)?;
                        view = scores.view();
                    }
                }
                match &mut view {
                    View::Best(_) => {}
                    View::All(logits) if !at_once => {
                        let logits = &mut logits[fed * vocabulary..][..vocabulary];
                        self.choose(&[row], logits, vocabulary)?;
                        self.append(row, self.chosen[0])?;
                    }
                    View::All(_) | View::Chosen(_) => self.append(row, self.chosen[place])?,
                }
                if self.has_ended(row) || !self.was_guessed(row, guess) {
                    break;
                }
            }
            first += 1 + guesses;
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

    /// Chooses the next token of some rows from their logits `[rows, vocabulary]`, on all threads.
    fn choose(&mut self, rows: &[usize], logits: &mut [f32], vocabulary: usize) -> Result<()> {
        let mut chosen = mem::take(&mut self.chosen);
        chosen.clear();
        chosen.resize(rows.len(), Chosen::default());
        let limit = self.limit(vocabulary);
        let shared = rows.len() > 1 && logits.len() >= SCORES_TO_SHARE;
        let constrained = !self.options.constraints.is_empty();
        let is_free = |row: usize| self.input(row).forced(self.rows[row].ids.len()).is_none();
        let places = (&mut *logits, vocabulary);
        parallel::paired_chunks(places, (&mut chosen, 1), shared, |i, logits, chosen| {
            if is_free(rows[i]) {
                chosen[0].broken = scores::is_broken(&logits[..limit]);
                if !constrained && !chosen[0].broken {
                    self.choose_one(rows[i], &mut logits[..limit], &mut chosen[0]);
                }
            }
        });
        if constrained {
            let all = rows.iter().zip(&chosen).zip(logits.chunks_exact_mut(vocabulary));
            for ((&row, chosen), logits) in all {
                if is_free(row) && !chosen.broken {
                    let context = self.input(row).context(&self.rows[row].ids);
                    self.options.constrain(&context, &mut logits[..limit])?;
                }
            }
            let places = (logits, vocabulary);
            parallel::paired_chunks(places, (&mut chosen, 1), shared, |i, logits, chosen| {
                if is_free(rows[i]) && !chosen[0].broken {
                    self.choose_one(rows[i], &mut logits[..limit], &mut chosen[0]);
                }
            });
        }
        self.chosen = chosen;
        Ok(())
    }

    /// Chooses from logits that the constraints have seen.
    fn choose_one(&self, row: usize, logits: &mut [f32], chosen: &mut Chosen) {
        chosen.best = logits[scores::argmax(logits) as usize];
        if chosen.best == f32::NEG_INFINITY {
            return;
        }
        let Choice { token, log_probability } =
            self.settings.sampler.choose(logits, &mut self.draws(row));
        chosen.token = token;
        if self.options.token_logprobs {
            let of_logits = || scores::log_probability(logits, token);
            chosen.log_probability = Some(log_probability.unwrap_or_else(of_logits));
        }
    }

    /// The random numbers of a row's next token.
    fn draws(&self, row: usize) -> Stream {
        let stream = self.input(row).stream(row % self.settings.returned);
        Stream::new(self.options.seed, stream, self.rows[row].ids.len() as u64)
    }

    /// Chooses the token that a row's best ones lead to, of the pass it is row `fed`; `None` where these leave it
    /// open.
    fn choose_of(&mut self, row: usize, fed: usize, best: &Best) -> Option<Chosen> {
        let ruled_out = self.ruled_out.row(fed);
        self.candidates.clear();
        let allowed = best.row(fed).iter().filter(|(id, _)| !ruled_out.contains(id));
        self.candidates.extend(allowed.take(self.settings.sampler.candidates().unwrap_or(0)));
        let mut chosen = Chosen { best: f32::NEG_INFINITY, ..Chosen::default() };
        if let Some(&(_, highest)) = self.candidates.first() {
            let mut draws = self.draws(row);
            let choice = self.settings.sampler.choose_among(&self.candidates, &mut draws)?;
            let held = self.candidates.iter().find(|(id, _)| *id == choice.token);
            let of_logits = || held.map_or(highest, |&(_, logit)| logit) - best.log_sum(fed);
            chosen = Chosen {
                broken: false,
                best: highest,
                token: choice.token,
                log_probability: Some(choice.log_probability.unwrap_or_else(of_logits)),
            };
        }
        Some(chosen)
    }

    /// Appends to a row what was chosen, or the token that is given there.
    fn append(&mut self, row: usize, chosen: Chosen) -> Result<()> {
        let (input, sequence) = (&self.inputs[row / self.settings.returned], &mut self.rows[row]);
        let position = sequence.ids.len();
        let given = input.forced(position);
        if given.is_none() {
            if chosen.broken {
                return Err(scores::broken(input.sequence(), position));
            }
            check_choice(chosen.best, position, &self.options.constraints)?;
        }
        if self.options.token_logprobs {
            let certain = given.map(|_| 0.0);
            sequence.token_logprobs.extend(certain.or(chosen.log_probability));
        }
        sequence.ids.push(given.unwrap_or(chosen.token));
        if given.is_none() {
            sequence.stopped = self.options.stops(&sequence.ids, input.sequence())?;
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
        let mut scores = mem::take(&mut self.scores);
        if mem::replace(&mut self.has_begun, true) {
            self.go_on(model, &mut scores)?;
        } else {
            self.begin(model, &mut scores)?;
        }
        self.extend(model, &mut scores)?;
        self.scores = scores;
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
