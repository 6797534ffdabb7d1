//! Byte-level BPE: text to token ids and back.
//!
//! Words are cut by GPT-2's rule ([`word_split`]), their bytes spelt in a printable alphabet
//! ([`alphabet`]) and merged by the `tokenizers` crate; [`Tokenizer`] owns the vocabulary.

mod alphabet;
mod files;
mod tokenizer;
mod tokenizer_json;
mod word_split;

pub use files::{parse_merge, read_merges, read_vocabulary};
pub use tokenizer::{Tokenizer, TokenizerOptions};
pub use tokenizer_json::{TokenizerFile, parse_tokenizer_json, read_tokenizer_json};
