//! What Hugging Face calls warpers: filters that leave a part of the tokens to draw from
//! (transformers, `generation/logits_process.py`), chained in its order: temperature, top-k, top-p,
//! min-p, typical-p. Each looks at the distribution that those before it have left.

use super::{check_temperature, scores};
use crate::error::{Error, Result};
use crate::generation::arguments::Arguments;
use crate::ops::choices::Draw;

/// The filters of one way of sampling; `None` leaves one out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warpers {
    temperature: f32,
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f32>,
    typical_p: Option<f64>,
}

impl Warpers {
    /// From the arguments `temperature` (1.0), `top_k` (0: none), `top_p` (1.0: none), `min_p` and
    /// `typical_p` (1.0: none); not given means none.
    ///
    /// # Errors
    /// `Argument` for a temperature that is not above 0 or a probability outside [0, 1].
    pub(in crate::generation) fn from_arguments(arguments: &mut Arguments) -> Result<Self> {
        let temperature = check_temperature(arguments.number("temperature", 1.0)?)?;
        let top_k = arguments.optional_count("top_k", 0)?.filter(|&k| k > 0);
        let mut probability = |name: &str, least: f32| match arguments.optional_number(name)? {
            Some(p) if !(least..=1.0).contains(&p) => {
                let range = if least > 0.0 { "above 0 and at most 1" } else { "from 0 to 1" };
                Err(Error::argument(name, format!("received {p}, expected a number {range}")))
            }
            given => Ok(given),
        };
        let whole = |p: Option<f32>| p.filter(|&p| p < 1.0).map(f64::from);
        Ok(Self {
            temperature,
            top_k,
            top_p: whole(probability("top_p", 0.0)?),
            min_p: probability("min_p", 0.0)?,
            typical_p: whole(probability("typical_p", f32::MIN_POSITIVE)?),
        })
    }

    /// Divides the logits (or log probabilities) by the temperature and rules out, with negative
    /// infinity, what the filters leave out; of the tokens that are in, at least `least` stay, if
    /// there are as many.
    pub(in crate::generation) fn apply(&self, row: &mut [f32], least: usize) {
        self.cool(row);
        if let Some(k) = self.top_k {
            keep_highest(row, k.max(least));
        }
        self.filter(row, least);
    }

    /// The first of what [`Self::apply`] does: divides by the temperature.
    pub(super) fn cool(&self, row: &mut [f32]) {
        scores::cool(row, self.temperature);
    }

    /// How many of the highest are kept then.
    pub(super) fn top_k(&self) -> Option<usize> {
        self.top_k
    }

    /// The draw of what is left, if a card knows it.
    pub(super) fn draw(&self) -> Option<Draw> {
        self.typical_p.is_none().then(|| Draw {
            top_k: self.top_k,
            top_p: self.top_p.unwrap_or(1.0) as f32,
            min_p: self.min_p.unwrap_or(0.0),
            in_turn: true,
            ..Draw::of_all(self.temperature)
        })
    }

    /// The rest of it: the filters behind top-k.
    pub(super) fn filter(&self, row: &mut [f32], least: usize) {
        if let Some(p) = self.top_p {
            keep_nucleus(row, p, least);
        }
        if let Some(p) = self.min_p {
            keep_above(row, p, least);
        }
        if let Some(mass) = self.typical_p {
            keep_typical(row, mass, least);
        }
    }
}

/// Keeps the `k` highest, and what equals the last of them.
fn keep_highest(row: &mut [f32], k: usize) {
    if let Some(&(_, lowest)) = scores::top_k(row, k).last() {
        rule_out(row, |_, x| x < lowest);
    }
}

