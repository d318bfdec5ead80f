//! libFuzzer around [`manx_fuzz::decode`].
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| manx_fuzz::decode(octets));
