//! No n-gram twice (Paulus et al., 2017): neither one of the answer nor one of the source.

use super::{Built, Constraint, Context, Request};
use crate::error::Result;

/// Rules out the tokens that would complete an n-gram which the sequence holds, prompt included.
#[derive(Clone, Copy, Debug)]
pub struct NoRepeatNgram {
    size: usize,
}

impl NoRepeatNgram {
    /// N-grams of `size` tokens; at least 1.
    pub fn new(size: usize) -> Self {
        Self { size: size.max(1) }
    }
}

impl Constraint for NoRepeatNgram {
    fn name(&self) -> &'static str {
        "no_repeat_ngram_size"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        super::apply_ruling(self, context, scores)
    }

    fn rules_out(&self, context: &Context<'_>, visit: &mut dyn FnMut(u32)) -> bool {
        each_completion(self.size, context.ids, context.ids, visit);
        true
    }
}

/// Rules out the tokens that would complete an n-gram of the source. Padding is not part of it,
/// other than in transformers: a sequence may not depend on the width of its batch.
#[derive(Clone, Copy, Debug)]
pub struct NoRepeatSourceNgram {
    size: usize,
}

impl NoRepeatSourceNgram {
    /// N-grams of `size` tokens; at least 1.
    pub fn new(size: usize) -> Self {
        Self { size: size.max(1) }
    }
}

impl Constraint for NoRepeatSourceNgram {
    fn name(&self) -> &'static str {
        "encoder_no_repeat_ngram_size"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        super::apply_ruling(self, context, scores)
    }

    fn rules_out(&self, context: &Context<'_>, visit: &mut dyn FnMut(u32)) -> bool {
        each_completion(self.size, context.source, context.ids, visit);
        true
    }
}

/// Visits what follows the last `size - 1` tokens of `ids` anywhere in `text`.
fn each_completion(size: usize, text: &[u32], ids: &[u32], visit: &mut dyn FnMut(u32)) {
    let Some(begin) = (ids.len() + 1).checked_sub(size) else { return };
    let prefix = &ids[begin..];
    for ngram in text.windows(size) {
        if ngram[..size - 1] == *prefix {
            visit(ngram[size - 1]);
        }
    }
}

pub(super) fn build(request: &mut Request<'_>) -> Built {
    // As in transformers, 0 means no rule.
    Ok(match request.arguments.count("no_repeat_ngram_size", 0, 0)? {
        0 => None,
        size => Some(Box::new(NoRepeatNgram::new(size))),
    })
}

pub(super) fn build_for_source(request: &mut Request<'_>) -> Built {
    Ok(match request.arguments.count("encoder_no_repeat_ngram_size", 0, 0)? {
        0 => None,
        size => Some(Box::new(NoRepeatSourceNgram::new(size))),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Context;
    use super::super::tests::{context, ruled_out};
    use serde_json::json;

    #[test]
    fn tokens_that_complete_an_earlier_ngram_are_out() {
        let ids = [1, 2, 4, 1, 2, 3, 1, 2];
        for (size, expected) in
            [(1, vec![1, 2, 3, 4]), (2, vec![3, 4]), (3, vec![3, 4]), (4, vec![]), (99, vec![])]
        {
            let settings = json!({"no_repeat_ngram_size": size});
            assert_eq!(ruled_out(settings, &context(&ids, 1)), expected, "{size}");
        }
        let again = [2, 1, 2, 3, 1, 2];
        assert!(ruled_out(json!({"no_repeat_ngram_size": 4}), &context(&again, 1)).is_empty());
        // The n-gram that is being written does not count as its own repetition.
        assert!(ruled_out(json!({"no_repeat_ngram_size": 2}), &context(&[4], 1)).is_empty());
    }

    #[test]
    fn tokens_that_complete_an_ngram_of_the_source_are_out() {
        for (size, ids, expected) in [
            (1, vec![0], vec![1, 2, 3]),
            (2, vec![0, 2], vec![1, 3]),
            (3, vec![1, 2], vec![3]),
            (3, vec![2], vec![]),
            (9, vec![1, 2], vec![]),
        ] {
            let settings = json!({"encoder_no_repeat_ngram_size": size});
            let context = Context { source: &[2, 1, 2, 3], ..context(&ids, 1) };
            assert_eq!(ruled_out(settings, &context), expected, "{size}, {ids:?}");
        }
    }
}
