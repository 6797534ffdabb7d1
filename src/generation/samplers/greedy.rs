//! Greedy search: always the most probable token.

use super::{Choice, Method, Sampler, check_temperature, scores};
use crate::error::Result;
use crate::generation::arguments::Arguments;
use crate::ops::choices::Pick;
use crate::random::Stream;

/// Chooses the highest logit, the lower id among equals. A temperature would not change the
/// order, so there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

impl Sampler for Greedy {
    fn choose(&self, logits: &mut [f32], _: &mut Stream) -> Choice {
        Choice { token: scores::argmax(logits), log_probability: None }
    }

    fn candidates(&self) -> Option<usize> {
        Some(1)
    }

    fn pick(&self) -> Option<Pick> {
        Some(Pick::Best)
    }
}

/// From the arguments `temperature` (checked, without effect).
pub(super) fn build(arguments: &mut Arguments) -> Result<Method> {
    check_temperature(arguments.number("temperature", 1.0)?)?;
    Method::certain(Greedy, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_highest() {
        let mut draws = Stream::new(0, 0, 0);
        let mut choose = |logits: &mut [f32]| Greedy.choose(logits, &mut draws).token;
        assert_eq!(choose(&mut [0.0, 2.0, 1.0, 2.0]), 1);
        assert_eq!(choose(&mut [f32::NEG_INFINITY, f32::NEG_INFINITY, -4.0]), 2);
    }
}
