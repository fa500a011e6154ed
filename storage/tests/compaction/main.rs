//! Key compaction: what stays, what goes, and that no crash at any of its steps loses a key.

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod faults;
mod outcome;
mod world;
