//! What can be typed after `aqueduct bench`.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use aqueduct_client::{Codec, Durability};
use clap::{Args, Subcommand};

use super::plan::{Live, Load, MeasureLimits, OneAtATime, Pipelined, Plan, Replay, Shape};
use crate::cli::exit::CliError;
use crate::cli::size::{self, grouped};
use crate::cli::time;

/// The log of `subscribe` unless its records are large.
const LOG_RECORDS: u64 = 2_000_000;
const LOG_BYTES: u64 = 256 << 20;

const COUNT_MAX: u32 = 10_000;
const RATE_MAX: u32 = 10_000_000;
/// As many batches of a producer as a broker remembers.
const IN_FLIGHT_MAX: u32 = 64;

const AFTER_HELP: &str = "\
Each workload runs for about ten seconds against a broker of its own: this
program again, as a process of its own, on a free port and a temporary
directory that is removed at the end. With --server or AQUEDUCT_SERVER it runs
against that broker, on a topic of its own that is deleted at the end.

Before the load, the machine itself is measured: disk syncs, memory, loopback,
bare gRPC. Results are given as the fraction of what this machine allows:
numbers change from machine to machine, fractions much less.

Latencies of a load with --rate count from when each record was due, not from
when it could be sent, so a pause is charged to every record that it delays.

Examples:
  aqueduct bench publish                       how fast is it here?
  aqueduct bench publish --producers 8 --partitions 8
  aqueduct bench publish --tasks 64            64 callers, one record each
  aqueduct bench latency                       one publish at a time
  aqueduct bench end-to-end --rate 20000
  aqueduct bench fan-out --subscribers 500 --dir /mnt/nvme
  aqueduct bench limits                        the machine alone
  aqueduct --server http://db1:7171 bench mixed --duration 60s --output json";

/// Measure: a load, beside the limits of this machine
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) enum BenchCommand {
    Publish(PublishArgs),
    Subscribe(SubscribeArgs),
    Latency(LatencyArgs),
    EndToEnd(EndToEndArgs),
    FanOut(FanOutArgs),
    Mixed(MixedArgs),
    Limits(LimitsArgs),
}

/// What there is to do.
pub(super) enum Request {
    Load(Box<Plan>),
    /// Only the limits.
    Limits {
        parent_directory: Option<PathBuf>,
        duration: Duration,
    },
}

/// Publish as fast as acknowledgements come
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct bench publish
  aqueduct bench publish --record-bytes 1KiB --producers 8 --partitions 8
  aqueduct bench publish --tasks 64      64 callers that wait for their receipts
  aqueduct bench publish --rate 100000   open loop: latency from when due

