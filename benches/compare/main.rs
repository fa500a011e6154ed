//! The same work on Aqueduct and on what people use today, side by side: round by round, one after the other, client and
//! server on this machine. Writes BENCHMARKS.md.
//!
//! `cargo build --release && cargo run --release -p aqueduct-benches --bin compare`

mod aqueduct;
mod contestants;
mod fast_ingest;
mod machine;
mod nats;
mod peer;
mod process;
mod redis;
mod report;
mod run;
mod workload;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;

use crate::{
    contestants::{Contestant, Programs},
    report::Report,
    run::Plan,
    workload::Workload,
};

/// Compares Aqueduct with NATS JetStream and Redis streams, and writes BENCHMARKS.md.
#[derive(Debug, Parser)]
struct Args {
    /// How long each load runs, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these workloads; the report goes to the build directory.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Workload>,
    /// Only these servers; the report goes to the build directory.
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Contestant>,
    /// Records of the log that is replayed.
    #[arg(long, default_value_t = 2_000_000)]
    log_records: u64,
    /// Everything once, as short as possible, with the report in the build directory: shows that it works.
    #[arg(long)]
    smoke: bool,
}

fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    if args.smoke {
        args = Args { seconds: 0.2, rounds: 1, log_records: 5_000, ..args };
    }
    let programs = Programs::find();
    let chosen = |contestant: &Contestant| args.servers.is_empty() || args.servers.contains(contestant);
    let (contestants, skipped): (Vec<_>, Vec<_>) =
        Contestant::ALL.into_iter().filter(chosen).partition(|contestant| contestant.is_available(&programs));
    for missing in &skipped {
        eprintln!("skipped: {}", missing.name());
    }
    let plan = Plan {
        programs,
        contestants,
        skipped,
        load: Duration::from_secs_f64(args.seconds),
        rounds: args.rounds.max(1),
        log_records: workload::whole_chunks(args.log_records),
    };
    let started = Instant::now();
    let mut report = Report::new(&plan)?;
    for workload in Workload::ALL {
        if args.only.is_empty() || args.only.contains(&workload) {
            report.add(workload, &plan.measure(workload)?);
        }
    }
    let is_whole = !args.smoke && args.only.is_empty() && args.servers.is_empty();
    let path = if is_whole { report_path() } else { build_directory()?.join("BENCHMARKS-part.md") };
    std::fs::write(&path, report.finish(started.elapsed()))?;
    println!("wrote {}", path.file_name().unwrap_or_default().to_string_lossy());
    Ok(())
}

/// Only whole runs get there: a part must not overwrite it.
fn report_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../BENCHMARKS.md")
}

/// Cargo's: above the directory of the profile that this program lies in.
fn build_directory() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.ancestors().nth(2).context("this program lies in no build directory")?.to_owned())
}
