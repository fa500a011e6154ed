//! Load programs against a real broker process on loopback, client and broker on the same machine, fsync on.
//!
//! `cargo build --release && cargo run --release -p aqueduct-benches -- all` prints every figure beside the limits of the
//! machine, measured in the same run: the ratios travel between machines, the numbers do not.

mod limits;
mod memory;
mod process;
mod publish;
mod replay;
mod report;
mod start;
mod synchronous;

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::report::Report;

/// Measures Aqueduct.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// How long each load runs, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Size of a record's value, in bytes.
    #[arg(long, default_value_t = 100)]
    record_bytes: usize,
    /// Log to start with, in MiB, for `start`.
    #[arg(long, default_value_t = 10 * 1024)]
    log_mib: u64,
    /// Partitions, for `start`.
    #[arg(long, default_value_t = 1000)]
    partitions: u32,
    /// Publishers, for `memory`.
    #[arg(long, default_value_t = 100)]
    publishers: usize,
    /// Everything once, as short as possible: shows that the programs work, not how fast anything is.
    #[arg(long)]
    smoke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// fdatasync, a bare gRPC call.
    Limits,
    /// One producer, pipelined; 8 producers; 64 tasks with one record each.
    Publish,
    /// One consumer that touches each record's key and value.
    Replay,
    /// One publish at a time.
    Synchronous,
    /// Starting with much log and many partitions.
    Start,
    /// Memory of an idle broker, and of one with a slow disk and many publishers.
    Memory,
    /// All of them.
    All,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    if args.smoke {
        args = Args { seconds: 1, log_mib: 8, partitions: 8, publishers: 4, ..args };
    }
    let load = Duration::from_secs(args.seconds);
    let wants = |what| args.what == what || args.what == What::All;
    let mut report = Report::new();
    if wants(What::Limits) || wants(What::Synchronous) {
        limits::measure(&mut report).await?;
    }
    if wants(What::Publish) {
        publish::measure(&mut report, load, args.record_bytes).await?;
    }
    if wants(What::Replay) {
        replay::measure(&mut report, load, args.record_bytes).await?;
    }
    if wants(What::Synchronous) {
        synchronous::measure(&mut report, load, args.record_bytes).await?;
    }
    if wants(What::Start) {
        start::measure(&mut report, args.log_mib, args.partitions).await?;
    }
    if wants(What::Memory) {
        memory::measure(&mut report, args.publishers, load).await?;
    }
    Ok(())
}
