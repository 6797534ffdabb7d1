//! Forced tokens: the first after the start token, and the last.

use super::{Built, Constraint, Context, Request};
use crate::error::Result;

/// The token that follows the start token: all others are out where the sequence is one token long.
#[derive(Clone, Copy, Debug)]
pub struct ForcedFirstToken {
    id: u32,
}

impl ForcedFirstToken {
    /// Forces `id`.
    pub fn new(id: u32) -> Self {
        Self { id }
    }
}

impl Constraint for ForcedFirstToken {
    fn name(&self) -> &'static str {
        "forced_bos_token_id"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        if context.ids.len() == 1 {
            force(&[self.id], scores);
        }
        Ok(())
    }

    fn rules_out(&self, context: &Context<'_>, _: &mut dyn FnMut(u32)) -> bool {
        context.ids.len() != 1
    }
}

/// The token at the last position that the length allows; of several the sampler chooses.
#[derive(Clone, Debug)]
pub struct ForcedLastToken {
    ids: Vec<u32>,
}

impl ForcedLastToken {
    /// Forces one of `ids`.
    pub fn new(ids: Vec<u32>) -> Self {
        Self { ids }
    }
}

impl Constraint for ForcedLastToken {
    fn name(&self) -> &'static str {
        "forced_eos_token_id"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        if context.ids.len() + 1 == context.max_length {
            force(&self.ids, scores);
        }
        Ok(())
    }

    fn rules_out(&self, context: &Context<'_>, _: &mut dyn FnMut(u32)) -> bool {
        context.ids.len() + 1 != context.max_length
    }
}

/// Gives `ids` the score 0, the logarithm of certainty, and rules out all others.
fn force(ids: &[u32], scores: &mut [f32]) {
    scores.fill(f32::NEG_INFINITY);
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = 0.0;
        }
    }
}

pub(super) fn build_first(request: &mut Request<'_>) -> Built {
    Ok(match request.forced_first {
        Some(id) => Some(Box::new(ForcedFirstToken::new(id))),
        None => None,
    })
}

pub(super) fn build_last(request: &mut Request<'_>) -> Built {
    let ids = request.arguments.token_ids("forced_eos_token_id")?;
    Ok(if ids.is_empty() { None } else { Some(Box::new(ForcedLastToken::new(ids))) })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{applied, context};
    use serde_json::json;

    const OUT: f32 = f32::NEG_INFINITY;

    #[test]
    fn all_others_are_out_at_the_place_and_nowhere_else() {
        // The maximum length is 9.
        for (settings, length, expected) in [
            (json!({"forced_bos_token_id": 2}), 1, [OUT, OUT, 0.0]),
            (json!({"forced_bos_token_id": 2}), 2, [1.0; 3]),
            (json!({"forced_eos_token_id": [1]}), 8, [OUT, 0.0, OUT]),
            (json!({"forced_eos_token_id": [0, 2, 99]}), 8, [0.0, OUT, 0.0]),
            (json!({"forced_eos_token_id": [1]}), 7, [1.0; 3]),
        ] {
            let ids = vec![1; length];
            let scores = applied(settings.clone(), &context(&ids, 1), &[1.0; 3]);
            assert_eq!(scores, expected, "{settings}, {length}");
        }
    }
}
