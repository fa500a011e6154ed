//! What the tests of the log share. Each test file uses a part of it.
#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

mod base;
pub(crate) mod keyed;
pub(crate) mod lines;
pub(crate) mod model;

pub(crate) use base::*;