Throughput counts records that are acknowledged. Without --tasks and --rate,
latency is that of a sample of calls, and mostly the time in the producer's own
queue, which a program that never waits keeps full.")]
pub(in crate::cli) struct PublishArgs {
    /// Producers, each with a connection of its own
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    producers: u32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    partitions: u32,
    /// Records handed over per call
    #[arg(long, default_value_t = 512, value_parser = count, value_name = "N")]
    batch: u32,
    /// Batches on their way, per producer and partition
    #[arg(long, default_value_t = IN_FLIGHT_MAX, value_parser = in_flight, value_name = "N")]
    in_flight: u32,
    /// Tasks per producer, each publishing one record at a time [default: pipelined]
    #[arg(long, value_parser = count, value_name = "N", conflicts_with_all = ["rate", "batch", "in_flight"])]
    tasks: Option<u32>,
    /// Records a second, over all producers [default: as many as possible]
    #[arg(long, value_parser = rate, value_name = "N")]
    rate: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Replay a log from its beginning, again and again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct bench subscribe
  aqueduct bench subscribe --subscribers 4 --record-bytes 1KiB

First the log is written. A record counts as read when its key (10 bytes) and
its value have been hashed with XXH3; the hashes are compared with what was
published.")]
pub(in crate::cli) struct SubscribeArgs {
    /// Readers, each with a connection of its own, each reading everything
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    subscribers: u32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    partitions: u32,
    /// Records in the log [default: 2,000,000, or as many as fit 256 MiB]
    #[arg(long, value_parser = records, value_name = "N")]
    records: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// Publish one record at a time: what a caller waits for
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct bench latency
  aqueduct bench latency --rate 1000       one is due every millisecond
  aqueduct bench latency --producers 16")]
pub(in crate::cli) struct LatencyArgs {
    /// Producers, each with a connection of its own
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    producers: u32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    partitions: u32,
    /// Records a second, over all producers [default: each as soon as the last is acknowledged]
    #[arg(long, value_parser = rate, value_name = "N")]
    rate: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// From publish to the code of a subscriber, at a rate
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct bench end-to-end
  aqueduct bench end-to-end --rate 50000 --record-bytes 1KiB")]
pub(in crate::cli) struct EndToEndArgs {
    /// Records a second, over all producers
    #[arg(long, default_value_t = 5_000, value_parser = rate, value_name = "N")]
    rate: u32,
    /// Subscribers, each with a connection of its own, each getting everything
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    subscribers: u32,
    #[command(flatten)]
    publishing: Publishing,
    #[command(flatten)]
    common: Common,
}

/// One publisher, many subscribers of the same tail
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct bench fan-out
  aqueduct bench fan-out --subscribers 1000 --rate 100")]
pub(in crate::cli) struct FanOutArgs {
    /// Records a second, over all producers
    #[arg(long, default_value_t = 1_000, value_parser = rate, value_name = "N")]
    rate: u32,
    /// Subscribers, each with a connection of its own, each getting everything
    #[arg(long, default_value_t = 100, value_parser = count, value_name = "N")]
    subscribers: u32,
    #[command(flatten)]
    publishing: Publishing,
    #[command(flatten)]
    common: Common,
}

/// Publishers, subscribers and a consumer group at once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct bench mixed
  aqueduct bench mixed --rate 50000 --producers 4 --members 4 --duration 60s")]
pub(in crate::cli) struct MixedArgs {
    /// Records a second, over all producers
    #[arg(long, default_value_t = 20_000, value_parser = rate, value_name = "N")]
    rate: u32,
    /// Subscribers, each with a connection of its own, each getting everything
    #[arg(long, default_value_t = 2, value_parser = count, value_name = "N")]
    subscribers: u32,
    /// Members of the consumer group, which acknowledge every record
    #[arg(long, default_value_t = 2, value_parser = count, value_name = "N")]
    members: u32,
    /// Producers, each with a connection of its own
    #[arg(long, default_value_t = 2, value_parser = count, value_name = "N")]
    producers: u32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 4, value_parser = count, value_name = "N")]
    partitions: u32,
    #[command(flatten)]
    common: Common,
}

/// Only the limits of this machine: disk, memory, loopback, bare gRPC
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct bench limits
  aqueduct bench limits --dir /mnt/nvme --duration 20s --output json")]
pub(in crate::cli) struct LimitsArgs {
    /// The disk to measure [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// For all of them together
    #[arg(long, value_parser = duration, default_value = "4s", value_name = "DURATION")]
    duration: Duration,
}

/// The publishing side where it is not what is varied most.
#[derive(Debug, Args)]
struct Publishing {
    /// Producers, each with a connection of its own
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    producers: u32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 1, value_parser = count, value_name = "N")]
    partitions: u32,
}

#[derive(Debug, Args)]
struct Common {
    /// Size of a record's value; its bytes do not compress
    #[arg(long, value_parser = record_bytes, default_value = "100", value_name = "BYTES")]
    record_bytes: u64,
    /// How long the load is measured
    #[arg(long, value_parser = duration, default_value = "6s", value_name = "DURATION")]
    duration: Duration,
    /// How long it runs before that
    #[arg(long, value_parser = warm_up, default_value = "1s", value_name = "DURATION")]
    warm_up: Duration,
    /// none, lz4 or zstd
    #[arg(long, default_value_t = Codec::None, value_name = "CODEC")]
    codec: Codec,
    /// fsync, or os: acknowledged from the page cache
    #[arg(long, default_value_t = Durability::Fsync, value_name = "LEVEL")]
    durability: Durability,
    /// The disk for the broker's data [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Do not measure the limits of the machine
    #[arg(long)]
    no_limits: bool,
}

