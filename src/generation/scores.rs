//! Arithmetic on one row of scores `[vocabulary]`, in f32 whatever the model computes in.
//!
//! Ties are always settled for the lower id. No function sees more than one row, so nothing here
//! can make a row depend on its batch-mates.

use crate::error::{Error, Result};
use crate::kernels::softmax;

pub(super) use crate::kernels::softmax::{is_broken, log_sum_exp, top_k, top_k_into};

/// Refuses logits that are not numbers: a choice among them would be arbitrary.
///
/// # Errors
/// `Weights` when a logit is NaN or positive infinity, saying of which input and position.
pub(super) fn check_logits(logits: &[f32], sequence: u64, position: usize) -> Result<()> {
    if is_broken(logits) { Err(broken(sequence, position)) } else { Ok(()) }
}

/// The error of [`check_logits`].
pub(super) fn broken(sequence: u64, position: usize) -> Error {
    Error::Weights(format!(
        "the model's logits for input {sequence} at position {position} hold NaN or infinity\n\
         hint: check the weights; a training run may have diverged, or a file may be damaged"
    ))
}

/// Divides by the temperature. Where the best score would become infinite it becomes zero, and the
/// others fall with it: in a softmax only differences count, and infinities are no numbers there.
pub(super) fn cool(row: &mut [f32], temperature: f32) {
    if temperature == 1.0 {
        return;
    }
    let best = softmax::highest(row);
    let overflows = best.is_finite() && !(best / temperature).is_finite();
    let shift = if overflows { best } else { 0.0 };
    softmax::shift_and_divide(row, shift, temperature);
}

/// Turns logits into log probabilities of the distribution at `temperature`.
pub(super) fn log_softmax(row: &mut [f32], temperature: f32) {
    cool(row, temperature);
    let log_sum = log_sum_exp(row);
    softmax::shift_and_divide(row, log_sum, 1.0);
}

/// The log probability of `token` in the softmax of logits.
pub(super) fn log_probability(row: &[f32], token: u32) -> f32 {
    row[token as usize] - log_sum_exp(row)
}

/// Turns logits into probabilities at `temperature`.
pub(super) fn softmax(row: &mut [f32], temperature: f32) {
    cool(row, temperature);
    softmax::softmax_row(row);
}

/// The id of the highest score of a row that has passed [`check_logits`]; the first of equals.
pub(super) fn argmax(row: &[f32]) -> u32 {
    softmax::argmax(row).map_or(0, |id| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_beyond_any_number_leave_the_best_score() {
        for (row, temperature, best) in
            [([1e30, 10.0], 1e-30, 0), ([10.0, 9.0], 1e-38, 0), ([-10.0, -9.0], 1e-40, 1)]
        {
            let mut probabilities = row;
            softmax(&mut probabilities, temperature);
            assert_eq!(probabilities[best], 1.0, "{row:?} at {temperature}");
            assert_eq!(probabilities[1 - best], 0.0, "{row:?} at {temperature}");
        }
    }

    #[test]
    fn probabilities_and_their_logarithms() {
        let mut row = [1.0, 3.0, f32::NEG_INFINITY, 2.0];
        let mut logs = row;
        softmax(&mut row, 0.5);
        log_softmax(&mut logs, 0.5);
        let total = 1.0 + (-2.0f64).exp() + (-4.0f64).exp();
        for (id, exact) in [(-4.0f64).exp(), 1.0, 0.0, (-2.0f64).exp()].into_iter().enumerate() {
            assert!((f64::from(row[id]) - exact / total).abs() < 1e-6);
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
    }
}
