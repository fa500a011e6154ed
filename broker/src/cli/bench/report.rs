//! The result, for people and for programs.

use std::time::Duration;

use serde::Serialize;

use super::fractions::Fraction;
use super::histogram::{Latencies, human, three_digits};
use super::limits::{Limits, Percentiles};
use super::outcome::{Flow, Outcome};
use super::plan::{Config, Plan};
use crate::cli::size::{counted, grouped, human_bytes};

/// Everything about a run.
pub(super) struct Report<'a> {
    pub(super) plan: &'a Plan,
    pub(super) broker: BrokerFacts,
    pub(super) outcome: &'a Outcome,
    pub(super) limits: Option<Limits>,
    pub(super) fractions: Vec<Fraction>,
}

/// Against what it ran.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BrokerFacts {
    pub(super) version: String,
    pub(super) engine: String,
    pub(super) origin: BrokerOrigin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BrokerOrigin {
    /// A process of its own, started for this.
    Own,
    /// One that was running.
    Named,
}

impl Report<'_> {
    pub(super) fn text(&self) -> String {
        let outcome = self.outcome;
        let mut text = self.headline();
        text.push_str("\nThroughput\n");
        for flow in &outcome.flows {
            text.push_str(&flow_line(outcome, flow));
        }
        for latency in &outcome.latencies {
            let count = counted(latency.latencies.count(), "time");
            text.push_str(&format!("\nLatency: {}, {count}\n{}", latency.title, latency.latencies.draw()));
        }
        text.push_str(&self.resources());
        for note in &outcome.notes {
            text.push_str(&format!("  {note}\n"));
        }
        if let Some(limits) = &self.limits {
            text.push_str(&format!("\n{}", limits_text(limits)));
            text.push_str("\nReached, of what this machine allows\n");
            for fraction in &self.fractions {
                text.push_str(&format!("  {}\n", fraction.describe()));
            }
        }
        text
    }

    fn headline(&self) -> String {
        let (plan, shape) = (self.plan, &self.plan.shape);
        let whose = match self.broker.origin {
            BrokerOrigin::Own => "on a broker of its own",
            BrokerOrigin::Named => "on a running broker",
        };
        let BrokerFacts { version, .. } = &self.broker;
        let config = plan.config();
        format!(
            "aqueduct bench {}, {whose} ({version})\n  {}\n  {} each, codec {}, {}; {} measured, after {} of warm-up\n",
            plan.workload,
            config.roles(),
            human_bytes(shape.record_bytes),
            shape.codec,
            shape.durability,
            seconds(self.outcome.elapsed),
            seconds(shape.warm_up),
        )
    }

    fn resources(&self) -> String {
        let outcome = self.outcome;
        let unknown = || "n/a (the broker is not ours)".to_owned();
        let cpu = |cpu: Duration| format!("{} s", three_digits(per_million(cpu, outcome.records_handled())));
        let broker_cpu = outcome.broker_cpu.map_or_else(unknown, cpu);
        let memory = outcome.broker_anonymous_bytes_peak.map_or_else(unknown, human_bytes);
        let client_cpu = outcome.client_cpu.map_or_else(|| "n/a".to_owned(), cpu);
        format!(
            "\nUsed\n  broker CPU per million records         {broker_cpu}\n  this program's CPU per million records \
             {client_cpu}\n  broker memory (anonymous), at most     {memory}\n"
        )
    }

    pub(super) fn json(&self) -> ReportJson<'_> {
        let outcome = self.outcome;
        let per_million = |cpu: Option<Duration>| Some(per_million(cpu?, outcome.records_handled()));
        ReportJson {
            workload: self.plan.workload,
            version: env!("CARGO_PKG_VERSION"),
            broker: &self.broker,
            config: self.plan.config(),
            result: ResultJson {
                seconds: outcome.elapsed.as_secs_f64(),
                flows: outcome.flows.iter().map(|flow| FlowJson::new(outcome, flow)).collect(),
                latencies: outcome.latencies.iter().map(|l| LatencyJson::new(l.name, &l.latencies)).collect(),
                totals: TotalsJson {
                    published: outcome.totals.published,
                    delivered: outcome.totals.delivered,
                    consumed: outcome.totals.consumed,
                    unsent: outcome.totals.unsent,
                },
                broker_cpu_seconds_per_million_records: per_million(outcome.broker_cpu),
                broker_anonymous_bytes_peak: outcome.broker_anonymous_bytes_peak,
                client_cpu_seconds_per_million_records: per_million(outcome.client_cpu),
                notes: &outcome.notes,
            },
            limits: self.limits,
            fractions: &self.fractions,
        }
    }
}