impl BenchCommand {
    /// # Errors
    /// What contradicts itself.
    pub(super) fn request(self) -> Result<Request, CliError> {
        match self {
            Self::Publish(args) => {
                let producers = args.producers;
                let (batch, in_flight) = (args.batch, args.in_flight);
                let load = match (args.tasks, args.rate) {
                    (Some(tasks), _) => Load::OneAtATime(OneAtATime { producers, tasks, rate: None }),
                    (None, None) => Load::Pipelined(Pipelined { producers, batch, in_flight }),
                    (None, Some(rate)) => {
                        Load::Live(Live { producers, batch, in_flight, rate, subscribers: 0, members: 0 })
                    }
                };
                args.common.plan("publish", load, args.partitions)
            }
            Self::Subscribe(args) => {
                let fitting = LOG_BYTES / args.common.record_bytes;
                let records = args.records.unwrap_or(LOG_RECORDS.min(fitting).max(1));
                let load = Load::Replay(Replay { subscribers: args.subscribers, records });
                args.common.plan("subscribe", load, args.partitions)
            }
            Self::Latency(args) => {
                let load = OneAtATime { producers: args.producers, tasks: 1, rate: args.rate };
                args.common.plan("latency", Load::OneAtATime(load), args.partitions)
            }
            Self::EndToEnd(args) => {
                let load = live(args.rate, args.publishing.producers, args.subscribers, 0);
                args.common.plan("end-to-end", load, args.publishing.partitions)
            }
            Self::FanOut(args) => {
                let load = live(args.rate, args.publishing.producers, args.subscribers, 0);
                args.common.plan("fan-out", load, args.publishing.partitions)
            }
            Self::Mixed(args) => {
                let load = live(args.rate, args.producers, args.subscribers, args.members);
                args.common.plan("mixed", load, args.partitions)
            }
            Self::Limits(args) => Ok(Request::Limits { parent_directory: args.dir, duration: args.duration }),
        }
    }
}

fn live(rate: u32, producers: u32, subscribers: u32, members: u32) -> Load {
    Load::Live(Live { producers, batch: 512, in_flight: IN_FLIGHT_MAX, rate, subscribers, members })
}

impl Common {
    fn plan(self, workload: &'static str, load: Load, partitions: u32) -> Result<Request, CliError> {
        let shape = Shape {
            record_bytes: self.record_bytes,
            partitions,
            codec: self.codec,
            durability: self.durability,
            warm_up: self.warm_up,
            duration: self.duration,
        };
        let limits = if self.no_limits { MeasureLimits::No } else { MeasureLimits::Yes };
        Ok(Request::Load(Box::new(Plan { workload, load, shape, parent_directory: self.dir, limits })))
    }
}

fn within<T>(text: &str, range: RangeInclusive<T>, unit: &str) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + Into<u64> + Copy,
{
    let expected = || format!("expected {unit} from {} to {}", number(*range.start()), number(*range.end()));
    text.parse().ok().filter(|value| range.contains(value)).ok_or_else(expected)
}

fn number(value: impl Into<u64>) -> impl Display {
    grouped(value.into())
}

fn count(text: &str) -> Result<u32, String> {
    within(text, 1..=COUNT_MAX, "a number")
}

fn in_flight(text: &str) -> Result<u32, String> {
    within(text, 1..=IN_FLIGHT_MAX, "a number")
}

fn rate(text: &str) -> Result<u32, String> {
    within(text, 1..=RATE_MAX, "records a second,")
}

fn records(text: &str) -> Result<u64, String> {
    within(text, 1..=1_000_000_000, "a number")
}

fn record_bytes(text: &str) -> Result<u64, String> {
    match size::parse_bytes(text)? {
        0 => Err("expected at least 1 byte".to_owned()),
        bytes => Ok(bytes),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    bounded_duration(text, Duration::from_millis(10), "10ms")
}

fn warm_up(text: &str) -> Result<Duration, String> {
    bounded_duration(text, Duration::ZERO, "0s")
}

fn bounded_duration(text: &str, min: Duration, min_text: &str) -> Result<Duration, String> {
    const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
    let duration = time::parse_duration(text)?;
    if (min..=DURATION_MAX).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("expected a duration from {min_text} to 24h"))
    }
}
