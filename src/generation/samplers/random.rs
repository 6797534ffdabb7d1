//! Random sampling from the whole distribution.

use super::{Choice, Method, Sampler, check_temperature, draw, scores};
use crate::error::Result;
use crate::generation::arguments::Arguments;
use crate::ops::choices::{Draw, Pick};
use crate::random::Stream;

/// Draws each token with its probability at `temperature`.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    temperature: f32,
}

impl Random {
    /// # Errors
    /// `Argument` unless `temperature` is a finite number above 0.
    pub fn new(temperature: f32) -> Result<Self> {
        Ok(Self { temperature: check_temperature(temperature)? })
    }
}

impl Sampler for Random {
    fn choose(&self, logits: &mut [f32], draws: &mut Stream) -> Choice {
        scores::softmax(logits, self.temperature);
        let (token, log_probability) = draw(logits, draws);
        Choice { token: token as u32, log_probability: Some(log_probability) }
    }

    fn pick(&self) -> Option<Pick> {
        Some(Pick::Draw(Draw::of_all(self.temperature)))
    }
}

/// From the arguments `temperature`.
pub(super) fn build(arguments: &mut Arguments) -> Result<Method> {
    let sampler = Random::new(arguments.number("temperature", 1.0)?)?;
    Method::sample(sampler, arguments)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_distribution, frequencies};
    use super::*;

    #[test]
    fn frequencies_are_the_softmax() {
        let logits = [0.3, -1.0, 1.5, f32::NEG_INFINITY, 0.0, -2.0];
        for temperature in [0.7f32, 1.0, 3.0] {
            let counts = frequencies(&Random::new(temperature).unwrap(), &logits, 20_000);
            let weights = logits.map(|x| f64::from(x / temperature).exp());
            assert_distribution(&counts, &weights);
        }
    }
}