/// Keeps the most probable tokens, up to and including the first with which they reach `p`; of
/// equals the lower ids.
fn keep_nucleus(row: &mut [f32], p: f64, least: usize) {
    let log_sum = f64::from(scores::log_sum_exp(row));
    // Sorting the whole vocabulary for a handful of tokens would cost more than all the rest, so
    // the sorted front grows until it reaches p.
    let mut size = row.len().min(32.max(least));
    let (last, lowest) = loop {
        let front = scores::top_k(row, size);
        let mut sum = 0.0;
        let reached = front.iter().position(|&(_, x)| {
            sum += (f64::from(x) - log_sum).exp();
            sum >= p
        });
        match reached {
            Some(place) => break front[place.max(least - 1).min(front.len() - 1)],
            None if size < row.len() => size = row.len().min(size * 16),
            None => return,
        }
    };
    rule_out(row, |id, x| x < lowest || x == lowest && id > last);
}

/// Keeps what is at least `p` times as probable as the most probable token.
fn keep_above(row: &mut [f32], p: f32, least: usize) {
    let front = scores::top_k(row, least);
    let (Some(&(_, highest)), Some(&(last, lowest))) = (front.first(), front.last()) else {
        return;
    };
    rule_out(row, |id, x| (x - highest).exp() < p && (x < lowest || x == lowest && id > last));
}

/// Locally typical sampling (Meister et al., 2023): keeps the tokens whose log probability is
/// nearest to what the distribution has on average, until they reach the probability `mass`, and
/// what is as near as the last of them.
fn keep_typical(row: &mut [f32], mass: f64, least: usize) {
    let log_sum = scores::log_sum_exp(row);
    let mut tokens: Vec<(u32, f32)> = (0..)
        .zip(row.iter().map(|x| x - log_sum))
        .filter(|&(_, log)| log > f32::NEG_INFINITY)
        .collect();
    // A beam may have nothing left that is allowed.
    let Some(end) = tokens.len().checked_sub(1) else { return };
    let entropy: f32 = -tokens.iter().map(|&(_, log)| log.exp() * log).sum::<f32>();
    let distance = |log: f32| (-log - entropy).abs();
    tokens.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
    let mut sum = 0.0;
    let reached = tokens.iter().position(|&(_, log)| {
        sum += f64::from(log).exp();
        sum >= mass
    });
    let last = reached.unwrap_or(end);
    let farthest = distance(tokens[last].1);
    for &(id, log) in tokens.iter().skip(least.max(last + 1)) {
        if distance(log) > farthest {
            row[id as usize] = f32::NEG_INFINITY;
        }
    }
}

