//! What the diverse search and the search for forced words have in common: the rule of transformers 4
//! (`BeamSearchScorer`) for sequences that have ended.
//!
//! Unlike the rule of [`super::standard`], beams that reach the maximum length are compared with
//! the ended ones only when the search is over.

use std::sync::Arc;

use super::settings::EarlyStopping;
use super::{Beam, BeamSettings, Candidate, NO_SCORE};
use crate::generation::input::{Input, Sequence};

/// The best ended sequences of an input or of a group of its beams.
#[derive(Debug)]
pub(super) struct Hypotheses {
    settings: Arc<BeamSettings>,
    input: Arc<Input>,
    most: usize,
    /// In the order in which they ended.
    held: Vec<(f64, Sequence)>,
    done: bool,
}

impl Hypotheses {
    /// Room for `most` sequences.
    pub fn new(input: &Arc<Input>, settings: &Arc<BeamSettings>, most: usize) -> Self {
        let (input, settings) = (input.clone(), settings.clone());
        Self { settings, input, most, held: Vec::with_capacity(most + 1), done: false }
    }

    /// Whether no further sequence is looked for.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Lets a beam, or its extension by a stop token, compete for a place.
    pub fn add(&mut self, beam: &Beam, stop: Option<&Candidate>) {
        let mut sequence = Sequence {
            ids: beam.ids.clone(),
            score: 0.0,
            token_logprobs: beam.token_logprobs.clone(),
            stopped: stop.is_some(),
        };
        if let Some(candidate) = stop {
            sequence.ids.push(candidate.id);
            sequence.token_logprobs.push(candidate.token_logprob);
        }
        let sum = stop.map_or(beam.score, |candidate| candidate.score);
        let score = self.normalise(sum, sequence.ids.len());
        sequence.score = score as f32;
        if self.held.len() < self.most || score > self.worst() {
            self.held.push((score, sequence));
        }
        if self.held.len() > self.most {
            // The first of the lowest goes.
            let lowest = (0..self.held.len())
                .reduce(|a, b| if self.held[b].0 < self.held[a].0 { b } else { a });
            self.held.remove(lowest.unwrap_or(0));
        }
    }

    /// Notes whether the search is done, after a step in which the best candidate, ended or not, had
    /// the score `best`, and which made the beams `length` tokens long.
    pub fn settle(&mut self, best: f32, length: usize) {
        self.done |= self.held.len() >= self.most
            && match self.settings.early_stopping {
                EarlyStopping::AtOnce => true,
                EarlyStopping::WhenBeaten if self.settings.length_penalty > 0.0 => {
                    self.worst() >= self.normalise(best, self.input.max_length())
                }
                _ => self.worst() >= self.normalise(best, length),
            };
    }

    /// The sequence that [`Hypotheses::finish`] would now put first.
    pub fn best(all: &[Self]) -> Option<&[u32]> {
        let held = all.iter().flat_map(|hypotheses| &hypotheses.held);
        // Of equals `max_by` gives the last.
        held.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, sequence)| &sequence.ids[..])
    }

    /// The best of all sequences held, of equals the last that was added.
    pub fn finish(
        all: impl Iterator<Item = Self>,
        input: &Input,
        returned: usize,
    ) -> Vec<Sequence> {
        let mut held: Vec<_> = all.flat_map(|hypotheses| hypotheses.held).collect();
        held.reverse();
        held.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut sequences: Vec<_> = held.into_iter().map(|(_, sequence)| sequence).collect();
        // Where there was no room for a token, the prompt comes back.
        sequences.resize_with(returned, || Sequence {
            ids: input.prompt(input.start()).to_vec(),
            score: NO_SCORE,
            token_logprobs: Vec::new(),
            stopped: false,
        });
        sequences
    }

    fn worst(&self) -> f64 {
        self.held.iter().map(|held| held.0).fold(f64::INFINITY, f64::min)
    }

    fn normalise(&self, sum: f32, length: usize) -> f64 {
        let generated = (length - self.input.start()) as f64;
        f64::from(sum) / generated.powf(f64::from(self.settings.length_penalty))
    }
}

/// Parts the candidates: those that end and are among the first `beams` go to `end`; of the others
/// the first `beams` are returned.
pub(super) fn part(
    candidates: &[Candidate],
    beams: usize,
    mut end: impl FnMut(&Candidate),
) -> Vec<Candidate> {
    for candidate in candidates.iter().take(beams).filter(|candidate| candidate.stops) {
        end(candidate);
    }
    // Where there are too few others, ended ones stand in that nothing will be taken from.
    let others = candidates.iter().filter(|candidate| !candidate.stops).copied();
    let ended = candidates.iter().filter(|candidate| candidate.stops);
    let ended = ended.map(|&c| Candidate { score: c.score + NO_SCORE, ..c });
    others.chain(ended).take(beams).collect()
}
