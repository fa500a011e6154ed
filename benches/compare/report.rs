//! BENCHMARKS.md: a table for each workload, and all that is needed to judge and to repeat it.

use std::{fmt::Write as _, time::Duration};

use crate::{
    contestants::Contestant,
    fast_ingest, machine, nats, redis,
    run::{Measured, Outcome, Plan},
    workload::Workload,
};

const HOW_TO_READ: &str = "\
Every cell is the median of the rounds, with the smallest and the largest in parentheses. The servers took turns within \
each round, so what disturbs the machine disturbs all of them; ratios (of the first figure to that of Aqueduct) travel \
between machines, the numbers do not. Compare rows whose acknowledgement means the same: a record that is only in the \
page cache is gone after a power loss. A figure is that of a server with its Rust client, which share the machine: where \
the server needs little CPU, the client is what limits. CPU is the server's, in seconds for a million records; memory is \
its anonymous resident memory at the end of the run, without the page cache (Redis keeps the whole stream there).";

/// The report as it grows.
pub(crate) struct Report {
    text: String,
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> anyhow::Result<Self> {
        let mut text = String::from("# Benchmarks\n\nAqueduct beside NATS JetStream and Redis streams.\n\n");
        writeln!(text, "{HOW_TO_READ}\n")?;
        writeln!(text, "- Command: `{}`", command())?;
        let seconds = plan.load.as_secs_f64();
        writeln!(
            text,
            "- Rounds: {}; each load runs for {seconds} s, on a new server and an empty directory; \
            the log that is replayed has {} records",
            plan.rounds, plan.log_records
        )?;
        writeln!(text, "- Machine: {}", machine::description().join("; "))?;
        writeln!(text, "- Servers: {}", plan.programs.versions().join("; "))?;
        let clients = ["aqueduct-client", "async-nats", "redis"].map(|name| format!("{name} {}", locked_version(name)));
        writeln!(text, "- Clients (Rust, one thread): {}", clients.join(", "))?;
        for missing in &plan.skipped {
            writeln!(text, "- Skipped, because it is not installed: {}", missing.name())?;
        }
        text += &settings();
        Ok(Self { text })
    }

    /// Adds the table of `workload`.
    pub(crate) fn add(&mut self, workload: Workload, Outcome { results, failures }: &Outcome) {
        let columns = workload.columns();
        let titles: String = columns.iter().map(|column| format!(" {} |", column.title())).collect();
        let rules = "---:|".repeat(columns.len() + 3);
        let text = &mut self.text;
        *text += &format!(
            "\n## {}\n\n| | ack means |{titles} to Aqueduct | CPU s / M | memory MiB |\n|---|---|{rules}\n",
            workload.title()
        );
        let ours = results.get(&Contestant::Aqueduct).map(|runs| Spread::of(runs, |run| run.sample.figures[0]).median);
        for (contestant, runs) in results {
            let figures: String = (0..columns.len())
                .map(|column| format!(" {} |", Spread::of(runs, |run| run.sample.figures[column]).cell()))
                .collect();
            let ratio = ours.map_or_else(String::new, |ours| {
                format!("{:.3}", Spread::of(runs, |run| run.sample.figures[0]).median / ours)
            });
            let cpu = Spread::of(runs, |run| run.cpu.as_secs_f64() / (run.sample.records as f64 / 1e6)).median;
            let memory = Spread::of(runs, |run| run.anonymous_bytes as f64 / f64::from(1 << 20)).median;
            *text += &format!(
                "| {} | {} |{figures} {ratio} | {cpu:.2} | {memory:.0} |\n",
                contestant.name(),
                contestant.ack()
            );
        }
        for failure in failures {
            *text += &format!("\nFailed: {failure}\n");
        }
    }

    /// The whole text.
    pub(crate) fn finish(mut self, took: Duration) -> String {
        self.text += &format!("\nThe run took {} s.\n", took.as_secs());
        self.text
    }
}

/// As it was typed, but for where the program lies.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let separator = if arguments.is_empty() { "" } else { " -- " };
    format!(
        "cargo build --release && cargo run --release -p aqueduct-benches --bin compare{separator}{}",
        arguments.join(" ")
    )
}

/// The version that this program was built with.
fn locked_version(name: &str) -> &'static str {
    const LOCK: &str = include_str!("../../Cargo.lock");
    let entry = LOCK.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")));
    entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next()).unwrap_or("unknown")
}

/// Every setting that is not a default, and those defaults that one would ask about.
fn settings() -> String {
    let redis_flags =
        redis::settings("everysec|always").map(|word| if word.is_empty() { "\"\"" } else { word }).join(" ");
    format!(
        "\n## Settings\n\n\
        - Aqueduct: `aqueduct serve`, all defaults (durability `fsync`). Client: all defaults (batches of 256 KiB, 64 of \
        them in flight, no linger), one connection. Replay and delivery: `subscribe`, batch by batch.\n\
        - NATS: `jetstream {{ {} }}`, and `sync_interval: always` where the name says so (default: 2 min); \
        streams with file storage, one replica, one for each partition. Client: fast ingest (an ack \
        for {} messages, {} acks outstanding), single records by a publish with an ack; a connection for each producer; \
        pull consumer without acks, {} messages a pull. A key is the last token of the subject.\n\
        - Redis: `redis-server {redis_flags}`, one stream for each partition. Client: multiplexed connection for each \
        producer, {} pipelines of {} XADD in flight; XREAD with COUNT {} and, for delivery, BLOCK.\n",
        nats::JETSTREAM_SETTINGS,
        fast_ingest::FLOW,
        fast_ingest::ACKS_OUTSTANDING,
        nats::PULL_MESSAGES,
        redis::PIPELINES_IN_FLIGHT,
        redis::PIPELINE_COMMANDS,
        redis::READ_COUNT,
    )
}

/// The median of some runs, and how far they lie apart.
#[derive(Debug, Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(runs: &[Measured], figure: impl Fn(&Measured) -> f64) -> Self {
        let mut figures: Vec<f64> = runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median =
            if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 };
        Self { min: figures[0], median, max: figures[figures.len() - 1] }
    }

    fn cell(self) -> String {
        format!("**{}** ({}–{})", grouped(self.median), grouped(self.min), grouped(self.max))
    }
}

/// With a comma after every three digits.
fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