fn rule_out(row: &mut [f32], is_out: impl Fn(u32, f32) -> bool) {
    for (id, x) in (0..).zip(row) {
        if is_out(id, *x) {
            *x = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::testing::toy_logits;
    use serde_json::{Value, json};

    fn warpers(arguments: Value) -> Result<Warpers> {
        Warpers::from_arguments(&mut Arguments::new(arguments.as_object().unwrap().clone()))
    }

    /// What is left of tokens with the probabilities 0.1, 0.4, 0.05, 0.25, 0.2 and 0.
    fn kept(arguments: Value, least: usize) -> Vec<usize> {
        let mut row = [0.1f32, 0.4, 0.05, 0.25, 0.2, 0.0].map(f32::ln);
        warpers(arguments).unwrap().apply(&mut row, least);
        (0..row.len()).filter(|&id| row[id] > f32::NEG_INFINITY).collect()
    }

    #[test]
    fn each_filter_keeps_its_part() {
        for (arguments, least, expected) in [
            (json!({}), 1, vec![0, 1, 2, 3, 4]),
            (
                json!({"top_k": 0, "top_p": 1.0, "typical_p": 1.0, "min_p": 0.0}),
                1,
                vec![0, 1, 2, 3, 4],
            ),
            (json!({"top_k": 2}), 1, vec![1, 3]),
            (json!({"top_k": 1}), 3, vec![1, 3, 4]),
            (json!({"top_k": 50}), 1, vec![0, 1, 2, 3, 4]),
            (json!({"top_p": 0.0}), 1, vec![1]),
            (json!({"top_p": 0.39}), 1, vec![1]),
            (json!({"top_p": 0.41}), 1, vec![1, 3]),
            (json!({"top_p": 0.41}), 3, vec![1, 3, 4]),
            (json!({"top_p": 0.96}), 1, vec![0, 1, 2, 3, 4]),
            (json!({"min_p": 0.45}), 1, vec![1, 3, 4]),
            (json!({"min_p": 0.9}), 1, vec![1]),
            (json!({"min_p": 0.9}), 2, vec![1, 3]),
            // The entropy is 1.41: in the order of their distance the tokens are 3, 4, 1, 0, 2.
            (json!({"typical_p": 0.2}), 1, vec![3]),
            (json!({"typical_p": 0.44}), 1, vec![3, 4]),
            (json!({"typical_p": 0.5}), 1, vec![1, 3, 4]),
            (json!({"typical_p": 0.2}), 3, vec![1, 3, 4]),
            (json!({"typical_p": 0.9}), 1, vec![0, 1, 3, 4]),
        ] {
            assert_eq!(kept(arguments.clone(), least), expected, "{arguments} {least}");
        }
    }

    #[test]
    fn what_is_left_is_what_transformers_leaves() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/search_cases.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = file["warpers"].as_array().unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            let ids = |name: &str| -> Vec<u32> {
                serde_json::from_value(case[name].clone()).expect("a list of ids")
            };
            let size = case["vocabulary"].as_u64().unwrap() as usize;
            let mut row = toy_logits(&ids("history"), size, &[]);
            let least = case["least"].as_u64().unwrap() as usize;
            warpers(case["arguments"].clone()).unwrap().apply(&mut row, least);
            let left: Vec<u32> = (0..)
                .zip(&row)
                .filter(|(_, x)| **x > f32::NEG_INFINITY)
                .map(|(id, _)| id)
                .collect();
            assert_eq!(left, ids("left"), "{case}");
        }
    }

    #[test]
    fn a_filter_sees_what_those_before_it_have_left() {
        // Of the three most probable, 0.4 is 0.47 of the rest; of all it is below the 0.45.
        assert_eq!(kept(json!({"top_k": 3, "top_p": 0.45}), 1), [1]);
        assert_eq!(kept(json!({"top_p": 0.45}), 1), [1, 3]);
        // At temperature 1/2 the probabilities 0.4 and 0.25 become 0.58 and 0.23.
        assert_eq!(kept(json!({"temperature": 0.5, "top_p": 0.5}), 1), [1]);
        assert_eq!(kept(json!({"temperature": 0.5, "min_p": 0.5}), 1), [1]);
    }

    #[test]
    fn equals_stay_together_under_top_k_and_part_under_top_p() {
        let after = |arguments: Value| {
            let mut row = vec![0.0f32; 4096];
            warpers(arguments).unwrap().apply(&mut row, 1);
            row.iter().filter(|&&x| x == 0.0).count()
        };
        assert_eq!(after(json!({"top_k": 3})), 4096);
        assert_eq!(after(json!({"top_p": 0.4999})), 2048);
        assert_eq!(after(json!({"typical_p": 0.1})), 4096);
    }

    #[test]
    fn a_row_without_an_allowed_token_stays_as_it_is() {
        for arguments in [
            json!({"top_k": 2}),
            json!({"top_p": 0.5}),
            json!({"min_p": 0.5}),
            json!({"typical_p": 0.5}),
        ] {
            let mut row = [f32::NEG_INFINITY; 5];
            warpers(arguments).unwrap().apply(&mut row, 2);
            assert_eq!(row, [f32::NEG_INFINITY; 5]);
        }
    }

    #[test]
    fn settings_that_cannot_be_used_name_their_argument() {
        for (name, value) in [
            ("temperature", json!(0.0)),
            ("top_k", json!(-1)),
            ("top_p", json!(1.5)),
            ("min_p", json!(-0.1)),
            ("typical_p", json!(0.0)),
        ] {
            let message = warpers(json!({name: value})).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{name}`: ")), "{message}");
        }
    }
}
