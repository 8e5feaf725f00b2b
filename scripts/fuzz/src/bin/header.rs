#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| leoma_fuzz::entry::header(bytes));
