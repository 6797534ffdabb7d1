//! Hugging Face's beam search (transformers 5, `GenerationMixin._beam_search`), for one input.
//!
//! Of the `(1 + stop tokens) * num_beams` best candidates, those that end *and* are among the first
//! `num_beams` compete for the `num_beams` places of finished sequences by their length-penalised
//! score; of those that do not end, the first `num_beams` are extended. The reference handles a
//! batch as one array; there a finished input is frozen by large negative scores, here it leaves.
//! With warpers (`do_sample`) the candidates are drawn and not the best.

use std::mem;
use std::sync::Arc;

use super::settings::EarlyStopping;
use super::{
    Beam, BeamSettings, Candidate, Candidates, NO_SCORE, Search, first_beams, shared_start,
};
use crate::error::Result;
use crate::generation::input::{Input, Sequence, with_room};
use crate::generation::options::Options;
use crate::random::Stream;

/// A place for a finished sequence.
#[derive(Debug)]
struct Place {
    sequence: Sequence,
    taken: bool,
}

pub(super) struct Standard {
    input: Arc<Input>,
    options: Arc<Options>,
    settings: Arc<BeamSettings>,
    start: usize,
    running: Vec<Beam>,
    next: Vec<Beam>,
    parents: Vec<usize>,
    /// Best first; places that are not taken come last.
    finished: Vec<Place>,
    early_stopping: EarlyStopping,
    over: bool,
    /// Memory that is kept from step to step: which candidates have ended, and in which order they
    /// become beams.
    ended: Vec<bool>,
    order: Vec<(f32, usize)>,
}

impl Search for Standard {
    fn begin(
        input: Arc<Input>,
        start: usize,
        options: Arc<Options>,
        settings: Arc<BeamSettings>,
    ) -> Self {
        let prompt = input.prompt(start);
        let running = first_beams(&input, start, settings.num_beams);
        let place = |_| Place {
            sequence: Sequence {
                ids: with_room(prompt, input.max_length()),
                score: NO_SCORE,
                token_logprobs: Vec::with_capacity(input.max_length()),
                stopped: false,
            },
            taken: false,
        };
        Self {
            start,
            next: first_beams(&input, start, settings.num_beams),
            running,
            parents: vec![0; settings.num_beams],
            finished: (0..settings.num_beams).map(place).collect(),
            // The reference answers one beam by greedy search, which ends at the first stop token.
            early_stopping: match settings.num_beams {
                1 => EarlyStopping::AtOnce,
                _ => settings.early_stopping,
            },
            over: start >= input.max_length(),
            ended: Vec::new(),
            order: Vec::new(),
            input,
            options,
            settings,
        }
    }

    fn beams(&self) -> &[Beam] {
        &self.running
    }

    fn parents(&self) -> &[usize] {
        &self.parents
    }

    fn candidates(settings: &BeamSettings, options: &Options) -> Option<usize> {
        // A temperature and warpers change the log probabilities of all tokens.
        let plain = settings.warpers.is_none() && settings.temperature == 1.0;
        plain.then(|| settings.continuations(options) * settings.num_beams)
    }

    fn score(&self, row: &mut [f32], forced: Option<u32>) {
        super::score(row, self.settings.temperature, forced);
    }

    fn warp(&self, row: &mut [f32]) {
        if let Some(warpers) = &self.settings.warpers {
            warpers.apply(row, self.settings.continuations(&self.options));
        }
    }

