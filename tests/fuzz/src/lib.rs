//! Arbitrary bytes against everything that reads bytes which this process did not write itself: from the network, from the
//! disk, from people.
//!
//! Each target is a function of bytes that panics when a promise is broken. Two programs call them: libFuzzer's, one for
//! each target (`targets/`, feature `libfuzzer`), which search for inputs; and `tests/corpus.rs`, which runs every input
//! in `corpus/` with all the other tests. An input that once broke something stays there under the name of the behaviour.
//!
//! `tests/fuzz/run SECONDS` builds and runs them all.
#![forbid(unsafe_code)]

mod batches;
mod broker;
mod cli;
mod input;
mod logs;
mod records;
mod settings;

pub use crate::{
    batches::{batch_check, decode},
    broker::{requests, states},
    logs::{index, recovery},
    records::records,
    settings::settings,
};

/// Every target, by the name of its program and of its folder of inputs.
pub const TARGETS: [Target; 8] = [
    Target { name: "decode", run: decode },
    Target { name: "batch_check", run: batch_check },
    Target { name: "recovery", run: recovery },
    Target { name: "index", run: index },
    Target { name: "requests", run: requests },
    Target { name: "states", run: states },
    Target { name: "settings", run: settings },
    Target { name: "records", run: records },
];

/// Something that reads bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of its program, and of its folder in `corpus/`.
    pub name: &'static str,
    /// Panics if a promise is broken.
    pub run: fn(&[u8]),
}
