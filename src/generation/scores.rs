//! Arithmetic on one row of scores `[vocabulary]`, in f32 whatever the model computes in.
//!
//! Ties are always settled for the lower id. No function sees more than one row, so nothing here
//! can make a row depend on its batch-mates.

use std::cmp::Ordering;

use crate::error::{Error, Result};

/// A token and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scored {
    pub score: f32,
    pub id: u32,
}

impl Scored {
    /// Higher scores first, lower ids first among equals.
    pub fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }
}

/// Refuses logits that are not numbers: a choice among them would be arbitrary.
///
/// # Errors
/// `Weights` when a logit is NaN or positive infinity, saying of which input and position.
pub(super) fn check_logits(logits: &[f32], sequence: u64, position: usize) -> Result<()> {
    // No early exit, so that the loop compiles to vector instructions.
    let broken = logits.iter().fold(false, |any, &x| any | x.is_nan() | (x == f32::INFINITY));
    if !broken {
        return Ok(());
    }
    Err(Error::Weights(format!(
        "the model's logits for input {sequence} at position {position} hold NaN or infinity\n\
         hint: check the weights; a training run may have diverged, or a file may be damaged"
    )))
}

/// Refuses a row in which every token was ruled out.
///
/// # Errors
/// `Argument` naming the stop tokens, which are all that the constraints can rule out for a
/// whole vocabulary.
pub(super) fn check_choice(best: f32, position: usize) -> Result<()> {
    if best > f32::NEG_INFINITY {
        return Ok(());
    }
    Err(Error::argument(
        "stop_token_ids",
        format!("no token of the vocabulary is allowed at position {position}"),
    ))
}

/// Turns logits into log probabilities of the distribution at `temperature`.
pub(super) fn log_softmax(row: &mut [f32], temperature: f32) {
    let largest = cool(row, temperature);
    let sum: f64 = row.iter().map(|&x| f64::from((x - largest).exp())).sum();
    let log_sum = sum.ln() as f32;
    row.iter_mut().for_each(|x| *x = (*x - largest) - log_sum);
}

/// Turns logits into probabilities at `temperature`.
pub(super) fn softmax(row: &mut [f32], temperature: f32) {
    let largest = cool(row, temperature);
    let mut sum = 0.0f64;
    for x in row.iter_mut() {
        *x = (*x - largest).exp();
        sum += f64::from(*x);
    }
    let scale = (1.0 / sum) as f32;
    row.iter_mut().for_each(|x| *x *= scale);
}

/// Divides by the temperature and returns the largest value.
fn cool(row: &mut [f32], temperature: f32) -> f32 {
    if temperature != 1.0 {
        row.iter_mut().for_each(|x| *x /= temperature);
    }
    row.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The highest score; the first of equals. `row` may not be empty.
pub(super) fn argmax(row: &[f32]) -> Scored {
    let mut best = Scored { score: row[0], id: 0 };
    for (id, &score) in row.iter().enumerate() {
        if score > best.score {
            best = Scored { score, id: id as u32 };
        }
    }
    best
}

/// The `k` highest scores in order, fewer if the row is shorter, replacing what `top` held.
pub(super) fn top_k(row: &[f32], k: usize, top: &mut Vec<Scored>) {
    top.clear();
    let all = row.iter().enumerate().map(|(id, &score)| Scored { score, id: id as u32 });
    // One pass with insertion is best while few are kept; it would be quadratic for many.
    if k <= 32 {
        for candidate in all {
            if top.len() == k && top.last().is_some_and(|last| candidate.score <= last.score) {
                continue;
            }
            if top.len() == k {
                top.pop();
            }
            let place = top.partition_point(|held| held.order(&candidate) == Ordering::Less);
            top.insert(place, candidate);
        }
        return;
    }
    top.extend(all);
    if k < top.len() {
        top.select_nth_unstable_by(k, Scored::order);
        top.truncate(k);
    }
    top.sort_unstable_by(Scored::order);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(row: &[f32], k: usize) -> Vec<u32> {
        let mut top = vec![Scored { score: 9.0, id: 9 }];
        top_k(row, k, &mut top);
        top.iter().map(|scored| scored.id).collect()
    }

    #[test]
    fn top_k_is_the_front_of_a_stable_sort() {
        // Few distinct values, so that ties are everywhere.
        let row: Vec<f32> = (0..200u32).map(|i| (i * 7919 % 13) as f32).collect();
        let mut sorted: Vec<u32> = (0..200).collect();
        sorted.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        for k in [1, 2, 5, 32, 33, 150, 199, 200, 300] {
            assert_eq!(ids(&row, k), sorted[..k.min(200)], "k = {k}");
        }
        assert_eq!(argmax(&row).id, sorted[0]);
        assert_eq!(ids(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 2), [1, 0]);
    }

    #[test]
    fn probabilities_and_their_logarithms() {
        let mut row = [1.0, 3.0, f32::NEG_INFINITY, 2.0];
        let mut logs = row;
        softmax(&mut row, 0.5);
        log_softmax(&mut logs, 0.5);
        let total = 1.0 + (-2.0f64).exp() + (-4.0f64).exp();
        for (id, exact) in [(-4.0f64).exp(), 1.0, 0.0, (-2.0f64).exp()].into_iter().enumerate() {
            assert!((f64::from(row[id]) - exact / total).abs() < 1e-7);
        }
        assert!((f64::from(logs[1]) + total.ln()).abs() < 1e-6);
        assert_eq!((row[2], logs[2]), (0.0, f32::NEG_INFINITY));
    }

    #[test]
    fn broken_logits_are_refused_and_ruled_out_ones_are_not() {
        check_logits(&[0.0, f32::NEG_INFINITY], 3, 7).unwrap();
        for broken in [f32::NAN, f32::INFINITY] {
            let message = check_logits(&[0.0, broken, 1.0], 3, 7).unwrap_err().to_string();
            assert!(message.contains("input 3 at position 7"), "{message}");
        }
        assert!(check_choice(f32::NEG_INFINITY, 1).is_err());
        assert!(check_choice(f32::MIN, 1).is_ok());
    }
}
