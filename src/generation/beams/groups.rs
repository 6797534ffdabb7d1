//! Diverse beam search (Vijayakumar et al., 2018) as in transformers 4 (`_group_beam_search`), for
//! one input.
//!
//! The beams are divided into groups, each of which is a search of its own. They advance one after
//! the other, and a token that beams of earlier groups have chosen in the same step loses
//! `diversity_penalty` for each of them. A group that has ended penalises nothing any more (in the
//! reference the padding that fills it up counts as a token it chose).

use std::mem;
use std::sync::Arc;

use super::hypotheses::{Hypotheses, part};
use super::settings::BeamRule;
use super::{Beam, BeamSettings, Candidates, Search, first_beams, shared_start};
use crate::error::Result;
use crate::generation::input::{Input, Sequence};
use crate::generation::options::Options;

pub(super) struct Groups {
    input: Arc<Input>,
    options: Arc<Options>,
    settings: Arc<BeamSettings>,
    /// Group after group; those of ended groups go along unused, since the rows of an input are fed
    /// together.
    running: Vec<Beam>,
    next: Vec<Beam>,
    parents: Vec<usize>,
    groups: Vec<Hypotheses>,
    /// Which groups took part in the last step; one that ended with it still did.
    took_part: Vec<bool>,
    penalty: f32,
    over: bool,
}

impl Search for Groups {
    fn begin(
        input: Arc<Input>,
        start: usize,
        options: Arc<Options>,
        settings: Arc<BeamSettings>,
    ) -> Self {
        let (groups, penalty) = match settings.rule {
            BeamRule::Groups { groups, diversity_penalty } => (groups, diversity_penalty),
            _ => (1, 0.0),
        };
        let size = settings.num_beams / groups;
        let running: Vec<Beam> =
            (0..groups).flat_map(|_| first_beams(&input, start, size)).collect();
        Self {
            next: running.clone(),
            running,
            parents: vec![0; settings.num_beams],
            groups: (0..groups).map(|_| Hypotheses::new(&input, &settings, size)).collect(),
            took_part: vec![true; groups],
            penalty,
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

    fn groups(&self) -> usize {
        self.groups.len()
    }

    fn penalise(&self, group: usize, row: &mut [f32]) {
        let size = self.settings.num_beams / self.groups.len();
        let earlier = self.took_part.iter().zip(self.running.chunks(size)).take(group);
        for (_, beams) in earlier.filter(|(took_part, _)| **took_part) {
            for token in beams.iter().filter_map(|beam| beam.ids.last()) {
                if let Some(score) = row.get_mut(*token as usize) {
                    *score -= self.penalty;
                }
            }
        }
    }

    fn advance(&mut self, group: usize, candidates: &mut Candidates<'_>) -> Result<()> {
        let size = self.settings.num_beams / self.groups.len();
        let range = group * size..(group + 1) * size;
        let wanted = self.settings.continuations(&self.options) * size;
        let candidates = candidates.best(&self.running[range.clone()], wanted)?;
        let position = self.running[range.start].ids.len();

        let (hypotheses, running) = (&mut self.groups[group], &self.running);
        let was_done = hypotheses.is_done();
        self.took_part[group] = !was_done;
        let chosen = part(candidates, size, |candidate| {
            if !was_done {
                hypotheses.add(&running[candidate.beam], Some(candidate));
            }
        });
        hypotheses.settle(candidates[0].score, position + 1);
        for (beam, candidate) in range.clone().zip(&chosen) {
            self.next[beam].continue_from(&self.running[candidate.beam], candidate);
            self.parents[beam] = candidate.beam;
        }
        for beam in range {
            mem::swap(&mut self.running[beam], &mut self.next[beam]);
        }
        if group + 1 == self.groups.len() {
            self.close(position + 1);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn is_settled(&self) -> bool {
        self.over
    }

    fn certain(&self) -> &[u32] {
        // The answer is the best of all that are held. Of those that are now, only the best can be
        // it: none is taken out for one that is not better. Whatever else is added to a group that
        // is not done continues one of its beams.
        let size = self.settings.num_beams / self.groups.len();
        let live = self.groups.iter().zip(self.running.chunks(size));
        let running = live.filter(|(group, _)| !group.is_done()).flat_map(|(_, beams)| beams);
        let held = Hypotheses::best(&self.groups);
        shared_start(held.into_iter().chain(running.map(|beam| &beam.ids[..])))
    }

    fn finish(self) -> Vec<Sequence> {
        Hypotheses::finish(self.groups.into_iter(), &self.input, self.settings.returned)
    }
}

impl Groups {
    /// Ends the search if all groups are done or the beams are full.
    fn close(&mut self, length: usize) {
        let full = length >= self.input.max_length();
        self.over = full || self.groups.iter().all(Hypotheses::is_done);
        if full {
            let size = self.settings.num_beams / self.groups.len();
            for (group, beams) in self.groups.iter_mut().zip(self.running.chunks(size)) {
                if !group.is_done() {
                    beams.iter().for_each(|beam| group.add(beam, None));
                }
            }
        }
    }
}
