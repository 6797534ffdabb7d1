//! Sampling as in Hugging Face's `generate(do_sample=True)`: warpers, then a draw.

use super::warpers::Warpers;
use super::{Choice, Method, Sampler, draw, scores};
use crate::error::Result;
use crate::generation::arguments::Arguments;
use crate::random::Stream;

/// Draws from what the warpers leave, in proportion to the probabilities.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    warpers: Warpers,
}

impl Sampler for Sample {
    fn choose(&self, logits: &mut [f32], draws: &mut Stream) -> Choice {
        self.warpers.apply(logits, 1);
        scores::softmax(logits, 1.0);
        let (token, log_probability) = draw(logits, draws);
        Choice { token: token as u32, log_probability: Some(log_probability) }
    }
}

/// From the arguments of [`Warpers`].
pub(super) fn build(arguments: &mut Arguments) -> Result<Method> {
    let sampler = Sample { warpers: Warpers::from_arguments(arguments)? };
    Method::sample(sampler, arguments)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_distribution, frequencies};
    use super::*;
    use serde_json::{Value, json};

    fn sampler(arguments: &Value) -> Sample {
        let mut arguments = Arguments::new(arguments.as_object().unwrap().clone());
        Sample { warpers: Warpers::from_arguments(&mut arguments).unwrap() }
    }

    #[test]
    fn frequencies_are_the_softmax_of_what_is_left() {
        let logits = [0.1f32, 0.4, 0.05, 0.25, 0.2, 0.0].map(f32::ln);
        for (arguments, temperature, kept) in [
            (json!({}), 1.0, vec![0, 1, 2, 3, 4]),
            (json!({"temperature": 2.0}), 2.0, vec![0, 1, 2, 3, 4]),
            (json!({"top_k": 3, "temperature": 0.7}), 0.7, vec![1, 3, 4]),
            (json!({"top_k": 4, "top_p": 0.8}), 1.0, vec![1, 3, 4]),
            (json!({"min_p": 0.3}), 1.0, vec![1, 3, 4]),
            (json!({"typical_p": 0.44}), 1.0, vec![3, 4]),
            (json!({"top_p": 0.96, "min_p": 0.2, "typical_p": 0.9}), 1.0, vec![0, 1, 3, 4]),
        ] {
            let counts = frequencies(&sampler(&arguments), &logits, 10_000);
            let mut weights = [0.0; 6];
            kept.iter().for_each(|&id: &usize| {
                weights[id] = f64::from(logits[id] / temperature).exp();
            });
            assert_distribution(&counts, &weights);
        }
    }

    #[test]
    fn the_log_probability_is_that_of_what_is_left() {
        let mut logits = [0.1f32, 0.4, 0.05, 0.25, 0.2, 0.0].map(f32::ln);
        let choice = sampler(&json!({"top_k": 3})).choose(&mut logits, &mut Stream::new(0, 0, 0));
        let exact = [0.0, 0.4, 0.0, 0.25, 0.2, 0.0][choice.token as usize] / 0.85f64;
        assert!((f64::from(choice.log_probability.unwrap()) - exact.ln()).abs() < 1e-5);
    }
}
