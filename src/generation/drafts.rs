//! Guesses of what an answer says next: what follows, in the source or in the answer itself, where
//! the answer is now.
//!
//! Text repair, summaries and the like copy long stretches of their source. So a guide walks along
//! the source while the answer grows, a token a step, and finds its way back after a word that was
//! not copied. A second one walks along the answer, where that repeats itself. Each notes how often
//! it was right of late, guessed or not, which says how far it is worth following.

/// How much the latest token counts in the share of right guesses.
const NEWS: f32 = 0.2;
/// The shares that guides begin with. Sources are copied more often than not; an answer that comes
/// upon two of its own tokens again rarely goes on as before.
const SOURCE_RATE: f32 = 0.6;
const ANSWER_RATE: f32 = 0.3;
/// How far before and behind its place a guide looks for the token that was said instead: far enough
/// for some inserted or dropped words, and not so far that every "the" leads astray.
const BEHIND: usize = 4;
const AHEAD: usize = 8;

/// A place in a text that foretells the next token, and how often it was right.
#[derive(Clone, Copy, Debug)]
struct Guide {
    place: Option<usize>,
    rate: f32,
}

impl Guide {
    /// Notes what was said in the place of what the guide foretold; whether that was it.
    fn hears(&mut self, foretold: Option<u32>, token: u32) -> bool {
        let is_right = foretold == Some(token);
        if foretold.is_some() {
            self.rate += NEWS * (f32::from(u8::from(is_right)) - self.rate);
        }
        is_right
    }
}

/// The guides of one answer.
#[derive(Debug)]
pub(super) struct Drafter {
    source: Guide,
    answer: Guide,
    /// Whether the last token was another than the source's.
    astray: bool,
}

impl Drafter {
    /// For an answer that begins with the tokens `prompt`.
    pub fn new(source: &[u32], prompt: &[u32]) -> Self {
        let mut drafter = Self {
            source: Guide { place: Some(0), rate: SOURCE_RATE },
            answer: Guide { place: None, rate: ANSWER_RATE },
            astray: false,
        };
        // The first token is the model's start token, which says nothing about the source.
        for end in 2..=prompt.len() {
            drafter.follow(source, &prompt[..end]);
        }
        (drafter.source.rate, drafter.answer.rate) = (SOURCE_RATE, ANSWER_RATE);
        drafter
    }

    /// Follows the answer `ids` by its last token.
    pub fn follow(&mut self, source: &[u32], ids: &[u32]) {
        let Some((&token, before)) = ids.split_last() else { return };
        let foretold = self.source.place.and_then(|place| source.get(place)).copied();
        let is_right = self.source.hears(foretold, token);
        self.source.place = self.source.place.map(|place| match is_right {
            true => place + 1,
            false => match nearest(source, place, token) {
                Some(found) => found + 1,
                // It stands for the source's token, and further ones belong to it.
                None if self.astray => place,
                None => source.len().min(place + 1),
            },
        });
        self.astray = !is_right;

        let foretold = self.answer.place.and_then(|place| before.get(place)).copied();
        self.answer.place = match (self.answer.hears(foretold, token), self.answer.place) {
            (true, Some(place)) => Some(place + 1),
            _ => last_pair(ids),
        };
    }

    /// Appends to `draft` what may follow the answer `ids`: tokens that are right with a probability
    /// above `worth`, at most `most`. Given tokens, of which `given` knows the places, are certain.
    pub fn guess(
        &self,
        (source, ids): (&[u32], &[u32]),
        (worth, most): (f32, usize),
        given: impl Fn(usize) -> Option<u32>,
        draft: &mut Vec<u32>,
    ) {
        let rest = |guide: Guide, text| -> (f32, &[u32]) {
            let rest = guide.place.and_then(|place| <[u32]>::get(text, place..));
            rest.filter(|rest| !rest.is_empty()).map_or((0.0, &[]), |rest| (guide.rate, rest))
        };
        let (source, answer) = (rest(self.source, source), rest(self.answer, ids));
        let (rate, text) = if answer.0 > source.0 { answer } else { source };
        let mut probability = 1.0;
        for offset in 0..most {
            let token = match given(ids.len() + offset) {
                Some(token) => token,
                None => {
                    probability *= rate;
                    match text.get(offset) {
                        Some(&token) if probability > worth => token,
                        _ => break,
                    }
                }
            };
            draft.push(token);
        }
    }
}

