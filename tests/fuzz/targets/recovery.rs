//! The files of a log, changed.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| aqueduct_fuzz::recovery(input));
