//! Sampling as in Hugging Face's `generate(do_sample=True)`: warpers, then a draw.

use super::warpers::Warpers;
use super::{Choice, Method, Sampler, draw, draw_token, scores};
use crate::error::Result;
use crate::generation::arguments::Arguments;
use crate::ops::choices::Pick;
use crate::random::Stream;

/// Draws from what the warpers leave, in proportion to the probabilities.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    warpers: Warpers,
}

impl Sampler for Sample {
    fn choose(&self, logits: &mut [f32], draws: &mut Stream) -> Choice {
        // Alike, whether all logits are there or the best of them alone.
        if let Some(count) = self.candidates()
            && let Some(choice) = self.choose_among(&scores::top_k(logits, count), draws)
        {
            return choice;
        }
        self.warpers.apply(logits, 1);
        scores::softmax(logits, 1.0);
        let (token, log_probability) = draw(logits, draws);
        Choice { token: token as u32, log_probability: Some(log_probability) }
    }

    fn candidates(&self) -> Option<usize> {
        // One more, which tells whether the last that is kept has an equal.
        self.warpers.top_k().and_then(|k| k.checked_add(1))
    }

    fn pick(&self) -> Option<Pick> {
        self.warpers.draw().map(Pick::Draw)
    }

    fn choose_among(&self, best: &[(u32, f32)], draws: &mut Stream) -> Option<Choice> {
        let k = self.warpers.top_k()?;
        // What is ruled out is no candidate.
        let logits = best.iter().map(|&(_, logit)| logit);
        let mut logits: Vec<f32> = logits.take_while(|&x| x > f32::NEG_INFINITY).collect();
        self.warpers.cool(&mut logits);
        if k < logits.len() && logits[k] == logits[k - 1] {
            return None;
        }
        logits.truncate(k);
        self.warpers.filter(&mut logits, 1);
        scores::softmax(&mut logits, 1.0);
        let tokens = best.iter().zip(&logits).map(|(&(token, _), &weight)| (token, weight));
        Some(draw_token(&mut tokens.collect::<Vec<_>>(), draws))
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
    fn the_best_alone_decide_as_all_do_but_for_equals() {
        for arguments in
            [json!({"top_k": 3}), json!({"top_k": 4, "top_p": 0.7, "temperature": 0.8})]
        {
            let sampler = sampler(&arguments);
            let count = sampler.candidates().unwrap();
            for step in 0..30 {
                let mut logits: Vec<f32> =
                    (0..40).map(|i| (i * (step + 7) % 41) as f32 * 0.2).collect();
                let draws = || Stream::new(3, 1, step);
                let among = sampler.choose_among(&scores::top_k(&logits, count), &mut draws());
                assert_eq!(among.unwrap(), sampler.choose(&mut logits, &mut draws()));
            }
            let equals = [(4, 1.0), (7, 0.5), (1, 0.25), (3, 0.25), (9, 0.25)];
            assert!(sampler.choose_among(&equals[..count], &mut Stream::new(0, 0, 0)).is_none());
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
