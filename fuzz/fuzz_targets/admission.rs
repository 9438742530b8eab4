#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| keytally_fuzz::admission::check(input));
