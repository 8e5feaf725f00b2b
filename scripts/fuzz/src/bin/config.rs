#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| leoma_fuzz::entry::config(&leoma_fuzz::VICTIM, bytes));
