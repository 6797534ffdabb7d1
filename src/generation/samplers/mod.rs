//! Samplers: how one token is chosen from the scores of the next position.
//!
//! A new one is a file with its struct and its `build`, and a line in [`REGISTRY`].

mod greedy;
mod random;
mod sample;
mod top_k;
mod top_p;
mod warpers;

use std::fmt::Debug;
use std::sync::Arc;

use super::arguments::Arguments;
use super::beams::{self, BeamSettings};
use super::contrastive::{self, ContrastiveSettings};
use super::scores;
use crate::error::{Error, Result};
use crate::ops::choices::Pick;
use crate::random::Stream;

pub use greedy::Greedy;
pub use random::Random;
pub use sample::Sample;
pub use top_k::TopK;
pub use top_p::TopP;
pub use warpers::Warpers;

/// A choice of one token, made for one row at a time.
pub trait Sampler: Debug + Send + Sync {
    /// Chooses from logits `[vocabulary]`, none of which is NaN and at least one of which is
    /// finite; ruled-out tokens hold negative infinity and are never chosen. May overwrite them.
    /// Every random number comes from `draws`, which belongs to this sequence and position alone.
    fn choose(&self, logits: &mut [f32], draws: &mut Stream) -> Choice;

    /// How many of the likeliest tokens it looks at first, mostly whatever the others' logits; `None`: it looks
    /// at all.
    fn candidates(&self) -> Option<usize> {
        None
    }

    /// How it chooses, so that a card can do the same; `None`: in no way that a card knows.
    fn pick(&self) -> Option<Pick> {
        None
    }

    /// [`Sampler::choose`] from the [`Sampler::candidates`] likeliest alone, at least one: (token, logit),
    /// by logit descending, of equals the lower token first. `None` where these leave it open.
    fn choose_among(&self, best: &[(u32, f32)], _draws: &mut Stream) -> Option<Choice> {
        Some(Choice { token: best[0].0, log_probability: None })
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Its log probability in the distribution that it was chosen from; `None` if that is the
    /// softmax of the logits, which were then left as they are.
    pub log_probability: Option<f32>,
}

/// How the tokens of a sequence are chosen.
#[derive(Debug)]
pub enum Method {
    /// Token by token.
    Sample(Arc<SampleSettings>),
    /// Token by token, comparing what candidates would add.
    Contrastive(ContrastiveSettings),
    /// Several sequences for each input, compared by their scores.
    Beam(Arc<BeamSettings>),
}

/// The settings of a decoding that goes token by token.
#[derive(Debug)]
pub struct SampleSettings {
    /// What chooses.
    pub sampler: Box<dyn Sampler>,
    /// How many sequences each input gets, each from a random stream of its own.
    pub returned: usize,
}

impl Method {
    /// Sampling, with the rest of its settings from `arguments`: `num_return_sequences`.
    fn sample(sampler: impl Sampler + 'static, arguments: &mut Arguments) -> Result<Self> {
        let returned = arguments.count("num_return_sequences", 1, 1)?;
        if returned > MOST_SEQUENCES {
            let message = format!("received {returned}, expected at most {MOST_SEQUENCES}");
            return Err(Error::argument("num_return_sequences", message));
        }
        Ok(Method::Sample(Arc::new(SampleSettings { sampler: Box::new(sampler), returned })))
    }

    /// The same for a sampler without chance, whose answers would all be one.
    fn certain(sampler: impl Sampler + 'static, arguments: &mut Arguments) -> Result<Self> {
        check_single(arguments)?;
        Ok(Method::Sample(Arc::new(SampleSettings { sampler: Box::new(sampler), returned: 1 })))
    }
}

/// Takes `num_return_sequences`, and refuses more than one.
pub(super) fn check_single(arguments: &mut Arguments) -> Result<()> {
    match arguments.count("num_return_sequences", 1, 1)? {
        1 => Ok(()),
        more => Err(Error::argument(
            "num_return_sequences",
            format!(
                "received {more}, but this way of decoding has one answer for each input\n\
                 hint: draw at random (`do_sample`) or search with beams (`num_beams`)"
            ),
        )),
    }
}

/// More sequences than this for one input are refused: each needs a cache of its own, and a mistyped
/// number should not exhaust the memory.
pub(super) const MOST_SEQUENCES: usize = 1024;

type Build = fn(&mut Arguments) -> Result<Method>;

/// Every sampler by its name.
const REGISTRY: [(&str, Build); 7] = [
    ("greedy", greedy::build),
    ("random", random::build),
    ("top_k", top_k::build),
    ("top_p", top_p::build),
    ("sample", sample::build),
    ("contrastive", contrastive::build),
    ("beam", beams::build),
];

/// The names that [`super::Options::from_json`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|(name, _)| *name)
}

