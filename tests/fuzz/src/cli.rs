//! What the command line reads: its sources, compiled here once more, because they belong to a binary that nothing can
//! depend on.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "only the parsers are called")]

#[path = "../../../broker/src/cli"]
mod sources {
    pub(crate) mod input;
    pub(crate) mod record_json;
    pub(crate) mod settings;
    pub(crate) mod size;
    pub(crate) mod time;
}

pub(crate) use sources::{input, record_json, settings, size, time};
