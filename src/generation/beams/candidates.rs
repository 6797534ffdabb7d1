//! The possible extensions of some beams of an input, of which a search takes the best or draws.

use super::{Beam, scores};
use crate::error::Result;
use crate::generation::constraints::check_choice;
use crate::generation::input::Input;
use crate::generation::options::Options;
use crate::random::Stream;

/// A possible extension: beam `beam` followed by token `id`, their score and the token's part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub score: f32,
    pub token_logprob: f32,
    pub beam: usize,
    pub id: u32,
    /// Whether the sequence ends here, other than by its length. Given tokens never end it.
    pub stops: bool,
}

/// Memory that is kept from step to step.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    chosen: Vec<Candidate>,
    drawn: Vec<(f32, Candidate)>,
    keys: Vec<f32>,
    ids: Vec<u32>,
}

/// The log probabilities of every token after some beams, from beam `first` on.
pub(super) struct Candidates<'a> {
    rows: &'a [f32],
    vocabulary: usize,
    limit: usize,
    first: usize,
    options: &'a Options,
    input: &'a Input,
    buffers: &'a mut Buffers,
}

impl<'a> Candidates<'a> {
    /// From `rows`, each as wide as the vocabulary, of which only ids below the limit count.
    pub fn new(
        rows: &'a [f32],
        (vocabulary, limit): (usize, usize),
        first: usize,
        (options, input): (&'a Options, &'a Input),
        buffers: &'a mut Buffers,
    ) -> Self {
        Self { rows, vocabulary, limit, first, options, input, buffers }
    }

    /// The log probabilities after a beam. After the prompt all beams share a row.
    fn row(&self, beam: usize) -> &'a [f32] {
        let last = self.rows.len() / self.vocabulary - 1;
        &self.rows[(beam - self.first).min(last) * self.vocabulary..][..self.limit]
    }

    /// The extension of `beam`, whose state is given, by `id`; whether it stops there is not asked.
    pub fn of(&self, beam: usize, state: &Beam, id: u32) -> Candidate {
        let out = f32::NEG_INFINITY;
        let token_logprob = self.row(beam).get(id as usize).copied().unwrap_or(out);
        Candidate { score: state.score + token_logprob, token_logprob, beam, id, stops: false }
    }

    /// The best `wanted` extensions of `beams`: higher scores first, then lower beams, then lower
    /// ids.
    ///
    /// # Errors
    /// `Argument` when no token is allowed.
    pub fn best(&mut self, beams: &[Beam], wanted: usize) -> Result<&[Candidate]> {
        self.buffers.chosen.clear();
        let mut top = Vec::new();
        for (beam, state) in (self.first..).zip(beams) {
            if (beam - self.first) * self.vocabulary < self.rows.len() {
                top = scores::top_k(self.row(beam), wanted);
            }
            let candidate = |&(id, token_logprob)| Candidate {
                score: token_logprob + state.score,
                token_logprob,
                beam,
                id,
                stops: false,
            };
            self.buffers.chosen.extend(top.iter().map(candidate));
        }
        self.settle(beams, wanted)
    }

    /// Draws `wanted` extensions of `beams` without putting them back, each with a probability in
    /// proportion to the exponential of its score, and sorts them like [`Candidates::best`].
    ///
    /// # Errors
    /// `Argument` when no token is allowed.
    pub fn draw(
        &mut self,
        beams: &[Beam],
        wanted: usize,
        draws: &mut Stream,
    ) -> Result<&[Candidate]> {
        // The Gumbel-top-k trick (Kool, van Hoof and Welling, 2019): the largest of scores to which
        // standard Gumbel noise was added are such a draw.
        self.buffers.drawn.clear();
        let mut top = Vec::new();
        for (beam, state) in (self.first..).zip(beams) {
            if (beam - self.first) * self.vocabulary < self.rows.len() {
                let row = self.row(beam);
                self.buffers.keys.clear();
                self.buffers.keys.extend(row.iter().map(|&x| match x {
                    f32::NEG_INFINITY => x,
                    _ => (f64::from(x) - (-draws.next_f64().ln()).ln()) as f32,
                }));
                top = scores::top_k(&self.buffers.keys, wanted);
            }
            for &(id, key) in &top {
                let candidate = self.of(beam, state, id);
                self.buffers.drawn.push((key + state.score, candidate));
            }
        }
        self.buffers.drawn.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.buffers.chosen.clear();
        let drawn = self.buffers.drawn.iter().take(wanted).map(|&(_, candidate)| candidate);
        self.buffers.chosen.extend(drawn);
        self.settle(beams, wanted)
    }

    /// Sorts what was chosen, and notes what ends its sequence.
    fn settle(&mut self, beams: &[Beam], wanted: usize) -> Result<&[Candidate]> {
        let Buffers { chosen, ids, .. } = &mut *self.buffers;
        chosen.sort_by(|a, b| {
            b.score.total_cmp(&a.score).then(a.beam.cmp(&b.beam)).then(a.id.cmp(&b.id))
        });
        chosen.truncate(wanted);
        let position = beams.first().map_or(0, |beam| beam.ids.len());
        let best = chosen.first().map_or(f32::NEG_INFINITY, |first| first.score);
        check_choice(best, position, &self.options.constraints)?;
        if self.input.forced(position).is_none() {
            for candidate in chosen.iter_mut() {
                ids.clone_from(&beams[candidate.beam - self.first].ids);
                ids.push(candidate.id);
                candidate.stops = self.options.stops(ids, self.input.sequence())?;
            }
        }
        Ok(chosen)
    }
}
