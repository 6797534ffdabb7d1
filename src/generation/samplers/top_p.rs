//! Top-p or nucleus sampling (Holtzman et al., 2020): random among the most probable tokens that
//! together reach the probability `p`.

use super::{Choice, Method, Sampler, check_k, check_temperature, draw_token, scores};
use crate::error::{Error, Result};
use crate::generation::arguments::Arguments;
use crate::ops::choices::{Draw, Pick};
use crate::random::Stream;

/// Draws among the most probable tokens, up to and including the first one that takes their sum
/// above `p`; with `k`, among the `k` most probable at most (whose probabilities are not normalised
/// again before they are compared with `p`).
#[derive(Clone, Copy, Debug)]
pub struct TopP {
    p: f32,
    k: Option<usize>,
    temperature: f32,
}

impl TopP {
    /// # Errors
    /// `Argument` unless 0 <= `p` <= 1, `k` is at least 1 where given, and `temperature` is a finite
    /// number above 0.
    pub fn new(p: f32, k: Option<usize>, temperature: f32) -> Result<Self> {
        if !(0.0..=1.0).contains(&p) {
            let message = format!("received {p}, expected a number from 0 to 1");
            return Err(Error::argument("p", message));
        }
        let k = k.map(check_k).transpose()?;
        Ok(Self { p, k, temperature: check_temperature(temperature)? })
    }

    /// How many of the sorted candidates are kept, or `None` if they do not reach `p`.
    fn cut(&self, candidates: &[(u32, f32)]) -> Option<usize> {
        let mut sum = 0.0f64;
        let reaches = |&(_, probability): &(u32, f32)| {
            sum += f64::from(probability);
            sum as f32 > self.p
        };
        candidates.iter().position(reaches).map(|last| last + 1)
    }
}

impl Sampler for TopP {
    fn choose(&self, logits: &mut [f32], draws: &mut Stream) -> Choice {
        scores::softmax(logits, self.temperature);
        let most = self.k.unwrap_or(logits.len()).min(logits.len());
        // Sorting the whole vocabulary for a handful of candidates would cost more than all the
        // rest, so the sorted front grows until it reaches p.
        let mut size = most.min(32);
        let mut nucleus = loop {
            let mut candidates = scores::top_k(logits, size);
            match self.cut(&candidates) {
                Some(kept) => candidates.truncate(kept),
                None if size < most => {
                    size = most.min(size * 16);
                    continue;
                }
                None => {}
            }
            break candidates;
        };
        draw_token(&mut nucleus, draws)
    }

    fn pick(&self) -> Option<Pick> {
        let all = Draw::of_all(self.temperature);
        Some(Pick::Draw(Draw { top_k: self.k, top_p: self.p, ..all }))
    }
}

/// From the arguments `p`, `k` and `temperature`.
pub(super) fn build(arguments: &mut Arguments) -> Result<Method> {
    let p = arguments.number("p", 0.1)?;
    let k = arguments.optional_count("k", 1)?;
    let sampler = TopP::new(p, k, arguments.number("temperature", 1.0)?)?;
    Method::sample(sampler, arguments)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_distribution, frequencies};
    use super::*;

    /// Logits whose softmax is 0.1, 0.4, 0.05, 0.25, 0.2, 0.
    fn logits() -> [f32; 6] {
        [0.1f32, 0.4, 0.05, 0.25, 0.2, 0.0].map(f32::ln)
    }

    #[test]
    fn frequencies_are_those_of_the_nucleus() {
        for (p, k, kept) in [
            (0.0, None, vec![1]),
            (0.1, None, vec![1]),
            (0.45, None, vec![1, 3]),
            (0.7, None, vec![1, 3, 4]),
            (0.97, None, vec![0, 1, 2, 3, 4]),
            (1.0, None, vec![0, 1, 2, 3, 4]),
            (0.97, Some(2), vec![1, 3]),
            (0.45, Some(4), vec![1, 3]),
        ] {
            let counts = frequencies(&TopP::new(p, k, 1.0).unwrap(), &logits(), 10_000);
            let mut weights = [0.0; 6];
            kept.iter().for_each(|&id: &usize| weights[id] = f64::from(logits()[id]).exp());
            assert_distribution(&counts, &weights);
        }
    }

    #[test]
    fn the_temperature_comes_before_the_cut() {
        // At temperature 1/2 the probabilities 0.4 and 0.25 become 0.58 and 0.23.
        let counts = frequencies(&TopP::new(0.5, None, 0.5).unwrap(), &logits(), 1_000);
        assert_eq!(counts[1], 1_000);
    }

    #[test]
    fn a_nucleus_larger_than_the_first_guess() {
        let row = vec![0.0f32; 4096];
        let sampler = TopP::new(0.5, None, 1.0).unwrap();
        let counts = frequencies(&sampler, &row, 4_000);
        // Equal tokens enter by id: 2048 of them reach one half, the next passes it.
        assert!(counts[2049..].iter().all(|&count| count == 0));
        let upper: u64 = counts[1024..2049].iter().sum();
        assert!((1850..2150).contains(&upper), "{upper} of 4000 in the upper half");
    }
}
