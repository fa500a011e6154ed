//! What the end-to-end tests share: real broker processes, the command line, and conditions with a deadline.

mod broker_process;
mod cli;
mod fault;
mod proxy;
pub mod raw;
mod reading;
mod refusal;
pub mod segments;
mod usage;
mod wait;

pub use crate::{
    broker_process::{BrokerProcess, EndedAtStart, Launch, Stopped, free_port},
    cli::{Output, Running, aqueduct, aqueduct_binary, aqueduct_with_input},
    fault::Fault,
    proxy::{Flow, Proxy},
    raw::Raw,
    reading::{by_partition, drain, read_all, text},
    refusal::Refusal,
    usage::{cpu_time, resident_anonymous_bytes},
    wait::{eventually, until, within},
};
