//! libFuzzer around [`manx_fuzz::speaker`].
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| manx_fuzz::speaker(octets));
