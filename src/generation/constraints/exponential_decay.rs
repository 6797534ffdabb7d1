//! Exponential decay of length: stop tokens become likelier with every token beyond a length.

use serde_json::Value;

use super::{Built, Constraint, Context, Request, bounded};
use crate::error::Result;
use crate::generation::arguments::refusal;
use crate::ops::choices::Rules;

/// From `start` tokens after the prompt on, adds `|score| * (factor^n - 1)` to the scores of the stop
/// tokens, where `n` counts the tokens beyond. A stop token that was ruled out stays out.
#[derive(Clone, Debug)]
pub struct ExponentialDecay {
    start: usize,
    factor: f64,
    stop_token_ids: Vec<u32>,
}

impl ExponentialDecay {
    /// `factor` is above 0; above 1 answers become shorter.
    pub fn new(start: usize, factor: f64, stop_token_ids: &[u32]) -> Self {
        let mut stop_token_ids = stop_token_ids.to_vec();
        stop_token_ids.sort_unstable();
        stop_token_ids.dedup();
        Self { start, factor, stop_token_ids }
    }

    /// How many tokens a sequence is beyond the start.
    fn beyond(&self, context: &Context<'_>) -> usize {
        context.ids.len().saturating_sub(self.start.saturating_add(context.prompt_length))
    }

    /// By which part of their size the scores of stop tokens grow.
    fn growth(&self, context: &Context<'_>) -> f32 {
        (self.factor.powf(self.beyond(context) as f64) - 1.0) as f32
    }
}

impl Constraint for ExponentialDecay {
    fn name(&self) -> &'static str {
        "exponential_decay_length_penalty"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        if self.beyond(context) == 0 {
            return Ok(());
        }
        let growth = self.growth(context);
        for &id in &self.stop_token_ids {
            if let Some(score) = scores.get_mut(id as usize).filter(|score| score.is_finite()) {
                // The growth may be infinite, and infinity times zero is no number.
                let change = if *score == 0.0 { 0.0 } else { score.abs() * growth };
                *score = bounded(*score + change);
            }
        }
        Ok(())
    }

    fn rules_out(&self, context: &Context<'_>, _: &mut dyn FnMut(u32)) -> bool {
        self.beyond(context) == 0
    }

    fn describe(&self, context: &Context<'_>, rules: &mut Rules) -> bool {
        if self.beyond(context) > 0 {
            let growth = self.growth(context);
            self.stop_token_ids.iter().for_each(|&token| rules.grow(token, growth));
        }
        true
    }
}

pub(super) fn build(request: &mut Request<'_>) -> Built {
    const NAME: &str = "exponential_decay_length_penalty";
    let Some(value) = request.arguments.any(NAME) else { return Ok(None) };
    let pair = match value.as_array().map(Vec::as_slice) {
        Some([start, factor]) => start.as_u64().zip(Value::as_f64(factor)),
        _ => None,
    };
    match pair.filter(|(_, factor)| factor.is_finite() && *factor > 0.0) {
        Some((start, factor)) => {
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            Ok(Some(Box::new(ExponentialDecay::new(start, factor, request.stop_token_ids))))
        }
        None => Err(refusal(NAME, &value, "a pair: tokens from 0 up, and a factor above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{applied, context};
    use serde_json::json;

    #[test]
    fn stop_tokens_gain_with_every_token_beyond_the_start() {
        let out = f32::NEG_INFINITY;
        let ids = [1; 7];
        // Two given tokens, the rule from three after them on: tokens six and seven are beyond.
        for (length, growth) in [(5, 0.0), (6, 0.5), (7, 1.25)] {
            let settings = json!({"exponential_decay_length_penalty": [3, 1.5]});
            let scores =
                applied(settings.clone(), &context(&ids[..length], 2), &[-2.0, 1.0, 1.0, 4.0]);
            assert_eq!(scores, [-2.0 + 2.0 * growth, 1.0, 1.0, 4.0 + 4.0 * growth], "{length}");
            let ruled_out = applied(settings, &context(&ids[..length], 2), &[out, 1.0, 1.0, 0.0]);
            assert_eq!(ruled_out, [out, 1.0, 1.0, 0.0]);
        }
        let settings = json!({"exponential_decay_length_penalty": [0, 1e300]});
        let scores = applied(settings, &context(&ids, 0), &[1.0, 1.0, 1.0, 0.0]);
        assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
    }
}
