//! The unigram language model of sentencepiece: text is cut into the pieces whose scores have the
//! largest sum (Kudo 2018, arXiv:1804.10959), found by Viterbi's algorithm.
//!
//! Scores are summed and ties are broken as in the `tokenizers` crate, whose own model keeps a trie of
//! hash maps: two hundred times the memory of this table, and a way to ask for all of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::{Model, Token};

/// What a character that no piece covers costs beyond the worst piece; sentencepiece's constant.
const UNKNOWN_PENALTY: f64 = 10.0;
/// The longest piece, in bytes: the longest known have some hundred.
const LONGEST_PIECE: usize = 1024;

/// Pieces and their scores.
pub struct Unigram {
    pieces: Vec<(String, f64)>,
    /// Ids in the order of their pieces; of equal pieces the last.
    sorted: Vec<u32>,
    unknown: u32,
    unknown_score: f64,
}

/// The best way to end at a place: where its last piece begins, and the sum of scores.
#[derive(Clone, Copy)]
struct End {
    begin: usize,
    id: u32,
    score: f64,
}

impl Unigram {
    /// A model of `pieces`, whose places are their ids.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(pieces: Vec<(String, f64)>, unknown: usize) -> Result<Self, String> {
        if unknown >= pieces.len() {
            let count = pieces.len();
            return Err(format!("`unk_id` is {unknown}, but there are {count} pieces"));
        }
        if pieces.iter().any(|(piece, _)| piece.len() > LONGEST_PIECE) {
            return Err(format!("`vocab` has a piece of more than {LONGEST_PIECE} bytes"));
        }
        let mut sorted: Vec<u32> = (0..pieces.len() as u32).collect();
        sorted.sort_by_key(|&id| (pieces[id as usize].0.as_bytes(), std::cmp::Reverse(id)));
        sorted.dedup_by_key(|id| &pieces[*id as usize].0);
        let least = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
        let unknown_score = least - UNKNOWN_PENALTY;
        Ok(Unigram { pieces, sorted, unknown: unknown as u32, unknown_score })
    }

    /// Pieces in the order of their ids.
    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(|(piece, _)| piece.as_str())
    }

    /// Calls `found` with length and id of every piece that `text` begins with, short ones first.
    fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut among = &self.sorted[..];
        for (depth, &byte) in text.iter().enumerate() {
            // All of `among` share the bytes before `depth`.
            let next = |id: &u32| self.pieces[*id as usize].0.as_bytes().get(depth).copied();
            let first = among.partition_point(|id| next(id) < Some(byte));
            let count = among[first..].partition_point(|id| next(id) == Some(byte));
            among = &among[first..first + count];
            match among.first() {
                None => return,
                Some(&id) if self.pieces[id as usize].0.len() == depth + 1 => found(depth + 1, id),
                Some(_) => {}
            }
        }
    }

    /// The best pieces of a text: their ends and ids, from the last to the first.
    fn best_path(&self, text: &str) -> Vec<End> {
        let mut ends: Vec<Option<End>> = vec![None; text.len() + 1];
        for (begin, character) in text.char_indices() {
            let so_far = ends[begin].map_or(0.0, |end| end.score);
            let mut reach = |end: usize, id: u32, score: f64| {
                let score = score + so_far;
                if ends[end].is_none_or(|other| score > other.score) {
                    ends[end] = Some(End { begin, id, score });
                }
            };
            let width = character.len_utf8();
            let mut is_covered = false;
            self.prefixes(&text.as_bytes()[begin..], |length, id| {
                reach(begin + length, id, self.pieces[id as usize].1);
                is_covered |= length == width;
            });
            if !is_covered {
                reach(begin + width, self.unknown, self.unknown_score);
            }
        }
        let mut path = Vec::new();
        let mut end = text.len();
        while let Some(last) = ends[end].filter(|_| end > 0) {
            path.push(last);
            end = last.begin;
        }
        path
    }
}

impl Model for Unigram {
    type Trainer = UnigramTrainer;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut end = text.len();
        for last in self.best_path(text) {
            match tokens.last_mut() {
                // Neighbours without a piece become one token.
                Some(next) if last.id == self.unknown && next.id == self.unknown => {
                    next.offsets.0 = last.begin;
                }
                _ => tokens.push(Token::new(last.id, String::new(), (last.begin, end))),
            }
            end = last.begin;
        }
        tokens.reverse();
        for token in &mut tokens {
            token.value = text[token.offsets.0..token.offsets.1].to_string();
        }
        Ok(tokens)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        let piece = |id: &u32| self.pieces[*id as usize].0.as_str();
        self.sorted.binary_search_by_key(&token, piece).ok().map(|place| self.sorted[place])
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.pieces.get(id as usize).map(|(piece, _)| piece.clone())
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.sorted.iter().map(|&id| (self.pieces[id as usize].0.clone(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.pieces.len()
    }

    fn save(&self, _folder: &Path, _prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a unigram model is saved with its tokenizer.json".into())
    }

    fn get_trainer(&self) -> UnigramTrainer {
        UnigramTrainer::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern.
    fn draw(seed: u64, at: u64) -> u32 {
        let mixed = (seed << 32 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as u32
    }

    /// Random pieces of few letters, so that there are many ways to cut a text, and ties.
    fn pieces(seed: u64) -> Vec<(String, f64)> {
        let draw = |at: u64| draw(seed, at);
        let letters = ['a', 'b', 'é', '日', '▁'];
        let mut found = vec![("<unk>".to_string(), 0.0)];
        for i in 0..40 {
            let length = 1 + draw(i * 10) % 4;
            let piece = (1..=length).map(|k| letters[draw(i * 10 + u64::from(k)) as usize % 5]);
            found.push((piece.collect(), -f64::from(draw(i * 10 + 9) % 8)));
        }
        found
    }

    #[test]
    fn texts_are_cut_as_the_tokenizers_crate_cuts_them() {
        for seed in 0..50 {
            let pieces = pieces(seed);
            let ours = Unigram::new(pieces.clone(), 0).unwrap();
            let theirs =
                tokenizers::models::unigram::Unigram::from(pieces, Some(0), false).unwrap();
            for length in 0..30 {
                let letter = |i: u64| ['a', 'b', 'é', '日', '▁', 'x', 'ü'][(i % 7) as usize];
                let text: String = (0..length)
                    .map(|i| letter(u64::from(draw(seed, 1000 + 40 * length + i))))
                    .collect();
                let (ours, theirs) =
                    (ours.tokenize(&text).unwrap(), theirs.tokenize(&text).unwrap());
                assert_eq!(ours, theirs, "{text}");
            }
            for piece in ["<unk>", "a", "b日", "none", ""] {
                assert_eq!(ours.token_to_id(piece), theirs.token_to_id(piece), "{piece}");
            }
        }
    }

    #[test]
    fn pieces_that_cannot_be() {
        let of = |piece: &str| vec![(piece.to_string(), 0.0)];
        assert!(Unigram::new(of("a"), 1).err().unwrap().contains("`unk_id`"));
        assert!(Unigram::new(Vec::new(), 0).is_err());
        assert!(Unigram::new(of(&"a".repeat(1025)), 0).err().unwrap().contains("1024"));
    }
}
