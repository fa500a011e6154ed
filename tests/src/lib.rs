//! What the end-to-end tests share: real broker processes, the command line, and conditions with a deadline.

mod broker_process;
mod cli;
mod fault;
mod proxy;
pub mod raw;
mod raw_bytes;
pub mod raw_http2;
mod reading;
mod refusal;
pub mod segments;
mod usage;
mod wait;

pub use crate::{
    broker_process::{BrokerProcess, EndedAtStart, Launch, Stopped, free_port},
    cli::{Output, Running, aqueduct, aqueduct_binary, aqueduct_command, aqueduct_with_input},
    fault::Fault,
    proxy::{Flow, Proxy},
    raw::Raw,
    raw_bytes::call_with_bytes,
    raw_http2::RawHttp2,
    reading::{by_partition, drain, read_all, text},
    refusal::Refusal,
    usage::{cpu_time, descriptors, may_have_huge_pages, resident_anonymous_bytes},
    wait::{eventually, until, within},
};
