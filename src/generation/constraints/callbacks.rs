//! Rules that are functions of the caller: no JSON can hold them.

use std::fmt::Debug;

use super::{Built, Constraint, Request};
use crate::error::Result;

/// A rule of the caller on when a sequence ends.
pub trait StoppingCriterion: Debug + Send + Sync {
    /// Whether a sequence, prompt included, ends with its last token. `input` is its number among the
    /// call's inputs.
    ///
    /// # Errors
    /// What the function of the caller returned.
    fn stops(&self, ids: &[u32], input: u64) -> Result<bool>;
}

/// The functions of a call.
#[derive(Debug, Default)]
pub struct Callbacks {
    /// Says which tokens may follow a prefix; applied in its place among the constraints.
    pub prefix_allowed_tokens_fn: Option<Box<dyn Constraint>>,
    /// Changes the scores after all constraints.
    pub logits_processor: Option<Box<dyn Constraint>>,
    /// Ends sequences, beside the stop tokens.
    pub stopping_criteria: Option<Box<dyn StoppingCriterion>>,
}

pub(super) fn build_allowed_prefix(request: &mut Request<'_>) -> Built {
    Ok(request.callbacks.prefix_allowed_tokens_fn.take())
}

pub(super) fn build_processors(request: &mut Request<'_>) -> Built {
    Ok(request.callbacks.logits_processor.take())
}
