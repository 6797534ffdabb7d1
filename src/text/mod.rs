//! Text to token ids and back, in two ways: byte-level BPE, which BART has, and sentencepiece.
//!
//! For BPE, words are cut by GPT-2's rule ([`word_split`]), their bytes spelt in a printable alphabet
//! ([`alphabet`]) and merged ([`bpe`]); the `tokenizers` crate finds what stays whole. [`Tokenizer`] owns the vocabulary.
//! [`SentencePiece`] is what a `tokenizer.json` says: pieces with scores ([`unigram`]), and parts of
//! that crate around them.

mod alphabet;
mod bpe;
mod charsmap;
mod files;
mod limited;
mod sentencepiece;
mod tokenizer;
mod tokenizer_json;
mod unigram;
mod unigram_json;
mod word_split;

pub use files::{parse_merge, read_merges, read_vocabulary};
pub use sentencepiece::SentencePiece;
pub use tokenizer::{Tokenizer, TokenizerOptions};
pub use tokenizer_json::{
    TokenizerFile, parse_tokenizer_json, read_tokenizer_json, read_tokenizer_kind,
};
