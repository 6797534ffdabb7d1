#![no_main]

use bart_fast::text::SentencePiece;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(tokenizer) = SentencePiece::from_json(text) else { return };
    let ids: Vec<u32> = (0..tokenizer.vocabulary().len() as u32).collect();
    let _ = (tokenizer.encode("a b\u{e9} </s>"), tokenizer.decode(&ids, &[]));
});
