//! Repetition penalty (Keskar et al., 2019, "CTRL"): tokens that were said become less likely.

use super::{Built, Constraint, Context, Request, bounded};
use crate::error::{Error, Result};
use crate::ops::choices::Rules;

/// Divides the positive and multiplies the negative scores of all tokens that the sequence holds,
/// prompt included.
#[derive(Clone, Copy, Debug)]
pub struct RepetitionPenalty {
    penalty: f32,
}

impl RepetitionPenalty {
    /// Above 1 repetition becomes less likely, below 1 more.
    ///
    /// # Errors
    /// `Argument` unless `penalty` is a finite number above 0.
    pub fn new(penalty: f32) -> Result<Self> {
        if penalty.is_finite() && penalty > 0.0 {
            return Ok(Self { penalty });
        }
        let message = format!("received {penalty}, expected a finite number above 0");
        Err(Error::argument("repetition_penalty", message))
    }
}

impl Constraint for RepetitionPenalty {
    fn name(&self) -> &'static str {
        "repetition_penalty"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        for id in said(context) {
            if let Some(score) = scores.get_mut(id as usize) {
                let penalised =
                    if *score < 0.0 { *score * self.penalty } else { *score / self.penalty };
                *score = bounded(penalised);
            }
        }
        Ok(())
    }

    fn describe(&self, context: &Context<'_>, rules: &mut Rules) -> bool {
        rules.penalise(said(context), self.penalty);
        true
    }
}

/// Each token that was said once, however often that was.
fn said(context: &Context<'_>) -> Vec<u32> {
    let mut said = context.ids.to_vec();
    said.sort_unstable();
    said.dedup();
    said
}

pub(super) fn build(request: &mut Request<'_>) -> Built {
    match request.arguments.number("repetition_penalty", 1.0)? {
        1.0 => Ok(None),
        penalty => Ok(Some(Box::new(RepetitionPenalty::new(penalty)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{applied, context};
    use serde_json::json;

    #[test]
    fn said_tokens_move_towards_unlikely_once() {
        let ids = [1, 2, 1, 1, 77];
        let scores = [3.0, 3.0, -3.0, f32::NEG_INFINITY];
        let penalised = applied(json!({"repetition_penalty": 1.5}), &context(&ids, 1), &scores);
        assert_eq!(penalised, [3.0, 2.0, -4.5, f32::NEG_INFINITY]);
        let huge = applied(json!({"repetition_penalty": 1e-38}), &context(&ids, 1), &[9.0; 4]);
        assert!(huge.iter().all(|score| score.is_finite()));
    }
}
