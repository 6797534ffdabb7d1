//! Beam search: several sequences for each input, compared by summed log probabilities.
//!
//! The driver here scores, feeds and reorders; a [`Search`] holds one input's beams and knows the
//! rule by which they live, end and are ranked: [`standard`] is Hugging Face's, [`groups`] its
//! diverse search, [`forced`] its search for forced words, [`keras`] keras-hub's.

mod candidates;
mod forced;
mod groups;
mod hypotheses;
mod keras;
#[cfg(test)]
mod sampling_tests;
mod settings;
mod standard;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;

use super::generate::{Decoding, check_rows, check_shape};
use super::input::{Input, Sequence, with_room};
use super::model::{PromptRow, Scores, StepModel, StepRow, View, Wanted};
use super::options::Options;
use super::ruled_out::RuledOut;
use super::scores;
use crate::error::Result;
use crate::kernels::parallel;
use crate::ops::choices::Beams;
use crate::ops::head::Best;
use candidates::{Candidate, Candidates, Rows};

pub use forced::ForcedWords;
pub(super) use settings::build;
pub use settings::{BeamRule, BeamSettings, EarlyStopping};

/// Score of what is not a sequence: beams that only exist as copies of the first one, places for
/// ended sequences that are still empty. The references use this number, not infinity, and which
/// copies survive in a tiny vocabulary depends on it.
const NO_SCORE: f32 = -1e9;

/// Scores below which the rows of a pass are not shared among threads.
const SCORES_TO_SHARE: usize = 1 << 14;

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

/// The beams of one input.
trait Search: Sized + Send + Sync + 'static {
    /// Starts from the first `start` tokens of the input.
    fn begin(
        input: Arc<Input>,
        start: usize,
        options: Arc<Options>,
        settings: Arc<BeamSettings>,
    ) -> Self;
    /// The beams to extend, `num_beams` of them and all of one length.
    fn beams(&self) -> &[Beam];
    /// For each beam, which beam before the last [`Search::advance`] it continues.
    fn parents(&self) -> &[usize];
    /// Into how many groups of equal size the beams are divided, which advance one after the other.
    fn groups(&self) -> usize {
        1
    }
    /// How many of the likeliest tokens after each beam a search looks at, where it looks at nothing
    /// but them and their log probabilities.
    fn candidates(_settings: &BeamSettings, _options: &Options) -> Option<usize> {
        None
    }
    /// Turns logits into log probabilities.
    fn score(&self, row: &mut [f32], forced: Option<u32>) {
        score(row, 1.0, forced);
    }
    /// Changes the log probabilities for a group before the constraints do.
    fn penalise(&self, _group: usize, _row: &mut [f32]) {}
    /// Changes them after the constraints.
    fn warp(&self, _row: &mut [f32]) {}
    /// Extends every beam of a group by one of the candidates.
    ///
    /// # Errors
    /// `Argument` when no token is allowed.
    fn advance(&mut self, group: usize, candidates: &mut Candidates<'_>) -> Result<()>;
    /// Whether nothing is left to extend.
    fn is_over(&self) -> bool;
    /// Whether the call may end as far as this input is concerned.
    fn is_settled(&self) -> bool;
    /// The beginning that the best answer will have, whatever comes: what all sequences share that can
    /// still be it. May be asked until the call ends.
    fn certain(&self) -> &[u32];
    /// The answers, best first.
    fn finish(self) -> Vec<Sequence>;
}

/// The decoding of every input by beam search.
pub(super) fn search(
    inputs: Vec<Arc<Input>>,
    options: Arc<Options>,
    settings: Arc<BeamSettings>,
) -> Box<dyn Decoding> {
    // keras-hub extends all rows from the shortest prompt on.
    let shortest = inputs.iter().map(|input| input.start()).min();
    match settings.rule {
        BeamRule::Standard => {
            Box::new(Driver::<standard::Standard>::new(inputs, options, settings, None))
        }
        BeamRule::Groups { .. } => {
            Box::new(Driver::<groups::Groups>::new(inputs, options, settings, None))
        }
        BeamRule::Forced(_) => {
            Box::new(Driver::<forced::Forced>::new(inputs, options, settings, None))
        }
        BeamRule::Keras => {
            Box::new(Driver::<keras::Keras>::new(inputs, options, settings, shortest))
        }
    }
}

