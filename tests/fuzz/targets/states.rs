//! The small files of a data directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| aqueduct_fuzz::states(input));
