//! Constraints: what changes the scores of the next token before it is chosen.
//!
//! A new one is a file with its struct, and a line in [`from_arguments`].

mod min_length;

use std::fmt::Debug;

use super::arguments::Arguments;
use crate::error::Result;

pub use min_length::{MinLength, MinNewTokens};

/// What a constraint may look at.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The sequence so far, prompt included; its length is the position of the next token.
    pub ids: &'a [u32],
    /// How many of them were given.
    pub prompt_length: usize,
    /// The most tokens the sequence may have, prompt included.
    pub max_length: usize,
}

/// A rule on the next token. Rules must depend on the context alone, so that a sequence does not
/// depend on its batch-mates.
pub trait Constraint: Debug + Send + Sync {
    /// Changes the scores `[vocabulary]` of the next token: logits for samplers, log probabilities
    /// for beam search (which are not normalised again). Negative infinity rules a token out.
    fn apply(&self, context: &Context<'_>, scores: &mut [f32]);
}

/// The constraints that a call's arguments ask for, in the order they apply.
pub(super) fn from_arguments(
    arguments: &mut Arguments,
    stop_token_ids: &[u32],
) -> Result<Vec<Box<dyn Constraint>>> {
    let mut constraints: Vec<Box<dyn Constraint>> = Vec::new();
    if let Some(least) = arguments.optional_count("min_length", 0)? {
        constraints.push(Box::new(MinLength::new(least, stop_token_ids)));
    }
    if let Some(least) = arguments.optional_count("min_new_tokens", 0)? {
        constraints.push(Box::new(MinNewTokens::new(least, stop_token_ids)));
    }
    Ok(constraints)
}
