//! A batch as a client publishes it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| aqueduct_fuzz::batch_check(input));
