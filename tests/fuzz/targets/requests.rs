//! Calls of the API.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| aqueduct_fuzz::requests(input));
