//! Minimum lengths: no stop token before a sequence is long enough.

use super::{Constraint, Context};

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
    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) {
        if context.ids.len() < self.least {
            suppress(&self.stop_token_ids, scores);
        }
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
    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) {
        if context.ids.len().saturating_sub(context.prompt_length) < self.least {
            suppress(&self.stop_token_ids, scores);
        }
    }
}

/// Rules out `ids`; ids beyond the vocabulary cannot be generated anyway.
fn suppress(ids: &[u32], scores: &mut [f32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suppressed(constraint: &dyn Constraint, length: usize) -> Vec<usize> {
        let context = Context { ids: &vec![1; length], prompt_length: 2, max_length: 9 };
        let mut scores = [0.5; 4];
        constraint.apply(&context, &mut scores);
        (0..4).filter(|&id| scores[id] == f32::NEG_INFINITY).collect()
    }

    #[test]
    fn stop_tokens_are_out_until_the_length_is_reached() {
        let stops = [0, 3, 99];
        assert_eq!(suppressed(&MinLength::new(4, &stops), 3), [0, 3]);
        assert!(suppressed(&MinLength::new(4, &stops), 4).is_empty());
        assert_eq!(suppressed(&MinNewTokens::new(2, &stops), 3), [0, 3]);
        assert!(suppressed(&MinNewTokens::new(2, &stops), 4).is_empty());
    }
}
