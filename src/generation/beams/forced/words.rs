//! Forced words, and how far a sequence has come in saying them (transformers 4,
//! `ConstraintListState` over `PhrasalConstraint` and `DisjunctiveConstraint`).

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::Value;

use crate::error::Result;
use crate::generation::arguments::refusal;

/// Words that an answer must hold: of each the alternatives, one of which has to be said, as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct ForcedWords {
    words: Vec<Vec<Vec<u32>>>,
    longest: usize,
}

const NAME: &str = "force_words_ids";
const ALLOWED: &str = "a list of words, each a list of token ids or, if one of several words is \
                       enough, a list of such lists; none may be empty or begin another";

impl ForcedWords {
    pub(super) const fn none() -> Self {
        Self { words: Vec::new(), longest: 0 }
    }

    /// From `[[ids], [[ids], [ids]]]`: words, or lists of alternatives.
    ///
    /// # Errors
    /// `Argument` for anything else, an empty word, or an alternative that begins another.
    pub fn from_json(value: &Value) -> Result<Self> {
        let words = value
            .as_array()
            .filter(|words| !words.is_empty())
            .and_then(|words| words.iter().map(alternatives).collect::<Option<Vec<_>>>())
            .ok_or_else(|| refusal(NAME, value, ALLOWED))?;
        let longest = words.iter().flatten().map(Vec::len).max().unwrap_or(0);
        Ok(Self { words, longest })
    }

    /// The tokens that follow `path` in the alternatives of a word, each once.
    fn next_tokens(&self, word: usize, path: &[u32]) -> Vec<u32> {
        let mut tokens = Vec::new();
        for alternative in &self.words[word] {
            if let Some(&token) = alternative.strip_prefix(path).and_then(<[u32]>::first)
                && !tokens.contains(&token)
            {
                tokens.push(token);
            }
        }
        tokens
    }

    fn height(&self, word: usize) -> usize {
        self.words[word].iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// A word's alternatives, one or several; `None` if they are not what is allowed.
fn alternatives(word: &Value) -> Option<Vec<Vec<u32>>> {
    let items = word.as_array()?;
    let nested = items.first()?.is_array();
    let ids = |value: &Value| -> Option<Vec<u32>> {
        let items = value.as_array().filter(|items| !items.is_empty())?;
        items.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    let alternatives: Vec<Vec<u32>> =
        if nested { items.iter().map(ids).collect::<Option<_>>()? } else { vec![ids(word)?] };
    let begins_another = |(i, one): (usize, &Vec<u32>)| {
        alternatives.iter().enumerate().any(|(j, other)| i != j && other.starts_with(one))
    };
    if alternatives.iter().enumerate().any(begins_another) { None } else { Some(alternatives) }
}

/// How far a sequence has come. One word is said at a time; a token that does not go on with the
/// begun word sends it back among those that are open.
#[derive(Clone, Debug)]
pub(super) struct Progress<'a> {
    words: &'a ForcedWords,
    said: usize,
    /// The begun word and the part of it that was said. Copies share that part, as in the
    /// reference: of alternatives that part at this point, all but the first look as if they led
    /// nowhere, and end up in a lower bank.
    begun: Option<(usize, Rc<RefCell<Vec<u32>>>)>,
    open: Vec<usize>,
}

impl<'a> Progress<'a> {
    /// After the tokens `ids`, those of the prompt among them.
    pub fn of(words: &'a ForcedWords, ids: &[u32]) -> Self {
        let open = (0..words.words.len()).collect();
        let mut progress = Self { words, said: 0, begun: None, open };
        ids.iter().for_each(|&token| progress.add(token));
        progress
    }

    /// Whether every word was said.
    pub fn is_complete(&self) -> bool {
        self.begun.is_none() && self.open.is_empty()
    }

    /// The bank: tokens of words said, where each counts as if it were the longest.
    pub fn bank(&self) -> usize {
        let begun = self.begun.as_ref().map_or(0, |(word, path)| {
            self.words.longest + path.borrow().len() - self.words.height(*word)
        });
        self.said * self.words.longest + begun
    }

    /// The tokens that bring the sequence nearer to its words.
    pub fn next_tokens(&self) -> Vec<u32> {
        match &self.begun {
            Some((word, path)) => self.words.next_tokens(*word, &path.borrow()),
            None => self.open.iter().flat_map(|&word| self.words.next_tokens(word, &[])).collect(),
        }
    }

    /// Follows the sequence by one token.
    pub fn add(&mut self, token: u32) {
        if let Some((word, path)) = self.begun.take() {
            if !self.words.next_tokens(word, &path.borrow()).contains(&token) {
                self.open.push(word);
                return;
            }
            path.borrow_mut().push(token);
            self.go_on(word, path);
        } else if let Some(place) =
            self.open.iter().position(|&word| self.words.next_tokens(word, &[]).contains(&token))
        {
            let word = self.open.remove(place);
            self.go_on(word, Rc::new(RefCell::new(vec![token])));
        }
    }

    fn go_on(&mut self, word: usize, path: Rc<RefCell<Vec<u32>>>) {
        if self.words.next_tokens(word, &path.borrow()).is_empty() {
            self.said += 1;
        } else {
            self.begun = Some((word, path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_followed_one_at_a_time() {
        let words = ForcedWords::from_json(&json!([[1, 2], [[3, 4], [3, 5, 6]]])).unwrap();
        for (ids, bank, next) in [
            (&[][..], 0, vec![1, 3]),
            (&[9, 1], 2, vec![2]),
            // A token that breaks a word off begins no other.
            (&[1, 3], 0, vec![3, 1]),
            (&[1, 2], 3, vec![3]),
            (&[1, 2, 3], 4, vec![4, 5]),
            (&[3, 4, 3, 1], 5, vec![2]),
            (&[3, 5, 6, 7, 1, 2, 1], 6, vec![]),
        ] {
            let progress = Progress::of(&words, ids);
            assert_eq!((progress.bank(), progress.next_tokens()), (bank, next), "{ids:?}");
        }
    }

    #[test]
    fn lists_that_cannot_be_followed_are_refused() {
        for value in [
            json!(3),
            json!([]),
            json!([3]),
            json!([[]]),
            json!([[-1]]),
            json!([[[1], [1, 2]]]),
            json!([[[1, 2], [1, 2]]]),
            json!([[[1], 2]]),
            json!([[1, [2]]]),
        ] {
            let message = ForcedWords::from_json(&value).unwrap_err().to_string();
            assert!(message.starts_with("`force_words_ids`: received"), "{message}");
        }
    }
}
