//! Cuts text into words before BPE, by GPT-2's rule.

use std::sync::LazyLock;

use regex::Regex;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::pattern::Pattern;
use tokenizers::{Offsets, PreTokenizedString, PreTokenizer, Result, SplitDelimiterBehavior};

/// GPT-2's pattern (Radford et al., `encoder.py`) without its look-ahead `\s+(?!\S)`, which
/// [`word_end`] supplies. So it stays a regular language: one pass whatever the text, where a
/// backtracking engine gives up on a million spaces and splits the rest wrongly.
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
    Regex::new(pattern).expect("a constant pattern, covered by the tests")
});

/// End of the word that starts at `start`. A run of white space gives its last character to the
/// word behind it, unless the run is that one character or ends the text.
fn word_end(text: &str, start: usize) -> usize {
    let end = WORD.find_at(text, start).map_or(text.len(), |word| word.end());
    let word = &text[start..end];
    match word.chars().next_back() {
        Some(last) if end < text.len() && last.is_whitespace() && word.len() > last.len_utf8() => {
            end - last.len_utf8()
        }
        _ => end,
    }
}

/// Cuts at every [`word_end`].
struct Words;

impl Pattern for &Words {
    fn find_matches(&self, inside: &str) -> Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut words = Vec::new();
        let mut start = 0;
        while start < inside.len() {
            let end = word_end(inside, start);
            words.push(((start, end), true));
            start = end;
        }
        Ok(words)
    }
}

/// Pre-tokenizer: isolates words, then spells their bytes in the printable alphabet.
pub(super) struct WordSplit {
    /// Text that does not begin with a space is treated as if it did; so is what follows a
    /// special token, as in Hugging Face.
    pub(super) add_prefix_space: bool,
}

impl PreTokenizer for WordSplit {
    fn pre_tokenize(&self, pretokenized: &mut PreTokenizedString) -> Result<()> {
        pretokenized.split(|_, mut text| {
            if self.add_prefix_space && !text.get().starts_with(' ') {
                text.prepend(" ");
            }
            text.split(&Words, SplitDelimiterBehavior::Isolated)
        })?;
        ByteLevel::new(false, false, false).pre_tokenize(pretokenized)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let matches = (&Words).find_matches(text).unwrap();
        matches.into_iter().map(|((start, end), _)| &text[start..end]).collect()
    }

    #[test]
    fn words_by_gpt2s_rule() {
        let cases: [(&str, &[&str]); 16] = [
            ("The quick brown fox.", &["The", " quick", " brown", " fox", "."]),
            (" after noon", &[" after", " noon"]),
            (
                "it's we'll they're I'd I'm we've don't",
                &[
                    "it", "'s", " we", "'ll", " they", "'re", " I", "'d", " I", "'m", " we", "'ve",
                    " don", "'t",
                ],
            ),
            ("IT'S", &["IT", "'", "S"]),
            ("a1b22", &["a", "1", "b", "22"]),
            (" 12345 ½", &[" 12345", " ½"]),
            ("a  b", &["a", " ", " b"]),
            ("a   b", &["a", "  ", " b"]),
            ("a\n\nb", &["a", "\n", "\n", "b"]),
            ("a \t b", &["a", " \t", " b"]),
            ("a \n", &["a", " \n"]),
            ("   ", &["   "]),
            ("a\u{3000}\u{a0}b", &["a", "\u{3000}", "\u{a0}", "b"]),
            ("...!? x", &["...!?", " x"]),
            ("été 日本語", &["été", " 日本語"]),
            ("e\u{301}x", &["e", "\u{301}", "x"]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text), expected, "{text:?}");
        }
    }

    #[test]
    fn long_runs_are_cut_by_the_same_rule() {
        let text = format!("{}x", "\n".repeat(2_000_000));
        let lengths: Vec<usize> = words(&text).iter().map(|word| word.len()).collect();
        assert_eq!(lengths, [1_999_999, 1, 1]);
    }
}
