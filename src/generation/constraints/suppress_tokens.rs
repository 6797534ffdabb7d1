//! Suppressed tokens: never said, or not said first.

use super::{Built, Constraint, Context, Request};
use crate::error::Result;

/// Rules tokens out everywhere.
#[derive(Clone, Debug)]
pub struct SuppressTokens {
    ids: Vec<u32>,
}

impl SuppressTokens {
    /// Rules out `ids`.
    pub fn new(ids: Vec<u32>) -> Self {
        Self { ids }
    }
}

impl Constraint for SuppressTokens {
    fn name(&self) -> &'static str {
        "suppress_tokens"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        super::apply_ruling(self, context, scores)
    }

    fn rules_out(&self, _: &Context<'_>, visit: &mut dyn FnMut(u32)) -> bool {
        self.ids.iter().for_each(|&id| visit(id));
        true
    }
}

/// Rules tokens out where the answer begins: after the prompt, or after a forced first token.
#[derive(Clone, Debug)]
pub struct SuppressFirstTokens {
    ids: Vec<u32>,
    after_forced: bool,
}

impl SuppressFirstTokens {
    /// Rules out `ids`; `after_forced` says whether a first token is forced.
    pub fn new(ids: Vec<u32>, after_forced: bool) -> Self {
        Self { ids, after_forced }
    }
}

impl Constraint for SuppressFirstTokens {
    fn name(&self) -> &'static str {
        "begin_suppress_tokens"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        super::apply_ruling(self, context, scores)
    }

    fn rules_out(&self, context: &Context<'_>, visit: &mut dyn FnMut(u32)) -> bool {
        // A first token is forced after a start token that stands alone.
        let forced = usize::from(self.after_forced && context.prompt_length == 1);
        if context.ids.len() == context.prompt_length + forced {
            self.ids.iter().for_each(|&id| visit(id));
        }
        true
    }
}

pub(super) fn build(request: &mut Request<'_>) -> Built {
    let ids = request.arguments.token_ids("suppress_tokens")?;
    Ok(if ids.is_empty() { None } else { Some(Box::new(SuppressTokens::new(ids))) })
}

pub(super) fn build_for_first(request: &mut Request<'_>) -> Built {
    let ids = request.arguments.token_ids("begin_suppress_tokens")?;
    let after_forced = request.forced_first.is_some();
    Ok(match ids.is_empty() {
        true => None,
        false => Some(Box::new(SuppressFirstTokens::new(ids, after_forced))),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, ruled_out};
    use super::*;
    use serde_json::json;

    #[test]
    fn everywhere_or_at_the_beginning() {
        for length in 1..4 {
            let ids = vec![0; length];
            let everywhere = ruled_out(json!({"suppress_tokens": [1, 4, 99]}), &context(&ids, 2));
            assert_eq!(everywhere, [1, 4]);
            let first = ruled_out(json!({"begin_suppress_tokens": [1, 4]}), &context(&ids, 2));
            assert_eq!(first, if length == 2 { vec![1, 4] } else { vec![] });
        }
    }

    #[test]
    fn a_forced_first_token_moves_the_beginning() {
        let rule = SuppressFirstTokens::new(vec![0], true);
        for (length, prompt, expected) in [(1, 1, false), (2, 1, true), (2, 2, true), (3, 2, false)]
        {
            let mut scores = [0.5];
            rule.apply(&context(&vec![0; length], prompt), &mut scores).unwrap();
            assert_eq!(scores[0] == f32::NEG_INFINITY, expected, "{length}, {prompt}");
        }
    }
}