/// The sampler called `name`, from the arguments of its `get_config()`.
pub(super) fn from_arguments(name: &str, arguments: &mut Arguments) -> Result<Method> {
    match REGISTRY.iter().find(|(known, _)| *known == name) {
        Some((_, build)) => build(arguments),
        None => Err(Error::argument(
            "sampler",
            format!("received {name:?}, known are {}", names().collect::<Vec<_>>().join(", ")),
        )),
    }
}

/// Refuses a temperature that is not a finite number above 0.
pub(super) fn check_temperature(temperature: f32) -> Result<f32> {
    if temperature.is_finite() && temperature > 0.0 {
        return Ok(temperature);
    }
    Err(Error::argument(
        "temperature",
        format!(
            "received {temperature}, expected a finite number above 0\n\
             hint: the limit for small temperatures is the greedy sampler"
        ),
    ))
}

/// Refuses a number of candidates below one.
fn check_k(k: usize) -> Result<usize> {
    if k > 0 {
        return Ok(k);
    }
    Err(Error::argument("k", "received 0, expected an integer, at least 1"))
}

/// Draws one of some tokens (each with its weight) with probability in proportion to the weights; in the order of
/// the tokens, as from all of them.
fn draw_token(tokens: &mut [(u32, f32)], draws: &mut Stream) -> Choice {
    tokens.sort_unstable_by_key(|&(token, _)| token);
    let weights: Vec<f32> = tokens.iter().map(|&(_, weight)| weight).collect();
    let (place, log_probability) = draw(&weights, draws);
    Choice { token: tokens[place].0, log_probability: Some(log_probability) }
}

/// Weights that are summed at a time where a whole row is drawn from.
const BLOCK: usize = 512;

/// Draws an index with probability in proportion to its weight, and gives the logarithm of that
/// probability; weights are not negative and not all zero.
fn draw(weights: &[f32], draws: &mut Stream) -> (usize, f32) {
    // Sums are taken in f64 and the draw has 53 bits: with 24, a rare token of a large vocabulary
    // could never be reached.
    let total: f64 = weights.chunks(BLOCK).map(sum).sum();
    let target = draws.next_f64() * total;
    // The block in which the target lies, and the sum of those before it. Rounding may leave the target at
    // the very end: then the last block that has any weight.
    let (mut block, mut before, mut sum_so_far) = (0, 0.0, 0.0);
    for (index, weights) in weights.chunks(BLOCK).enumerate() {
        let sum = sum(weights);
        if sum > 0.0 {
            (block, before) = (index, sum_so_far);
        }
        sum_so_far += sum;
        if sum_so_far > target {
            break;
        }
    }
    let mut chosen = (0, 0.0);
    for (index, &weight) in weights.iter().enumerate().skip(block * BLOCK).take(BLOCK) {
        if weight > 0.0 {
            chosen = (index, f64::from(weight));
        }
        before += f64::from(weight);
        if before > target {
            break;
        }
    }
    (chosen.0, (chosen.1 / total).ln() as f32)
}

