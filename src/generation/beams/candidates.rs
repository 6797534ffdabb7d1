//! The possible extensions of some beams of an input, of which a search takes the best or draws.

use std::mem;

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
    top: Vec<(u32, f32)>,
    ids: Vec<u32>,
}

/// What is known of the tokens after some beams. After the prompt all beams share a row.
pub(super) enum Rows<'a> {
    /// Their log probabilities, in rows as wide as the vocabulary, of which only ids below the limit
    /// count.
    All { rows: &'a [f32], vocabulary: usize, limit: usize },
    /// The likeliest `each` of them and their log probabilities: likelier ones first, then lower ids.
    Likeliest { tokens: &'a [(u32, f32)], each: usize },
}

/// The possible extensions of some beams, from beam `first` on.
pub(super) struct Candidates<'a> {
    rows: Rows<'a>,
    first: usize,
    options: &'a Options,
    input: &'a Input,
    buffers: &'a mut Buffers,
}

impl<'a> Candidates<'a> {
    /// By what is known of the rows.
    pub fn new(
        rows: Rows<'a>,
        first: usize,
        (options, input): (&'a Options, &'a Input),
        buffers: &'a mut Buffers,
    ) -> Self {
        Self { rows, first, options, input, buffers }
    }

    /// How many rows there are.
    fn count(&self) -> usize {
        match self.rows {
            Rows::All { rows, vocabulary, .. } => rows.len() / vocabulary,
            Rows::Likeliest { tokens, each } => tokens.len() / each,
        }
    }

    /// All log probabilities after a beam; none if only the likeliest are known.
    fn row(&self, beam: usize) -> &'a [f32] {
        match self.rows {
            Rows::All { rows, vocabulary, limit } => {
                let row = (beam - self.first).min(self.count() - 1);
                &rows[row * vocabulary..][..limit]
            }
            Rows::Likeliest { .. } => &[],
        }
    }

    /// The `wanted` likeliest tokens after the beam that is number `beam` here, in `top`.
    fn likeliest(&self, beam: usize, wanted: usize, top: &mut Vec<(u32, f32)>) {
        if beam >= self.count() {
            return; // They are those of the beam before.
        }
        match self.rows {
            Rows::All { .. } => scores::top_k_into(self.row(self.first + beam), wanted, top),
            Rows::Likeliest { tokens, each } => {
                top.clear();
                top.extend_from_slice(&tokens[beam * each..][..each.min(wanted)]);
            }
        }
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
        let mut top = mem::take(&mut self.buffers.top);
        for (beam, state) in (self.first..).zip(beams) {
            self.likeliest(beam - self.first, wanted, &mut top);
            let candidate = |&(id, token_logprob)| Candidate {
                score: token_logprob + state.score,
                token_logprob,
                beam,
                id,
                stops: false,
            };
            self.buffers.chosen.extend(top.iter().map(candidate));
        }
        self.buffers.top = top;
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
            if beam - self.first < self.count() {
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
        chosen.sort_unstable_by(|a, b| {
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
