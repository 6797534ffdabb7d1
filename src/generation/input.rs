//! What goes into a generation for each input, and what comes out.

use super::constraints::Context;
use crate::error::{Error, Result};

/// One input of a call: what the decoder starts from, and how far it may go.
///
/// The rule for masks is keras-hub's `generate_step`, applied to each row alone. With `n` the
/// number of True positions, the tokens at positions `0..n` are given, *whatever their mask*, and
/// generation starts at position `n`; from there a True position keeps its given token and a False
/// one is generated. For a mask without holes this is simply "the prompt, then the answer".
/// Two departures: keras-hub starts every row of a batch at the shortest prompt of the batch
/// (so a hole can be filled or not, depending on batch-mates), and takes a stop id that happens to
/// lie at a False position of the given array for one it generated. Here only generated tokens stop
/// a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    ids: Vec<u32>,
    given: Vec<bool>,
    start: usize,
    max_length: usize,
    sequence: u64,
    source: Vec<u32>,
}

impl Input {
    /// An input whose decoder starts from `prompt` and may grow to `max_length` tokens, prompt
    /// included. `sequence` numbers its random stream: the input's index in the user's call, so
    /// that equal texts at different places draw differently, and a text alone always draws the
    /// same.
    ///
    /// # Errors
    /// `Argument` when the prompt is empty.
    pub fn new(prompt: Vec<u32>, max_length: usize, sequence: u64) -> Result<Self> {
        let given = vec![true; prompt.len()];
        Self::masked(prompt, given, max_length, sequence)
    }

    /// The same from a row of ids and its mask (see the type for the rule); a mask shorter than
    /// the ids counts as False beyond its end.
    ///
    /// # Errors
    /// `Argument` when no position is True.
    pub fn masked(
        mut ids: Vec<u32>,
        mut given: Vec<bool>,
        max_length: usize,
        sequence: u64,
    ) -> Result<Self> {
        let end = ids.len().min(given.iter().rposition(|&real| real).map_or(0, |last| last + 1));
        ids.truncate(end);
        given.truncate(end);
        let start = given.iter().filter(|&&real| real).count();
        if start == 0 {
            return Err(Error::argument(
                "decoder_token_ids",
                format!(
                    "input {sequence} has no prompt token, the decoder needs at least one to start from\n\
                     hint: begin the row with the model's start token and set its mask to True"
                ),
            ));
        }
        let source = Vec::new();
        Ok(Self { ids, given, start, max_length, sequence, source })
    }

    /// The same with what the encoder read, for the constraints that look at it.
    pub fn with_source(self, source: Vec<u32>) -> Self {
        Self { source, ..self }
    }

    /// The position of the first token that is not given.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The most tokens the sequence may have, prompt included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// What the encoder read.
    pub(super) fn source(&self) -> &[u32] {
        &self.source
    }

    /// The number of the input in the user's call.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What a constraint may look at when the sequence has come to `ids`.
    pub(super) fn context<'a>(&'a self, ids: &'a [u32]) -> Context<'a> {
        Context {
            ids,
            prompt_length: self.start,
            max_length: self.max_length,
            source: &self.source,
            input: self.sequence,
        }
    }

    /// The number of the random stream of one of the input's answers: for the first the input's own
    /// number, and never that of another input.
    pub(super) fn stream(&self, answer: usize) -> u64 {
        self.sequence ^ ((answer as u64) << 32)
    }

    /// The tokens that stand before position `start`, which may not exceed [`Input::start`].
    pub(super) fn prompt(&self, start: usize) -> &[u32] {
        &self.ids[..start]
    }

    /// The token that has to stand at `position`, if one was given.
    pub(super) fn forced(&self, position: usize) -> Option<u32> {
        match self.given.get(position) {
            Some(true) => Some(self.ids[position]),
            _ => None,
        }
    }
}

/// The prompt of a sequence of at most `most` tokens, which needs no more memory later.
pub(super) fn with_room(prompt: &[u32], most: usize) -> Vec<u32> {
    let mut ids = Vec::with_capacity(most.max(prompt.len()));
    ids.extend_from_slice(prompt);
    ids
}

/// One answer for an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Prompt and answer, up to and including the stop token or to the maximum length. Positions
    /// beyond are the caller's to fill.
    pub ids: Vec<u32>,
    /// Beam search's score, by which an input's sequences are ordered; 0 for samplers.
    pub score: f32,
    /// The log probability of each token after the prompt, as the choice saw it: with constraints,
    /// temperature and filters. Given tokens are certain. Beam search sums these (and does not
    /// normalise what the constraints left); samplers leave them out unless
    /// [`Options::token_logprobs`](super::Options::token_logprobs) asks for them.
    pub token_logprobs: Vec<f32>,
    /// Whether a stop token ended it (otherwise its length did).
    pub stopped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_without_holes_is_a_prompt() {
        let (yes, no) = (true, false);
        let input = Input::masked(vec![5, 6, 7, 2, 2], vec![yes, yes, yes, no, no], 5, 0).unwrap();
        assert_eq!(input, Input::new(vec![5, 6, 7], 5, 0).unwrap());
        assert_eq!((input.start(), input.prompt(3)), (3, &[5, 6, 7][..]));
        assert_eq!((input.forced(2), input.forced(3), input.forced(99)), (Some(7), None, None));
    }

    #[test]
    fn holes_before_the_start_are_given_and_true_positions_after_it_are_forced() {
        let mask = vec![true, false, true, false, true];
        let input = Input::masked(vec![5, 6, 7, 8, 9, 2], mask, 6, 0).unwrap();
        assert_eq!((input.start(), input.prompt(3)), (3, &[5, 6, 7][..]));
        assert_eq!((input.forced(3), input.forced(4), input.forced(5)), (None, Some(9), None));
    }

    #[test]
    fn an_empty_prompt_is_refused_by_name() {
        for input in [Input::new(vec![], 4, 2), Input::masked(vec![1, 2], vec![false; 2], 4, 2)] {
            let message = input.unwrap_err().to_string();
            assert!(message.starts_with("`decoder_token_ids`: input 2 has no prompt token"));
            assert!(message.contains("\nhint: "));
        }
    }
}
