#![no_main]

use bart_fast::text::{Tokenizer, TokenizerOptions, parse_tokenizer_json};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(file) = parse_tokenizer_json(data) else { return };
    let options = TokenizerOptions { special_tokens: file.added_tokens, add_prefix_space: false };
    let _ = Tokenizer::new(file.vocabulary, &file.merges, &options).map(|t| t.encode("a b\u{e9}"));
});