/// The sum of weights, by eight sums that are independent of each other.
fn sum(weights: &[f32]) -> f64 {
    let (eights, rest) = weights.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        for (sum, &weight) in sums.iter_mut().zip(eight) {
            *sum += f64::from(weight);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&weight| f64::from(weight)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(options: serde_json::Value) -> Result<super::super::Options> {
        super::super::Options::from_json(options.as_object().unwrap().clone())
    }

    /// Counts of each token over many steps, with the same logits every time.
    pub(super) fn frequencies(sampler: &dyn Sampler, logits: &[f32], draws: u64) -> Vec<u64> {
        let mut counts = vec![0; logits.len()];
        for step in 0..draws {
            let mut stream = Stream::new(20, 1, step);
            counts[sampler.choose(&mut logits.to_vec(), &mut stream).token as usize] += 1;
        }
        counts
    }

    /// Asserts that counts fit the distribution: chi-square below the value exceeded once in a
    /// thousand seeds, and nothing drawn that has no probability.
    pub(super) fn assert_distribution(counts: &[u64], weights: &[f64]) {
        let (draws, total) = (counts.iter().sum::<u64>() as f64, weights.iter().sum::<f64>());
        let mut chi_square = 0.0;
        for (&count, weight) in counts.iter().zip(weights) {
            let expected = draws * weight / total;
            if expected == 0.0 {
                assert_eq!(count, 0, "drew a token without probability: {counts:?}");
            } else {
                assert!(expected > 5.0, "too few draws for the test");
                chi_square += (count as f64 - expected).powi(2) / expected;
            }
        }
        let freedom = weights.iter().filter(|&&weight| weight > 0.0).count() - 1;
        let critical = [0.0, 10.8, 13.8, 16.3, 18.5, 20.5, 22.5, 24.3][freedom];
        assert!(chi_square <= critical, "chi-square {chi_square} over {critical}: {counts:?}");
    }

    #[test]
    fn every_name_builds_from_its_defaults() {
        for name in names() {
            let options = read(json!({"sampler": name})).unwrap();
            assert_eq!(matches!(options.method, Method::Beam(_)), name == "beam");
        }
    }

    #[test]
    fn settings_that_cannot_be_used_name_their_argument() {
        for (options, name) in [
            (json!({"sampler": "best"}), "sampler"),
            (json!({"sampler": 3}), "sampler"),
            (json!({}), "sampler"),
            (json!({"sampler": "top_k", "k": 0}), "k"),
            (json!({"sampler": "top_p", "p": -0.1}), "p"),
            (json!({"sampler": "top_p", "p": 1.5}), "p"),
            (json!({"sampler": "top_p", "p": null}), "p"),
            (json!({"sampler": "top_p", "k": 0}), "k"),
            (json!({"sampler": "random", "temperature": 0}), "temperature"),
            (json!({"sampler": "random", "temperature": null}), "temperature"),
            (json!({"sampler": "greedy", "temperature": -1}), "temperature"),
            (json!({"sampler": "greedy", "k": 3}), "k"),
            (json!({"sampler": "greedy", "num_return_sequences": 2}), "num_return_sequences"),
            (json!({"sampler": "top_k", "num_return_sequences": 1025}), "num_return_sequences"),
            (json!({"sampler": "greedy", "stop_token_ids": 3}), "stop_token_ids"),
            (json!({"sampler": "sample", "top_p": 2}), "top_p"),
            (json!({"sampler": "contrastive", "k": 0}), "k"),
            (json!({"sampler": "contrastive", "alpha": 1.5}), "alpha"),
            (json!({"sampler": "contrastive", "num_return_sequences": 2}), "num_return_sequences"),
            (json!({"sampler": "beam", "num_beams": 0}), "num_beams"),
            (json!({"sampler": "beam", "num_beams": 4, "num_beam_groups": 3}), "num_beam_groups"),
            (json!({"sampler": "beam", "num_beams": 4, "num_beam_groups": 2}), "diversity_penalty"),
            (json!({"sampler": "beam", "diversity_penalty": 0.5}), "diversity_penalty"),
            (json!({"sampler": "beam", "force_words_ids": [[]]}), "force_words_ids"),
            (json!({"sampler": "beam", "num_beams": 1, "do_sample": true}), "num_beams"),
            (json!({"sampler": "beam", "top_k": 3}), "top_k"),
            (json!({"sampler": "beam", "do_sample": true, "top_p": -1}), "top_p"),
            (json!({"sampler": "beam", "do_sample": true, "compat": "keras"}), "do_sample"),
            (
                json!({"sampler": "beam", "force_words_ids": [[1]], "compat": "keras"}),
                "force_words_ids",
            ),
            (json!({"sampler": "beam", "early_stopping": "soon"}), "early_stopping"),
            (json!({"sampler": "beam", "length_penalty": null}), "length_penalty"),
            (json!({"sampler": "beam", "compat": "tf"}), "compat"),
            (json!({"sampler": "beam", "num_return_sequences": 6}), "num_return_sequences"),
        ] {
            let message = read(options.clone()).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{name}`: ")), "{options}: {message}");
        }
        for temperature in [0.0, -0.5, f32::NAN, f32::INFINITY] {
            assert!(check_temperature(temperature).is_err());
        }
    }

    #[test]
    fn a_draw_never_returns_a_weight_of_zero() {
        for step in 0..200 {
            let weights = [0.0f32, 1.0, 0.0, 1e-30, 0.0];
            let (chosen, log_probability) = draw(&weights, &mut Stream::new(0, 0, step));
            assert!(weights[chosen] > 0.0);
            assert!((f64::from(log_probability) - f64::from(weights[chosen]).ln()).abs() < 1e-5);
        }
    }
}
