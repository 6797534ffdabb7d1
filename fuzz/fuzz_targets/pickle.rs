#![no_main]

use bart_fast::weights::{pickle, torch};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = pickle::read(&mut &data[..], torch::is_known);
});