fn per_million(cpu: Duration, records: u64) -> f64 {
    cpu.as_secs_f64() / (records.max(1) as f64 / 1e6)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn flow_line(outcome: &Outcome, flow: &Flow) -> String {
    // A rate is never negative, and its fraction says nothing.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = grouped(outcome.per_second(flow.records).round() as u64);
    let megabytes = three_digits(outcome.per_second(flow.bytes) / 1e6);
    format!("  {:<10} {rate:>14} records/s {megabytes:>8} MB/s {:>16} records\n", flow.name, grouped(flow.records))
}

/// The yardstick, one line each.
pub(super) fn limits_text(limits: &Limits) -> String {
    let percentiles = |p: Percentiles| {
        let micros = |us: f64| human(Duration::from_secs_f64(us / 1e6));
        format!("p50 {}, p99 {}", micros(p.p50_us), micros(p.p99_us))
    };
    let gigabytes = |rate| format!("{} GB/s", three_digits(rate));
    let mut lines = vec![
        ("fdatasync of 4 KiB, growing file", percentiles(limits.fdatasync_growing)),
        ("fdatasync of 4 KiB, zeroed ahead", percentiles(limits.fdatasync_zeroed)),
        ("fdatasync, 8 files at once", format!("{}/s", three_digits(limits.fdatasync_parallel_per_second))),
        ("sequential write + sync, 1 MiB", format!("{} MB/s", three_digits(limits.sequential_write_mb_per_second))),
        ("memcpy", gigabytes(limits.memcpy_gb_per_second)),
        ("TCP over loopback", gigabytes(limits.loopback_gb_per_second)),
        ("bare gRPC call", percentiles(limits.grpc_call)),
        ("bare gRPC stream to the client", gigabytes(limits.grpc_to_client_gb_per_second)),
        ("bare gRPC stream to the server", gigabytes(limits.grpc_to_server_gb_per_second)),
    ];
    if let Some(limit) = limits.on_schedule {
        let value = format!("{}, at {}/s", percentiles(limit.latency), grouped(limit.rate.into()));
        lines.push(("bare gRPC and the disk, on schedule", value));
    }
    let lines: String = lines.iter().map(|(name, value)| format!("  {name:<38} {value}\n")).collect();
    format!("This machine by itself, measured in this run\n{lines}")
}

#[derive(Serialize)]
pub(super) struct ReportJson<'a> {
    workload: &'a str,
    version: &'a str,
    broker: &'a BrokerFacts,
    config: Config,
    result: ResultJson<'a>,
    limits: Option<Limits>,
    fractions: &'a [Fraction],
}

#[derive(Serialize)]
struct ResultJson<'a> {
    seconds: f64,
    flows: Vec<FlowJson>,
    latencies: Vec<LatencyJson>,
    totals: TotalsJson,
    broker_cpu_seconds_per_million_records: Option<f64>,
    broker_anonymous_bytes_peak: Option<u64>,
    client_cpu_seconds_per_million_records: Option<f64>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct FlowJson {
    name: &'static str,
    records: u64,
    bytes: u64,
    records_per_second: f64,
    mb_per_second: f64,
}

impl FlowJson {
    fn new(outcome: &Outcome, flow: &Flow) -> Self {
        Self {
            name: flow.name,
            records: flow.records,
            bytes: flow.bytes,
            records_per_second: outcome.per_second(flow.records),
            mb_per_second: outcome.per_second(flow.bytes) / 1e6,
        }
    }
}

#[derive(Serialize)]
struct TotalsJson {
    published: u64,
    delivered: u64,
    consumed: u64,
    unsent: u64,
}

#[derive(Serialize)]
struct LatencyJson {
    name: &'static str,
    count: u64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p99_9_us: f64,
    max_us: f64,
    buckets: Vec<BucketJson>,
}

#[derive(Serialize)]
struct BucketJson {
    from_us: f64,
    to_us: f64,
    count: u64,
}

impl LatencyJson {
    fn new(name: &'static str, latencies: &Latencies) -> Self {
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        let bucket = |bucket: super::histogram::Bucket| BucketJson {
            from_us: micros(bucket.from),
            to_us: micros(bucket.to),
            count: bucket.count,
        };
        Self {
            name,
            count: latencies.count(),
            p50_us: micros(latencies.at(0.5)),
            p90_us: micros(latencies.at(0.9)),
            p99_us: micros(latencies.at(0.99)),
            p99_9_us: micros(latencies.at(0.999)),
            max_us: micros(latencies.max()),
            buckets: latencies.buckets().into_iter().map(bucket).collect(),
        }
    }
}

/// Of `bench limits`.
pub(super) fn limits_json(limits: &Limits) -> LimitsJson {
    LimitsJson { workload: "limits", version: env!("CARGO_PKG_VERSION"), limits: *limits }
}

#[derive(Serialize)]
pub(super) struct LimitsJson {
    workload: &'static str,
    version: &'static str,
    limits: Limits,
}
