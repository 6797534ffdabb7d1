//! What the decoding loop needs of a model. The real decoder implements it over its caches; tests
//! implement it with a function of the history.

use crate::error::{Error, Result};

/// The prompt of one source, fed before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptRow<'a> {
    /// Which source (encoder output) the row attends to: its index in the call's inputs.
    pub source: usize,
    /// The cache slot that receives the prompt.
    pub slot: usize,
    /// The prompt's tokens; token `i` stands at position `i`. Never empty.
    pub tokens: &'a [u32],
    /// The row will never hold more than this many positions.
    pub capacity: usize,
}

/// One new token of a live row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRow {
    /// The cache slot that holds the row's history.
    pub slot: usize,
    /// The token to feed.
    pub token: u32,
    /// Its index in the sequence: the number of positions the slot already holds.
    pub position: usize,
}

/// A sequence model with one cache slot for each row that is being decoded.
pub trait StepModel {
    /// How many scores a row of logits holds.
    fn vocabulary_size(&self) -> usize;

    /// Begins a generation: makes room for `slots_per_source` slots for each source (slot `s` reads
    /// source `s / slots_per_source`), feeds the prompts, and leaves in `logits` the scores that
    /// follow each prompt's last token: `[prompts.len(), vocabulary_size]`, replacing what was
    /// there. Sources without a prompt here are never asked for.
    fn prefill(
        &mut self,
        prompts: &[PromptRow<'_>],
        slots_per_source: usize,
        logits: &mut Vec<f32>,
    ) -> Result<()>;

    /// Feeds `rows` and leaves the scores that follow each token in `logits`:
    /// `[rows.len(), vocabulary_size]`. A slot may have several rows, one after the other. Slots that
    /// are not named keep their history.
    fn step(&mut self, rows: &[StepRow], logits: &mut Vec<f32>) -> Result<()>;

    /// Leaves in `hidden` the hidden states behind the scores of every token that the last pass was
    /// fed, in its order: `[tokens, width]`.
    ///
    /// # Errors
    /// `Argument` from a model that has none.
    fn hidden_states(&self, _hidden: &mut Vec<f32>) -> Result<()> {
        Err(Error::argument("model", "gives no hidden states, which contrastive search compares"))
    }

    /// Whether the scores of a history have the same bits whatever else a pass holds.
    fn is_batch_invariant(&self) -> bool {
        false
    }

    /// Forgets what `slot` holds beyond its first `length` positions.
    ///
    /// # Errors
    /// `Argument` from a model that cannot.
    fn rewind(&mut self, _slot: usize, _length: usize) -> Result<()> {
        Err(Error::argument("model", "cannot forget tokens, as guesses (`speculative`) need it"))
    }

    /// For each (destination, origin): slot `destination` continues the history that slot `origin`
    /// had before this call. All moves happen at once, within one source.
    fn reorder(&mut self, moves: &[(usize, usize)]) -> Result<()>;
}