    fn advance(&mut self, _: usize, candidates: &mut Candidates<'_>) -> Result<()> {
        let wanted = self.settings.continuations(&self.options) * self.settings.num_beams;
        let candidates = match self.settings.warpers {
            None => candidates.best(&self.running, wanted)?,
            Some(_) => {
                let (sequence, position) = (self.input.sequence(), self.running[0].ids.len());
                let mut draws = Stream::new(self.options.seed, sequence, position as u64);
                candidates.draw(&self.running, wanted, &mut draws)?
            }
        };
        let length = self.running[0].ids.len() + 1;
        let full = length >= self.input.max_length();
        let mut ended = mem::take(&mut self.ended);
        ended.clear();
        ended.extend(candidates.iter().map(|c| full || c.stops));

        for (candidate, _) in
            candidates.iter().zip(&ended).take(self.settings.num_beams).filter(|(_, ended)| **ended)
        {
            self.set_aside(candidate, length);
        }
        self.extend(candidates, &ended);
        self.over = !self.can_improve(length)
            || (self.early_stopping == EarlyStopping::AtOnce && self.is_complete())
            || ended.iter().all(|&ended| ended);
        self.ended = ended;
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn is_settled(&self) -> bool {
        self.over
    }

    fn certain(&self) -> &[u32] {
        // Places are ordered, and of equals the earlier stays first: of the sequences that have ended
        // only the best can be the answer, or else what one of the beams becomes. That holds under
        // every setting of `early_stopping`, which says when beams are given up, not who is first.
        let best = self.finished.first().filter(|place| place.taken);
        let beaten = |beam: &&Beam| best.is_some_and(|best| self.is_beaten(beam, best));
        let running = self.running.iter().filter(|beam| !beaten(beam)).map(|beam| &beam.ids[..]);
        shared_start(best.map(|best| &best.sequence.ids[..]).into_iter().chain(running))
    }

    fn finish(mut self) -> Vec<Sequence> {
        if let (Some(best), Some(beam)) = (self.finished.first_mut(), self.running.first_mut())
            && !best.taken
            && beam.ids.len() > self.start
        {
            // No score was above that of a place not taken; see `set_aside`.
            best.sequence.ids = mem::take(&mut beam.ids);
            best.sequence.token_logprobs = mem::take(&mut beam.token_logprobs);
        }
        self.finished.truncate(self.settings.returned);
        self.finished.into_iter().map(|place| place.sequence).collect()
    }
}

impl Standard {
    /// Lets an ended candidate compete for a place.
    fn set_aside(&mut self, candidate: &Candidate, length: usize) {
        let score = candidate.score / self.penalty(length - self.start);
        // Among equals the sequence that was there first stays first. In the reference a place that
        // is not taken beats scores below its own, and where all are, as they can be with a length
        // penalty far below 0, the answer is the bare prompt; here it is the best sequence.
        let place =
            self.finished.partition_point(|held| held.taken && held.sequence.score >= score);
        if place == self.finished.len() {
            return;
        }
        let Some(mut last) = self.finished.pop() else { return };
        let (origin, sequence) = (&self.running[candidate.beam], &mut last.sequence);
        sequence.ids.clone_from(&origin.ids);
        sequence.ids.push(candidate.id);
        sequence.token_logprobs.clone_from(&origin.token_logprobs);
        sequence.token_logprobs.push(candidate.token_logprob);
        last.sequence.score = score;
        last.sequence.stopped = candidate.stops;
        last.taken = true;
        self.finished.insert(place, last);
    }

    /// Keeps the best candidates that have not ended as the running beams.
    fn extend(&mut self, candidates: &[Candidate], ended: &[bool]) {
        // Ended ones stay behind all others instead of being dropped, so that there are always
        // `num_beams` (a vocabulary of little more than stop tokens may have no others).
        self.order.clear();
        self.order.extend(candidates.iter().zip(ended).enumerate().map(
            |(place, (candidate, &ended))| {
                (candidate.score + if ended { NO_SCORE } else { 0.0 }, place)
            },
        ));
        self.order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let places = self.next.iter_mut().zip(&mut self.parents);
        for ((beam, parent), &(score, place)) in places.zip(&self.order) {
            let candidate = &candidates[place];
            beam.continue_from(&self.running[candidate.beam], candidate);
            beam.score = score;
            *parent = candidate.beam;
        }
        mem::swap(&mut self.running, &mut self.next);
    }

    /// Whether the best running beam, judged at the length that the setting supposes for it, is
    /// better than the worst finished sequence.
    fn can_improve(&self, length: usize) -> bool {
        let supposed = match self.early_stopping {
            EarlyStopping::WhenBeaten if self.settings.length_penalty > 0.0 => {
                self.input.max_length() - self.start
            }
            _ => length - self.start,
        };
        let best = self.running[0].score / self.penalty(supposed);
        let worst = self.finished.last().map_or(NO_SCORE, |place| place.sequence.score);
        self.finished.iter().any(|place| best > if place.taken { worst } else { NO_SCORE })
    }

    /// Whether every place is taken.
    fn is_complete(&self) -> bool {
        self.finished.iter().all(|place| place.taken)
    }

    /// Whether nothing that a beam can become has a higher score than `best`.
    fn is_beaten(&self, beam: &Beam, best: &Place) -> bool {
        // Without constraints no token has a log probability above 0, so that sums only fall, and a
        // score is highest if the longest answer costs nothing more. The rest is for rounding.
        let longest = self.input.max_length() - self.start;
        let highest = beam.score / self.penalty(longest);
        self.options.constraints.is_empty()
            && self.settings.length_penalty >= 0.0
            && highest < best.sequence.score - 1e-3 * (1.0 + best.sequence.score.abs())
    }

    fn penalty(&self, generated: usize) -> f32 {
        (generated as f64).powf(f64::from(self.settings.length_penalty)) as f32
    }
}
