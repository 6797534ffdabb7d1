#![no_main]

use std::io::Cursor;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = bart_fast::weights::hdf5::read(&mut Cursor::new(data));
});