/// The place of `token` in `text` that is nearest to `place`, of two the later one.
fn nearest(text: &[u32], place: usize, token: u32) -> Option<usize> {
    let end = text.len().min(place + AHEAD);
    let near = (place.saturating_sub(BEHIND)..end).filter(|&near| text[near] == token);
    near.rev().min_by_key(|near| near.abs_diff(place))
}

/// The place behind the last earlier occurrence of the last two tokens.
fn last_pair(ids: &[u32]) -> Option<usize> {
    let (before, pair) = ids.split_at_checked(ids.len().checked_sub(2)?)?;
    let earlier = &ids[..before.len() + 1];
    earlier.windows(2).rposition(|earlier| earlier == pair).map(|place| place + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters as ids; the answer's start token is `>`.
    fn ids(text: &str) -> Vec<u32> {
        text.chars().map(u32::from).collect()
    }

    /// What is guessed after an answer, which begins with the start token.
    fn guess(source: &str, answer: &str, worth: f32) -> String {
        let (source, answer) = (ids(source), ids(answer));
        let mut drafter = Drafter::new(&source, &answer[..1]);
        (2..=answer.len()).for_each(|end| drafter.follow(&source, &answer[..end]));
        let mut draft = Vec::new();
        drafter.guess((&source, &answer), (worth, 6), |_| None, &mut draft);
        draft.into_iter().filter_map(char::from_u32).collect()
    }

    #[test]
    fn the_source_is_followed_and_found_again() {
        let source = "the cat sat on a mat";
        for (answer, expected) in [
            (">", "the ca"),
            (">the c", "at sat"),
            // One letter for another, for two others, none for one, one for none.
            (">the d", "at sat"),
            (">the dxg", "at sat"),
            (">the dxgt", " sat o"),
            (">the a", "t sat "),
            (">the hc", "at sat"),
            (">xthe", " cat s"),
            // The source is at its end; the answer said "at" before.
            (">the cat sat on a mat", " on a "),
        ] {
            assert_eq!(guess(source, answer, 0.0), expected, "{answer}");
        }
    }

    #[test]
    fn what_is_said_again_goes_on_as_before() {
        assert_eq!(guess("", ">abcdefxab", 0.0), "cdefxa");
        assert_eq!(guess("", ">abcabxab", 0.0), "xab");
        assert_eq!(guess("", ">abcd", 0.0), "");
        // The source is trusted more to begin with, and less once it was wrong.
        assert_eq!(guess("abq", ">ab", 0.0), "q");
        assert_eq!(guess("123456789", ">abcabcabcabc", 0.0), "abc");
    }

    #[test]
    fn guesses_are_as_long_as_they_were_right() {
        let source = "abcdefghijklmnop";
        // 0.6, 0.36, 0.216: then 0.68 once one was right, and 0.48 once it was wrong.
        assert_eq!(guess(source, ">", 0.2), "abc");
        assert_eq!(guess(source, ">a", 0.2), "bcde");
        assert_eq!(guess(source, ">x", 0.2), "bc");
        assert_eq!(guess(source, ">xyzuvw", 0.2), "");
        assert_eq!(guess(source, ">abcdefg", 0.2), "hijklm");
    }

    #[test]
    fn given_tokens_are_certain() {
        let (source, answer) = (ids("abcd"), ids(">a"));
        let mut drafter = Drafter::new(&source, &answer[..1]);
        drafter.follow(&source, &answer);
        let given = |place: usize| (place < 4).then_some(7);
        for (worth, expected) in [(1.0, vec![7, 7]), (0.5, vec![7, 7, u32::from('d')])] {
            let mut draft = Vec::new();
            drafter.guess((&source, &answer), (worth, 9), given, &mut draft);
            assert_eq!(draft, expected);
        }
    }
}
