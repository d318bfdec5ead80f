//! libFuzzer around [`manx_fuzz::session`].
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| manx_fuzz::session(octets));
