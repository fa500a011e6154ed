//! Load programs that drive whole broker processes: starting with much log, memory under a slow disk, many partitions, groups,
//! delays. What one load reaches of the machine, `aqueduct bench` measures.
//!
//! `cargo build --release && cargo run --release -p aqueduct-benches -- all`

mod delays;
mod groups;
mod memory;
mod partitions;
mod report;
mod start;

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::{groups::failing::Limit, partitions::Plan};

/// Measures Aqueduct.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// How long the load runs, in seconds: for `memory`, `partitions` and `delays`, where 10 is the default, and for `failing` in
    /// each mode, where 60 is.
    #[arg(long)]
    seconds: Option<u64>,
    /// Log to start with, in MiB, for `start`.
    #[arg(long, default_value_t = 10 * 1024)]
    log_mib: u64,
    /// Partitions, for `start`, and those that a load is spread over, for `partitions`.
    #[arg(long, default_value_t = 1000)]
    partitions: u32,
    /// Partitions without a load, for `partitions`.
    #[arg(long, default_value_t = 10_000)]
    idle_partitions: u32,
    /// Records that wait for their group, for `groups` and `failing`; a fifth of it for `handlers`.
    #[arg(long, default_value_t = 10_000_000)]
    backlog: u64,
    /// Records a second in the steady load of `failing`.
    #[arg(long, default_value_t = 400_000)]
    rate: u64,
    /// How often loads on one partition and on many take turns, for `partitions`.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Publishers, for `memory`.
    #[arg(long, default_value_t = 100)]
    publishers: usize,
    /// Everything once, as short as possible: shows that the programs work, not how fast anything is.
    #[arg(long)]
    smoke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Starting with much log and many partitions.
    Start,
    /// Memory of an idle broker, and of one with a slow disk and many publishers.
    Memory,
    /// A load spread over many partitions, and many that are idle.
    Partitions,
    /// Members of a group with a long backlog.
    Groups,
    /// Groups in which one record in a hundred fails: fails itself if too little is left for the others at a steady rate.
    Failing,
    /// Handlers of events beside events that are taken one by one.
    Handlers,
    /// Events that are delivered later.
    Delays,
    /// All of them.
    All,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    if args.smoke {
        args = Args {
            seconds: Some(1),
            log_mib: 8,
            partitions: 8,
            idle_partitions: 16,
            rounds: 1,
            publishers: 4,
            backlog: 10_000,
            ..args
        };
    }
    let load = Duration::from_secs(args.seconds.unwrap_or(10));
    let wants = |what| args.what == what || args.what == What::All;
    if wants(What::Start) {
        start::measure(args.log_mib, args.partitions).await?;
    }
    if wants(What::Memory) {
        memory::measure(args.publishers, load).await?;
    }
    if wants(What::Partitions) {
        let plan = Plan { spread: args.partitions, idle: args.idle_partitions, rounds: args.rounds.max(1), load };
        partitions::measure(plan).await?;
    }
    if wants(What::Groups) {
        groups::measure(args.backlog).await?;
    }
    if wants(What::Handlers) {
        groups::handlers::measure(args.backlog / 5).await?;
    }
    if wants(What::Delays) {
        delays::measure(load).await?;
    }
    if wants(What::Failing) {
        let time = Duration::from_secs(args.seconds.unwrap_or(60));
        let limit = if args.smoke { Limit::Shown } else { Limit::Kept };
        groups::failing::measure(groups::failing::Plan {
            backlog: args.backlog,
            time,
            records_per_second: args.rate,
            limit,
        })
        .await?;
    }
    Ok(())
}
