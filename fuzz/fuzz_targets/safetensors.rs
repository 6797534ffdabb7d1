#![no_main]

use std::{io::Cursor, path::Path};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = bart_fast::weights::safetensors::read(Path::new("fuzz"), &mut Cursor::new(data));
});
