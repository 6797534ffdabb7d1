//! Beam search for forced words (constrained beam search) as in transformers 4
//! (`ConstrainedBeamSearchScorer`), for one input; after Hokamp and Liu, 2017, and Post and Vilar,
//! 2018.
//!
//! Beside the best candidates, every beam is also extended by the tokens that bring it nearer to a
//! word it lacks. All are put into banks by how far they have come; the beams are then taken from
//! the banks in turns, so that those which say the words are not crowded out by likelier ones.

mod words;

use std::mem;
use std::sync::Arc;

use super::hypotheses::{Hypotheses, part};
use super::settings::BeamRule;
use super::{Beam, BeamSettings, Candidate, Candidates, Search, first_beams, shared_start};
use crate::error::Result;
use crate::generation::input::{Input, Sequence};
use crate::generation::options::Options;

pub use words::ForcedWords;
use words::Progress;

pub(super) struct Forced {
    input: Arc<Input>,
    options: Arc<Options>,
    settings: Arc<BeamSettings>,
    running: Vec<Beam>,
    next: Vec<Beam>,
    parents: Vec<usize>,
    ended: Hypotheses,
    over: bool,
}

/// The words of a search; only a call by another rule would have none.
fn words(settings: &BeamSettings) -> &ForcedWords {
    static NONE: ForcedWords = ForcedWords::none();
    match &settings.rule {
        BeamRule::Forced(words) => words,
        _ => &NONE,
    }
}

impl Search for Forced {
    fn begin(
        input: Arc<Input>,
        start: usize,
        options: Arc<Options>,
        settings: Arc<BeamSettings>,
    ) -> Self {
        let running = first_beams(&input, start, settings.num_beams);
        Self {
            next: running.clone(),
            running,
            parents: vec![0; settings.num_beams],
            ended: Hypotheses::new(&input, &settings, settings.num_beams),
            over: start >= input.max_length(),
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

    fn advance(&mut self, _: usize, candidates: &mut Candidates<'_>) -> Result<()> {
        let beams = self.settings.num_beams;
        let wanted = self.settings.continuations(&self.options) * beams;
        let best = candidates.best(&self.running, wanted)?;
        let highest = best[0].score;
        let position = self.running[0].ids.len();

        let words = words(&self.settings);
        let (ended, running) = (&mut self.ended, &self.running);
        let chosen = part(best, beams, |candidate| {
            let beam = &running[candidate.beam];
            if Progress::of(words, &beam.ids).is_complete() {
                ended.add(beam, Some(candidate));
            }
        });
        let chosen = self.with_words(chosen, candidates);
        self.ended.settle(highest, position + 1);
        for ((beam, parent), candidate) in self.next.iter_mut().zip(&mut self.parents).zip(&chosen)
        {
            beam.continue_from(&self.running[candidate.beam], candidate);
            *parent = candidate.beam;
        }
        mem::swap(&mut self.running, &mut self.next);
        self.close(position + 1);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn is_settled(&self) -> bool {
        self.over
    }

    fn certain(&self) -> &[u32] {
        // As in groups of beams, of which this is one: the answer is the best that is now held, or
        // continues a beam, whether or not it says its words.
        let held = Hypotheses::best(std::slice::from_ref(&self.ended));
        shared_start(held.into_iter().chain(self.running.iter().map(|beam| &beam.ids[..])))
    }

    fn finish(self) -> Vec<Sequence> {
        let returned = self.settings.returned;
        Hypotheses::finish(std::iter::once(self.ended), &self.input, returned)
    }
}

/// A candidate with the length it makes and how far its words have come.
struct Banked {
    candidate: Candidate,
    bank: usize,
}

impl Forced {
    /// As many as `chosen`, which are the best candidates, from these and from those that bring a
    /// beam nearer to its words.
    fn with_words(&self, chosen: Vec<Candidate>, candidates: &Candidates<'_>) -> Vec<Candidate> {
        let ids = |candidate: &Candidate| {
            let mut ids = self.running[candidate.beam].ids.clone();
            ids.push(candidate.id);
            ids
        };
        let beams = chosen.len();
        let mut sequences: Vec<Vec<u32>> = chosen.iter().map(ids).collect();
        let mut all: Vec<Banked> = chosen
            .into_iter()
            .zip(&sequences)
            .map(|(candidate, ids)| Banked {
                candidate,
                bank: Progress::of(words(&self.settings), ids).bank(),
            })
            .collect();
        let mut advanced = Vec::new();
        for (beam, state) in self.running.iter().enumerate() {
            let progress = Progress::of(words(&self.settings), &state.ids);
            for token in progress.next_tokens() {
                let mut further = progress.clone();
                further.add(token);
                let candidate = candidates.of(beam, state, token);
                let sequence = ids(&candidate);
                if !sequences.contains(&sequence) {
                    sequences.push(sequence);
                    advanced.push((candidate, further));
                }
            }
        }
        // Only now, since the progress of one may still change with that of another.
        all.extend(
            advanced
                .into_iter()
                .map(|(candidate, progress)| Banked { candidate, bank: progress.bank() }),
        );
        take_in_turns(all, beams)
    }

    /// Ends the search if it is done or the beams are full.
    fn close(&mut self, length: usize) {
        let full = length >= self.input.max_length();
        self.over = full || self.ended.is_done();
        if self.ended.is_done() || !full {
            return;
        }
        let complete = |beam: &&Beam| Progress::of(words(&self.settings), &beam.ids).is_complete();
        let (said, unsaid): (Vec<&Beam>, Vec<&Beam>) = self.running.iter().partition(complete);
        said.iter().for_each(|beam| self.ended.add(beam, None));
        // Words that could not be said in time are given up.
        if said.len() < self.settings.returned {
            unsaid.iter().for_each(|beam| self.ended.add(beam, None));
        }
    }
}

/// The best of each bank, highest bank first, then the second best of each, and so on.
fn take_in_turns(mut all: Vec<Banked>, count: usize) -> Vec<Candidate> {
    // The score counts beside the bank, as in the reference: one of -100 costs a bank.
    let rank = |banked: &Banked| (banked.bank * 100) as f32 + banked.candidate.score;
    all.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    let mut turns = Vec::with_capacity(all.len());
    for place in 0..all.len() {
        let same = place > 0 && all[place].bank == all[place - 1].bank;
        turns.push(if same { turns[place - 1] + 1 } else { 0 });
    }
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|&place| turns[place]);
    order.into_iter().take(count).map(|place| all[place].candidate).collect()
}
