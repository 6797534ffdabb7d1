//! Top-k sampling (Fan, Lewis and Dauphin, 2018): random among the `k` most probable tokens.

use super::{Choice, Method, Sampler, check_k, check_temperature, draw_token, scores};
use crate::error::Result;
use crate::generation::arguments::Arguments;
use crate::ops::choices::{Draw, Pick};
use crate::random::Stream;

/// Draws among the `k` most probable tokens in proportion to their probabilities at
/// `temperature`. A `k` beyond the vocabulary means all of it.
#[derive(Clone, Copy, Debug)]
pub struct TopK {
    k: usize,
    temperature: f32,
}

impl TopK {
    /// # Errors
    /// `Argument` unless `k` is at least 1 and `temperature` a finite number above 0.
    pub fn new(k: usize, temperature: f32) -> Result<Self> {
        Ok(Self { k: check_k(k)?, temperature: check_temperature(temperature)? })
    }
}

impl Sampler for TopK {
    fn choose(&self, logits: &mut [f32], draws: &mut Stream) -> Choice {
        draw_among(&scores::top_k(logits, self.k), self.temperature, draws)
    }

    fn candidates(&self) -> Option<usize> {
        Some(self.k)
    }

    fn pick(&self) -> Option<Pick> {
        Some(Pick::Draw(Draw { top_k: Some(self.k), ..Draw::of_all(self.temperature) }))
    }

    fn choose_among(&self, candidates: &[(u32, f32)], draws: &mut Stream) -> Option<Choice> {
        Some(draw_among(candidates, self.temperature, draws))
    }
}

/// Draws among candidates, the likeliest of them first.
fn draw_among(candidates: &[(u32, f32)], temperature: f32, draws: &mut Stream) -> Choice {
    // The k highest logits are the k highest probabilities, and what the others add to the
    // softmax's sum cancels: only k exponentials are needed.
    let largest = candidates[0].1;
    let weight = |&(token, logit): &(u32, f32)| (token, ((logit - largest) / temperature).exp());
    draw_token(&mut candidates.iter().map(weight).collect::<Vec<_>>(), draws)
}

/// From the arguments `k` and `temperature`.
pub(super) fn build(arguments: &mut Arguments) -> Result<Method> {
    let sampler = TopK::new(arguments.count("k", 5, 1)?, arguments.number("temperature", 1.0)?)?;
    Method::sample(sampler, arguments)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_distribution, frequencies};
    use super::*;

    #[test]
    fn frequencies_are_the_softmax_of_the_k_highest() {
        // Ids 2 and 4 are equal: with k = 3 the lower of them is in, the other out.
        let logits = [0.9, -1.0, 0.2, 1.5, 0.2, f32::NEG_INFINITY];
        for (k, kept) in [(1, vec![3]), (3, vec![0, 2, 3]), (4, vec![0, 2, 3, 4])] {
            for temperature in [0.6f32, 1.0, 2.0] {
                let counts = frequencies(&TopK::new(k, temperature).unwrap(), &logits, 10_000);
                let mut weights = [0.0; 6];
                kept.iter().for_each(|&id| weights[id] = f64::from(logits[id] / temperature).exp());
                assert_distribution(&counts, &weights);
            }
        }
    }

    #[test]
    fn more_candidates_than_tokens_are_all_of_them() {
        let logits = [0.3, -1.0, f32::NEG_INFINITY, 1.5];
        let counts = frequencies(&TopK::new(50, 1.0).unwrap(), &logits, 10_000);
        assert_distribution(&counts, &logits.map(|x| f64::from(x).exp()));
    }
}
