//! Minimum lengths: no stop token before a sequence is long enough.

use super::{Built, Constraint, Context, Request};
use crate::error::Result;

/// Rules out the stop tokens while a sequence, prompt included, has fewer than `least` tokens
/// before the stop token (Hugging Face's `min_length`).
#[derive(Clone, Debug)]
pub struct MinLength {
    least: usize,
    stop_token_ids: Vec<u32>,
}

impl MinLength {
    /// At least `least` tokens in all.
    pub fn new(least: usize, stop_token_ids: &[u32]) -> Self {
        Self { least, stop_token_ids: stop_token_ids.to_vec() }
    }
}

impl Constraint for MinLength {
    fn name(&self) -> &'static str {
        "min_length"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        super::apply_ruling(self, context, scores)
    }

    fn rules_out(&self, context: &Context<'_>, visit: &mut dyn FnMut(u32)) -> bool {
        if context.ids.len() < self.least {
            self.stop_token_ids.iter().for_each(|&id| visit(id));
        }
        true
    }
}

/// The same, counting only what follows the prompt (Hugging Face's `min_new_tokens`).
#[derive(Clone, Debug)]
pub struct MinNewTokens {
    least: usize,
    stop_token_ids: Vec<u32>,
}

impl MinNewTokens {
    /// At least `least` tokens after the prompt.
    pub fn new(least: usize, stop_token_ids: &[u32]) -> Self {
        Self { least, stop_token_ids: stop_token_ids.to_vec() }
    }
}

impl Constraint for MinNewTokens {
    fn name(&self) -> &'static str {
        "min_new_tokens"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        super::apply_ruling(self, context, scores)
    }

    fn rules_out(&self, context: &Context<'_>, visit: &mut dyn FnMut(u32)) -> bool {
        if context.ids.len().saturating_sub(context.prompt_length) < self.least {
            self.stop_token_ids.iter().for_each(|&id| visit(id));
        }
        true
    }
}

pub(super) fn build(request: &mut Request<'_>) -> Built {
    Ok(match request.arguments.count("min_length", 0, 0)? {
        0 => None,
        least => Some(Box::new(MinLength::new(least, request.stop_token_ids))),
    })
}

pub(super) fn build_for_new_tokens(request: &mut Request<'_>) -> Built {
    Ok(match request.arguments.count("min_new_tokens", 0, 0)? {
        0 => None,
        least => Some(Box::new(MinNewTokens::new(least, request.stop_token_ids))),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, ruled_out};
    use serde_json::json;

    #[test]
    fn stop_tokens_are_out_until_the_length_is_reached() {
        // The stop tokens are 0 and 3, and two tokens are given.
        for (settings, length, expected) in [
            (json!({"min_length": 4}), 3, vec![0, 3]),
            (json!({"min_length": 4}), 4, vec![]),
            (json!({"min_new_tokens": 2}), 3, vec![0, 3]),
            (json!({"min_new_tokens": 2}), 4, vec![]),
        ] {
            let ids = vec![1; length];
            let out = ruled_out(settings.clone(), &context(&ids, 2));
            assert_eq!(out, expected, "{settings}, {length}");
        }
    }
}
