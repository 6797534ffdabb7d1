//! Decoding: from the prompts of a batch to finished sequences of token ids.
//!
//! [`generate`] runs a [`StepModel`] token by token, as does [`Generation`] for callers who want to
//! see the tokens come: constraints change the scores of the next
//! token, a sampler (or a beam search) chooses, finished rows leave the batch. Which of these are
//! known by name is written in [`samplers`] and [`constraints`].
//!
//! A sequence never depends on its batch-mates: every row's scores are handled alone, and each row
//! draws from a random stream of its own. The one exception is `compat="keras"` beam search, which
//! reproduces a rule that looks at the whole batch.

#[cfg(test)]
mod allocation_tests;
mod arguments;
pub mod bart;
mod beams;
#[cfg(test)]
mod best_tests;
#[cfg(test)]
mod certain_tests;
pub mod constraints;
mod contrastive;
mod drafts;
mod generate;
mod input;
mod model;
mod options;
mod ruled_out;
pub mod samplers;
mod sampling;
mod scores;
mod speculation;
#[cfg(test)]
mod speculation_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use beams::{BeamRule, BeamSettings, EarlyStopping, ForcedWords};
pub use contrastive::ContrastiveSettings;
pub use generate::{Generation, generate};
pub use input::{Input, Sequence};
pub use model::{PromptRow, Scores, StepModel, StepRow, View, Wanted};
pub use options::Options;
pub use speculation::Speculative;
