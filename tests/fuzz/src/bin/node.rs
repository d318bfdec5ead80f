//! libFuzzer around [`manx_fuzz::node`].
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| manx_fuzz::node(octets));
