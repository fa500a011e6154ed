//! A batch as a broker sends it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| aqueduct_fuzz::decode(input));