/// The longest beginning that all sequences share.
fn shared_start<'a>(mut sequences: impl Iterator<Item = &'a [u32]>) -> &'a [u32] {
    let first = sequences.next().unwrap_or_default();
    sequences.fold(first, |shared, sequence| {
        let same = shared.iter().zip(sequence).take_while(|(a, b)| a == b).count();
        &shared[..same]
    })
}

/// Turns logits into log probabilities at `temperature`. A given token is certain: it costs nothing,
/// and the others are out.
fn score(row: &mut [f32], temperature: f32, forced: Option<u32>) {
    match forced {
        None => scores::log_softmax(row, temperature),
        Some(token) => {
            for (id, score) in (0..).zip(row) {
                *score = if id == token { 0.0 } else { f32::NEG_INFINITY };
            }
        }
    }
}

/// The first beam, and copies of it that no candidate will be taken from while there are others.
fn first_beams(input: &Input, start: usize, num_beams: usize) -> Vec<Beam> {
    let most = input.max_length().max(start);
    let beam = |beam| Beam {
        ids: with_room(input.prompt(start), most),
        token_logprobs: Vec::with_capacity(most - start),
        score: if beam == 0 { 0.0 } else { NO_SCORE },
        end: None,
    };
    (0..num_beams).map(beam).collect()
}

/// The state of a generation: a search for each input, of which `live` still extend their beams.
struct Driver<S> {
    inputs: Vec<Arc<Input>>,
    options: Arc<Options>,
    settings: Arc<BeamSettings>,
    searches: Vec<S>,
    live: Vec<usize>,
    /// Rows of logits that each live input has: none before the first pass, one after the prompt,
    /// which all beams share, then one for each beam.
    rows_each: usize,
    buffers: candidates::Buffers,
    scores: Scores,
    ruled_out: RuledOut,
    /// Of each row of a pass the likeliest tokens and their log probabilities, where those were all
    /// that was wanted.
    likeliest: Vec<(u32, f32)>,
    /// Whether the logits of a row of a pass are no numbers.
    broken: Vec<bool>,
    /// The row after the prompt, which each group of beams scores for itself.
    shared: Vec<f32>,
    moves: Vec<(usize, usize)>,
    steps: Vec<StepRow>,
    /// What a model is told that goes on meanwhile.
    expected: Beams,
}

