//! What the decoding loop needs of a model. The real decoder implements it over its caches; tests
//! implement it with a function of the history.

use crate::error::{Error, Result};
use crate::ops::choices::{Beams, Choices, Chosen};
use crate::ops::head::{Ask, Best};

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

/// What a generation wants to know of the scores after each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// All of them.
    All,
    /// The best of the first `limit` of them, and the logarithm of the sum of their exponentials where
    /// it is asked for. The model may give all instead.
    Best {
        /// How many, and whether the logarithm.
        ask: Ask,
        /// Tokens from this id on do not count.
        limit: usize,
    },
    /// None: the model chooses, as it was [told](StepModel::choose_by). It may give all instead.
    Chosen,
}

/// The scores that a pass has left, in memory that is kept from pass to pass.
#[derive(Debug, Default)]
pub struct Scores {
    all: Vec<f32>,
    best: Best,
    chosen: Vec<Chosen>,
    left: Left,
}

/// Which of [`Scores`] a pass has left.
#[derive(Clone, Copy, Debug, Default)]
enum Left {
    #[default]
    All,
    Best,
    Chosen,
}

/// [`Scores`] as they were left.
#[derive(Debug)]
pub enum View<'a> {
    /// `[rows, vocabulary_size]`
    All(&'a mut [f32]),
    /// What was asked for, all of it finite numbers.
    Best(&'a Best),
    /// What the model has chosen after each row.
    Chosen(&'a [Chosen]),
}

impl Scores {
    /// For a model that leaves all scores: what was there before is to be replaced.
    pub fn all_mut(&mut self) -> &mut Vec<f32> {
        self.left = Left::All;
        &mut self.all
    }

    /// For a model that leaves what was asked for.
    pub fn best_mut(&mut self) -> &mut Best {
        self.left = Left::Best;
        &mut self.best
    }

    /// For a model that has chosen.
    pub fn chosen_mut(&mut self) -> &mut Vec<Chosen> {
        self.left = Left::Chosen;
        &mut self.chosen
    }

    /// All scores `[rows, vocabulary_size]`, which were wanted.
    ///
    /// # Errors
    /// `Argument` if the model left the best alone.
    pub(super) fn all(&mut self) -> Result<&mut [f32]> {
        match self.view() {
            View::All(scores) => Ok(scores),
            View::Best(_) | View::Chosen(_) => {
                Err(Error::argument("model", "left no scores where all were wanted"))
            }
        }
    }

    /// What was left.
    pub fn view(&mut self) -> View<'_> {
        match self.left {
            Left::All => View::All(&mut self.all),
            Left::Best => View::Best(&self.best),
            Left::Chosen => View::Chosen(&self.chosen),
        }
    }
}

/// A sequence model with one cache slot for each row that is being decoded.
pub trait StepModel {
    /// How many scores a row of logits holds.
    fn vocabulary_size(&self) -> usize;

    /// Begins a generation: makes room for `slots_per_source` slots for each source (slot `s` reads
    /// source `s / slots_per_source`), feeds the prompts, and leaves in `scores` a row for each prompt:
    /// what is wanted of the scores that follow its last token. Sources without a prompt here are
    /// never asked for.
    fn prefill(
        &mut self,
        prompts: &[PromptRow<'_>],
        slots_per_source: usize,
        wanted: Wanted,
        scores: &mut Scores,
    ) -> Result<()>;

    /// Feeds `rows` and leaves in `scores` a row for each: what is wanted of the scores that follow it.
    /// A slot may have several rows, one after the other. Slots that are not named keep their history.
    fn step(&mut self, rows: &[StepRow], wanted: Wanted, scores: &mut Scores) -> Result<()>;

    /// Leaves all scores of the last pass, of which only the best were wanted before.
    ///
    /// # Errors
    /// `Argument` from a model that left all of them.
    fn all_scores(&mut self, _scores: &mut Scores) -> Result<()> {
        Err(Error::argument("model", "has no more scores than it gave"))
    }

    /// Leaves in `hidden` the hidden states behind the scores of every token that the last pass was
    /// fed, in its order: `[tokens, width]`.
    ///
    /// # Errors
    /// `Argument` from a model that has none.
    fn hidden_states(&self, _hidden: &mut Vec<f32>) -> Result<()> {
        Err(Error::argument("model", "gives no hidden states, which contrastive search compares"))
    }

    /// Whether the model may choose by itself.
    fn chooses(&self) -> bool {
        false
    }

    /// Tells how tokens are chosen after each row of the step that comes next, of which they are
    /// [wanted](Wanted::Chosen). The choices are exchanged for some whose memory can be used.
    fn choose_by(&mut self, _choices: &mut Choices) {}

    /// Tells of the beams of the step that comes next, of which the best are wanted, so that a model that
    /// [chooses](StepModel::chooses) can go on meanwhile with what they likely become. Exchanged like choices.
    fn expect_beams(&mut self, _beams: &mut Beams) {}

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
