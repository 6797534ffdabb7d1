//! Bad words: sequences of tokens that are never said.

use serde_json::Value;

use super::{Built, Constraint, Context, Request};
use crate::error::Result;
use crate::generation::arguments::{refusal, token_ids};

/// Rules out the last token of each sequence where the others have just been said.
#[derive(Clone, Debug)]
pub struct BadWords {
    words: Vec<Vec<u32>>,
}

impl BadWords {
    /// As in transformers a stop token alone is no bad word, and a word is found only in a sequence
    /// that is as long as the word or longer. Empty words are passed over.
    pub fn new(mut words: Vec<Vec<u32>>, stop_token_ids: &[u32]) -> Self {
        words.retain(|word| match word[..] {
            [] => false,
            [id] => !stop_token_ids.contains(&id),
            _ => true,
        });
        Self { words }
    }
}

impl Constraint for BadWords {
    fn name(&self) -> &'static str {
        "bad_words_ids"
    }

    fn apply(&self, context: &Context<'_>, scores: &mut [f32]) -> Result<()> {
        super::apply_ruling(self, context, scores)
    }

    fn rules_out(&self, context: &Context<'_>, visit: &mut dyn FnMut(u32)) -> bool {
        for word in &self.words {
            let Some((last, before)) = word.split_last() else { continue };
            let is_near = before.is_empty()
                || (word.len() <= context.ids.len() && context.ids.ends_with(before));
            if is_near {
                visit(*last);
            }
        }
        true
    }
}

pub(super) fn build(request: &mut Request<'_>) -> Built {
    const NAME: &str = "bad_words_ids";
    let Some(value) = request.arguments.any(NAME) else { return Ok(None) };
    let word = |item: &Value| token_ids(item).filter(|ids| !ids.is_empty());
    let words = value.as_array().and_then(|items| items.iter().map(word).collect());
    match words {
        Some(words) => Ok(Some(Box::new(BadWords::new(words, request.stop_token_ids)))),
        None => Err(refusal(NAME, &value, "a list of words, each a list of one token id or more")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, ruled_out};
    use serde_json::json;

    #[test]
    fn the_last_token_is_out_after_the_others() {
        // 3 is a stop token.
        let settings = json!({"bad_words_ids": [[1], [3], [4, 2], [2, 4, 0], [4, 99]]});
        for (ids, expected) in [
            (vec![2, 2], vec![1]),
            (vec![2, 2, 4], vec![0, 1, 2]),
            (vec![2, 4], vec![1, 2]), // The word of three needs three tokens before it.
            (vec![4], vec![1]),
            (vec![4, 2], vec![1]),
        ] {
            assert_eq!(ruled_out(settings.clone(), &context(&ids, 1)), expected, "{ids:?}");
        }
    }
}
