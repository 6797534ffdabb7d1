//! Beam search: several sequences for each input, compared by summed log probabilities.
//!
//! The driver here scores, feeds and reorders; a [`Search`] holds one input's beams and knows the
//! rule by which they live, end and are ranked: [`standard`] is Hugging Face's, [`keras`]
//! keras-hub's.

mod keras;
mod settings;
mod standard;
#[cfg(test)]
mod tests;

use super::constraints::check_choice;
use super::generate::check_shape;
use super::input::{Input, Sequence};
use super::model::{PromptRow, StepModel, StepRow};
use super::options::Options;
use super::scores;
use crate::error::Result;

pub(super) use settings::build;
pub use settings::{BeamRule, BeamSettings, EarlyStopping};

/// Score of what is not a sequence: beams that only exist as copies of the first one, places for
/// ended sequences that are still empty. The references use this number, not infinity, and which
/// copies survive in a tiny vocabulary depends on it.
const NO_SCORE: f32 = -1e9;

/// A sequence that is still being extended.
#[derive(Clone, Debug)]
struct Beam {
    ids: Vec<u32>,
    /// Of every token after the first `start` ones; see [`Sequence::token_logprobs`].
    token_logprobs: Vec<f32>,
    score: f32,
    /// The length at which the first stop token was generated (keras rule only: under the standard
    /// rule such a sequence is no longer extended).
    end: Option<usize>,
}

impl Beam {
    /// Becomes `origin` followed by a candidate's token, reusing the memory.
    fn continue_from(&mut self, origin: &Beam, candidate: &Candidate) {
        self.ids.clone_from(&origin.ids);
        self.ids.push(candidate.id);
        self.token_logprobs.clone_from(&origin.token_logprobs);
        self.token_logprobs.push(candidate.token_logprob);
        self.score = candidate.score;
    }
}

/// A possible extension: beam `beam` followed by token `id`, their score and the token's part of it.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    score: f32,
    token_logprob: f32,
    beam: usize,
    id: u32,
    /// Whether the sequence ends here, other than by its length.
    stops: bool,
}

/// The beams of one input.
trait Search<'a>: Sized {
    /// Starts from the first `start` tokens of the input.
    fn begin(
        input: &'a Input,
        start: usize,
        options: &'a Options,
        settings: &'a BeamSettings,
    ) -> Self;
    /// The beams to extend, `num_beams` of them and all of one length.
    fn beams(&self) -> &[Beam];
    /// For each beam, which beam before the last [`Search::advance`] it continues.
    fn parents(&self) -> &[usize];
    /// How many of the best candidates [`Search::advance`] needs.
    fn candidates(&self) -> usize;
    /// Turns logits into log probabilities.
    fn score(&self, row: &mut [f32], forced: Option<u32>);
    /// Extends every beam by one token, given the best candidates in order.
    fn advance(&mut self, candidates: &[Candidate]);
    /// Whether nothing is left to extend.
    fn is_over(&self) -> bool;
    /// Whether the call may end as far as this input is concerned.
    fn is_settled(&self) -> bool;
    /// The answers, best first.
    fn finish(self) -> Vec<Sequence>;
}

/// Decodes every input by beam search; see [`super::generate`].
pub(super) fn search(
    model: &mut dyn StepModel,
    inputs: &[Input],
    options: &Options,
    settings: &BeamSettings,
    stop: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Vec<Sequence>>> {
    match settings.rule {
        BeamRule::Standard => {
            let searches = inputs
                .iter()
                .map(|input| standard::Standard::begin(input, input.start(), options, settings))
                .collect();
            Driver::new(inputs, options, settings, searches).run(model, stop)
        }
        BeamRule::Keras => {
            // keras-hub extends all rows from the shortest prompt on.
            let start = inputs.iter().map(Input::start).min().unwrap_or(0);
            let searches = inputs
                .iter()
                .map(|input| keras::Keras::begin(input, start, options, settings))
                .collect();
            Driver::new(inputs, options, settings, searches).run(model, stop)
        }
    }
}

/// The state of a call: a search for each input, of which `live` still extend their beams.
struct Driver<'a, S> {
    inputs: &'a [Input],
    options: &'a Options,
    settings: &'a BeamSettings,
    searches: Vec<S>,
    live: Vec<usize>,
    /// Rows of logits that each live input has: one after the prompt, which all beams share, then
    /// one for each beam.
    rows_each: usize,
    candidates: Vec<Candidate>,
    moves: Vec<(usize, usize)>,
    steps: Vec<StepRow>,
}