impl<S: Search> Driver<S> {
    /// The searches of a call, from the ends of the prompts or from `start` on.
    fn new(
        inputs: Vec<Arc<Input>>,
        options: Arc<Options>,
        settings: Arc<BeamSettings>,
        start: Option<usize>,
    ) -> Self {
        let begin = |input: &Arc<Input>| {
            let start = start.unwrap_or_else(|| input.start());
            S::begin(input.clone(), start, options.clone(), settings.clone())
        };
        let searches: Vec<S> = inputs.iter().map(begin).collect();
        let live = (0..inputs.len()).filter(|&source| !searches[source].is_over()).collect();
        Self {
            inputs,
            options,
            settings,
            searches,
            live,
            rows_each: 0,
            buffers: candidates::Buffers::default(),
            scores: Scores::default(),
            ruled_out: RuledOut::default(),
            likeliest: Vec::new(),
            broken: Vec::new(),
            shared: Vec::new(),
            moves: Vec::new(),
            steps: Vec::new(),
            expected: Beams::default(),
        }
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

    /// What has to be known of the scores after each row that is fed.
    fn wanted(&mut self, vocabulary: usize) -> Wanted {
        let Some(candidates) = S::candidates(&self.settings, &self.options) else {
            return Wanted::All;
        };
        self.ruled_out.clear();
        for &source in &self.live {
            let input = &self.inputs[source];
            for beam in self.searches[source].beams().iter().take(self.rows_each) {
                let is_given = input.forced(beam.ids.len()).is_some();
                if is_given || !self.ruled_out.push(&self.options, &input.context(&beam.ids)) {
                    return Wanted::All;
                }
            }
        }
        let limit = self.options.vocabulary_limit.unwrap_or(vocabulary).clamp(1, vocabulary);
        // One more, which shows whether the last of them has equals among the others.
        self.ruled_out.wanted(candidates + 1, limit, true)
    }

    /// Tells a model that can go on meanwhile of the beams that are fed, and of what is ruled out after them.
    fn expect(&mut self, model: &mut dyn StepModel, wanted: Wanted) {
        if !model.chooses() || !matches!(wanted, Wanted::Best { .. }) {
            return;
        }
        let Beams { count, scores, ruled_out, ends, stops } = &mut self.expected;
        *count = self.settings.num_beams;
        scores.clear();
        let beams = self.live.iter().flat_map(|&source| self.searches[source].beams());
        scores.extend(beams.map(|beam| beam.score));
        self.ruled_out.copy_to(ruled_out, ends);
        stops.clone_from(&self.options.stop_token_ids);
        model.expect_beams(&mut self.expected);
    }

    /// Turns the best logits of each row into what is likeliest there; `false` if that cannot be told
    /// from them, since log probabilities, which are rounded, may be equal where logits are not.
    fn rank(&mut self, best: &Best) -> bool {
        let candidates = S::candidates(&self.settings, &self.options).unwrap_or(0);
        self.likeliest.clear();
        for row in 0..best.rows() {
            let (log_sum, ruled_out) = (best.log_sum(row), self.ruled_out.row(row));
            let start = self.likeliest.len();
            let allowed = best.row(row).iter().filter(|(id, _)| !ruled_out.contains(id));
            self.likeliest.extend(allowed.map(|&(id, logit)| (id, logit - log_sum)));
            let tokens = &mut self.likeliest[start..];
            tokens.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            // Of what is not among them nothing is likelier than the last.
            if tokens.len() <= candidates || tokens[candidates - 1].1 == tokens[tokens.len() - 1].1
            {
                return false;
            }
            self.likeliest.truncate(start + candidates);
        }
        true
    }

    /// Extends the beams of every live input.
    fn advance(&mut self, model: &mut dyn StepModel, scores: &mut Scores) -> Result<()> {
        let vocabulary = model.vocabulary_size();
        if let View::Best(best) = scores.view() {
            check_rows(best.rows(), self.live.len() * self.rows_each)?;
            if self.rank(best) {
                return self.advance_by_likeliest();
            }
            model.all_scores(scores)?;
        }
        self.advance_by_all(scores.all()?, vocabulary)
    }

    /// The same from the likeliest tokens of each row.
    fn advance_by_likeliest(&mut self) -> Result<()> {
        let each = S::candidates(&self.settings, &self.options).unwrap_or(0);
        for (place, &source) in self.live.iter().enumerate() {
            let size = self.rows_each * each;
            let rows = Rows::Likeliest { tokens: &self.likeliest[place * size..][..size], each };
            let call = (&*self.options, &*self.inputs[source]);
            let mut candidates = Candidates::new(rows, 0, call, &mut self.buffers);
            self.searches[source].advance(0, &mut candidates)?;
        }
        Ok(())
    }

    /// The same from all logits `[live * rows_each, vocabulary]`.
    fn advance_by_all(&mut self, logits: &mut [f32], vocabulary: usize) -> Result<()> {
        check_shape(logits, self.live.len() * self.rows_each, vocabulary)?;
        let size = self.rows_each * vocabulary;
        self.score(logits, vocabulary);
        for place in 0..self.live.len() {
            let source = self.live[place];
            let groups = self.searches[source].groups();
            let rows = &mut logits[place * size..][..size];
            for group in 0..groups {
                let beams = self.settings.num_beams / groups;
                let first = place * self.rows_each;
                if self.rows_each > 1 {
                    let rows = &mut rows[group * beams * vocabulary..][..beams * vocabulary];
                    let first = first + group * beams;
                    self.advance_group(source, group, (rows, first), vocabulary)?;
                } else if group + 1 < groups {
                    let mut shared = mem::take(&mut self.shared);
                    shared.clear();
                    shared.extend_from_slice(rows);
                    self.advance_group(source, group, (&mut shared, first), vocabulary)?;
                    self.shared = shared;
                } else {
                    self.advance_group(source, group, (rows, first), vocabulary)?;
                }
            }
        }
        Ok(())
    }

    /// Turns the logits of all rows into log probabilities, on all threads.
    fn score(&mut self, logits: &mut [f32], vocabulary: usize) {
        let mut broken = mem::take(&mut self.broken);
        broken.clear();
        broken.resize(logits.len() / vocabulary, false);
        let shared = logits.len() >= SCORES_TO_SHARE;
        let rows = (logits, vocabulary);
        parallel::paired_chunks(rows, (&mut broken, 1), shared, |row, logits, broken| {
            let source = self.live[row / self.rows_each];
            let (search, input) = (&self.searches[source], &self.inputs[source]);
            let forced = input.forced(search.beams()[0].ids.len());
            let logits = &mut logits[..self.limit(forced, vocabulary)];
            broken[0] = scores::is_broken(logits);
            if !broken[0] {
                search.score(logits, forced);
            }
        });
        self.broken = broken;
    }

    /// Only tokens below this are generated; a given token may lie beyond.
    fn limit(&self, forced: Option<u32>, vocabulary: usize) -> usize {
        match (forced, self.options.vocabulary_limit) {
            (None, Some(limit)) => limit.clamp(1, vocabulary),
            _ => vocabulary,
        }
    }

    /// Extends the beams of one group of an input, whose log probabilities are `rows`: one for each
    /// beam, or one for all of them. Of the pass these are the rows from `place` on.
    fn advance_group(
        &mut self,
        source: usize,
        group: usize,
        (rows, place): (&mut [f32], usize),
        vocabulary: usize,
    ) -> Result<()> {
        let (input, search) = (&self.inputs[source], &self.searches[source]);
        let size = self.settings.num_beams / search.groups();
        let first = group * size;
        let position = search.beams()[first].ids.len();
        let forced = input.forced(position);
        let limit = self.limit(forced, vocabulary);
        for (beam, (row, broken)) in search.beams()[first..]
            .iter()
            .zip(rows.chunks_exact_mut(vocabulary).zip(&self.broken[place..]))
        {
            if *broken {
                return Err(scores::broken(input.sequence(), position));
            }
            let row = &mut row[..limit];
            if forced.is_none() {
                search.penalise(group, row);
                self.options.constrain(&input.context(&beam.ids), row)?;
                search.warp(row);
            }
        }
        let call = (&*self.options, &**input);
        let rows = Rows::All { rows, vocabulary, limit };
        let mut candidates = Candidates::new(rows, first, call, &mut self.buffers);
        self.searches[source].advance(group, &mut candidates)
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

impl<S: Search> Decoding for Driver<S> {
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
        let mut scores = mem::take(&mut self.scores);
        let vocabulary = model.vocabulary_size();
        if self.rows_each == 0 {
            self.rows_each = 1;
            stop()?;
            let wanted = self.wanted(vocabulary);
            model.prefill(&self.prompts(), self.settings.num_beams, wanted, &mut scores)?;
        } else {
            self.plan();
            self.rows_each = self.settings.num_beams;
            if !self.moves.is_empty() {
                model.reorder(&self.moves)?;
            }
            stop()?;
            let wanted = self.wanted(vocabulary);
            self.expect(model, wanted);
            model.step(&self.steps, wanted, &mut scores)?;
        }
        self.advance(model, &mut scores)?;
        self.scores = scores;
        if self.searches.iter().all(S::is_settled) {
            self.live.clear();
        }
        let searches = &self.searches;
        self.live.retain(|&source| !searches[source].is_over());
        Ok(())
    }

    fn certain(&self, input: usize) -> &[u32] {
        self.searches[input].certain()
    }

    fn finish(self: Box<Self>) -> Vec<Vec<Sequence>> {
        self.searches.into_iter().map(S::finish).collect()
    }
}
