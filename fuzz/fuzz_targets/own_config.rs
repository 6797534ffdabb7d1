#![no_main]

use bart_fast::config::BartConfig;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = BartConfig::from_json(text);
});