impl<'a, S: Search<'a>> Driver<'a, S> {
    fn new(
        inputs: &'a [Input],
        options: &'a Options,
        settings: &'a BeamSettings,
        searches: Vec<S>,
    ) -> Self {
        let live = (0..inputs.len()).filter(|&source| !searches[source].is_over()).collect();
        Self {
            inputs,
            options,
            settings,
            searches,
            live,
            rows_each: 1,
            candidates: Vec::new(),
            moves: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn run(
        mut self,
        model: &mut dyn StepModel,
        stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Vec<Sequence>>> {
        let mut logits = Vec::new();
        if !self.live.is_empty() {
            stop()?;
            model.prefill(&self.prompts(), self.settings.num_beams, &mut logits)?;
        }
        while !self.live.is_empty() {
            self.advance(&mut logits, model.vocabulary_size())?;
            if self.searches.iter().all(S::is_settled) {
                break;
            }
            let searches = &self.searches;
            self.live.retain(|&source| !searches[source].is_over());
            self.plan();
            self.rows_each = self.settings.num_beams;
            if !self.moves.is_empty() {
                model.reorder(&self.moves)?;
            }
            if !self.steps.is_empty() {
                stop()?;
                model.step(&self.steps, &mut logits)?;
            }
        }
        Ok(self.searches.into_iter().map(S::finish).collect())
    }

    fn prompts(&self) -> Vec<PromptRow<'_>> {
        let prompt = |&source: &usize| PromptRow {
            source,
            slot: source * self.settings.num_beams,
            tokens: &self.searches[source].beams()[0].ids,
            capacity: self.inputs[source].max_length(),
        };
        self.live.iter().map(prompt).collect()
    }

    /// Scores the next tokens of every live input and extends its beams. `logits` is
    /// `[live * rows_each, vocabulary]`.
    fn advance(&mut self, logits: &mut [f32], vocabulary: usize) -> Result<()> {
        check_shape(logits, self.live.len() * self.rows_each, vocabulary)?;
        let limit = self.options.vocabulary_limit.unwrap_or(vocabulary).clamp(1, vocabulary);
        for place in 0..self.live.len() {
            let source = self.live[place];
            let position = self.searches[source].beams()[0].ids.len();
            // A given token may lie beyond the limit on generated ones.
            let given = self.inputs[source].forced(position).is_some();
            let limit = if given { vocabulary } else { limit };
            let size = self.rows_each * vocabulary;
            let rows = &mut logits[place * size..][..size];
            for (beam, row) in rows.chunks_exact_mut(vocabulary).enumerate() {
                self.score(source, beam, &mut row[..limit])?;
            }
            self.collect(source, rows, vocabulary, limit);
            let best = self.candidates.first().map_or(f32::NEG_INFINITY, |first| first.score);
            check_choice(best, position, &self.options.constraints)?;
            if !given {
                self.ask_for_stops(source)?;
            }
            self.searches[source].advance(&self.candidates);
        }
        Ok(())
    }

    /// Turns a beam's logits into log probabilities that keep to the constraints.
    fn score(&self, source: usize, beam: usize, row: &mut [f32]) -> Result<()> {
        let (input, search) = (&self.inputs[source], &self.searches[source]);
        let ids = &search.beams()[beam].ids;
        scores::check_logits(row, input.sequence(), ids.len())?;
        let forced = input.forced(ids.len());
        search.score(row, forced);
        if forced.is_none() {
            self.options.constrain(&input.context(ids), row)?;
        }
        Ok(())
    }

    /// Gathers the best candidates of an input over all its beams: higher scores first, then lower
    /// beams, then lower ids.
    fn collect(&mut self, source: usize, rows: &[f32], vocabulary: usize, limit: usize) {
        let wanted = self.searches[source].candidates();
        self.candidates.clear();
        let mut top = Vec::new();
        for (beam, state) in self.searches[source].beams().iter().enumerate() {
            if beam < self.rows_each {
                top = scores::top_k(&rows[beam * vocabulary..][..limit], wanted);
            }
            let candidate = |&(id, score)| Candidate {
                score: score + state.score,
                token_logprob: score,
                beam,
                id,
                stops: false,
            };
            self.candidates.extend(top.iter().map(candidate));
        }
        self.candidates.sort_by(|a, b| {
            b.score.total_cmp(&a.score).then(a.beam.cmp(&b.beam)).then(a.id.cmp(&b.id))
        });
        self.candidates.truncate(wanted);
    }

    /// Notes which candidates of an input end their sequences. Given tokens never do.
    fn ask_for_stops(&mut self, source: usize) -> Result<()> {
        let (input, beams) = (&self.inputs[source], self.searches[source].beams());
        let mut ids = Vec::new();
        for candidate in &mut self.candidates {
            ids.clone_from(&beams[candidate.beam].ids);
            ids.push(candidate.id);
            candidate.stops = self.options.stops(&ids, input.sequence())?;
        }
        Ok(())
    }

    /// Writes down which slots continue which, and what each slot is fed.
    fn plan(&mut self) {
        let beams = self.settings.num_beams;
        self.moves.clear();
        self.steps.clear();
        for &source in &self.live {
            let search = &self.searches[source];
            for (beam, (state, &parent)) in search.beams().iter().zip(search.parents()).enumerate()
            {
                let slot = source * beams + beam;
                // After the prompt only the first slot has a history.
                let origin = source * beams + if self.rows_each == 1 { 0 } else { parent };
                if origin != slot {
                    self.moves.push((slot, origin));
                }
                if let Some((&token, history)) = state.ids.split_last() {
                    self.steps.push(StepRow { slot, token, position: history.len() });
                }
            }
        }
    }
}
