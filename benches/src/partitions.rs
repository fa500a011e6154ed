//! Many partitions: what it costs to spread a load over them, and to keep them while they are idle.
//!
//! The load is open: records are due at a fixed rate, whether or not earlier ones have been acknowledged, and latency
//! counts from then. Spread over many partitions, each record is a write and a sync; on one, records gather. What the
//! generator was late by is part of every latency, and printed beside it.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aqueduct_client::{Producer, Record, partition_for_key};
use aqueduct_tests::{BrokerProcess, cpu_time, resident_anonymous_bytes};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};

use crate::report::figure;

const MIB: f64 = 1024.0 * 1024.0;
const VALUE_BYTES: usize = 100;
/// Distance of the records: 10,000 a second.
const PACE: Duration = Duration::from_micros(100);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Over how many partitions the load is spread.
    pub(crate) spread: u32,
    /// How many partitions are idle.
    pub(crate) idle: u32,
    /// How often a load on one partition and a spread one take turns.
    pub(crate) rounds: usize,
    /// How long each load is measured, after a third of it as warm-up.
    pub(crate) load: Duration,
}

pub(crate) async fn measure(plan: Plan) -> anyhow::Result<()> {
    let (mut one, mut spread) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        one.push(load_on_new_broker(1, plan.load).await?);
        spread.push(load_on_new_broker(plan.spread, plan.load).await?);
    }
    let (one, spread) = (Outcome::median(&one), Outcome::median(&spread));
    one.print("1 partition");
    spread.print(&format!("{} partitions", plan.spread));
    figure("ack p99, spread to 1 partition", spread.p99 / one.p99, "");

    let beside_idle = idle(plan).await?;
    beside_idle.print("1 beside idle ones");
    figure("ack p99, beside idle ones to alone", beside_idle.p99 / one.p99, "");
    Ok(())
}

async fn load_on_new_broker(partitions: u32, load: Duration) -> anyhow::Result<Outcome> {
    let broker = BrokerProcess::start();
    run(&broker, partitions, load).await
}

/// A broker with partitions that have a record each and get no more; in the end, a load on one beside them.
async fn idle(plan: Plan) -> anyhow::Result<Outcome> {
    let broker = BrokerProcess::start();
    broker.client().await.topics().create("idle").partitions(plan.idle).build().await?;
    publish_to_each(&broker, plan.idle).await?;
    figure("idle partitions: anonymous", resident_anonymous_bytes(broker.pid()) as f64 / MIB, "MiB");

    // Elsewhere, so that clients can say goodbye.
    let (status, stopped) = spawn_blocking(move || broker.terminate()).await?;
    ensure!(status.success(), "the broker ended with {status}");
    let start = Instant::now();
    let broker = stopped.restart();
    figure("idle partitions: start after a clean stop", start.elapsed().as_secs_f64() * 1e3, "ms");

    // Something to recover in every partition.
    publish_to_each(&broker, plan.idle).await?;
    let stopped = broker.kill();
    let start = Instant::now();
    let broker = stopped.restart();
    figure("idle partitions: start after kill -9", start.elapsed().as_secs_f64() * 1e3, "ms");
    figure("idle partitions: anonymous, after that", resident_anonymous_bytes(broker.pid()) as f64 / MIB, "MiB");
    run(&broker, 1, plan.load).await
}

async fn publish_to_each(broker: &BrokerProcess, partitions: u32) -> anyhow::Result<()> {
    let producer = broker.client().await.producer("idle").build().await?;
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let records = keys(partitions).into_iter().map(|key| Record::new(value.clone()).key(key));
    let receipts = producer.publish_all(records).await?;
    ensure!(receipts.len() == partitions as usize, "{} partitions instead of {partitions}", receipts.len());
    Ok(())
}

/// A key for each partition, so that all get the same.
fn keys(partitions: u32) -> Vec<Bytes> {
    let mut found = BTreeMap::new();
    let mut numbers = 0_u64..;
    while found.len() < partitions as usize
        && let Some(number) = numbers.next()
    {
        let key = Bytes::from(number.to_string());
        found.entry(partition_for_key(&key, partitions)).or_insert(key);
    }
    found.into_values().collect()
}

/// What one load gave; times in µs.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    p50: f64,
    p99: f64,
    /// By how much the generator was late.
    late_p99: f64,
    broker_cpu_per_record: f64,
}

impl Outcome {
    /// Each figure by itself.
    fn median(outcomes: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| {
            let mut figures: Vec<f64> = outcomes.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Self {
            p50: of(|outcome| outcome.p50),
            p99: of(|outcome| outcome.p99),
            late_p99: of(|outcome| outcome.late_p99),
            broker_cpu_per_record: of(|outcome| outcome.broker_cpu_per_record),
        }
    }

    fn print(&self, load: &str) {
        figure(&format!("{load}, ack p50"), self.p50, "µs");
        figure(&format!("{load}, ack p99"), self.p99, "µs");
        figure(&format!("{load}, generator late p99"), self.late_p99, "µs");
        figure(&format!("{load}, broker CPU"), self.broker_cpu_per_record, "µs/record");
    }
}

async fn run(broker: &BrokerProcess, partitions: u32, load: Duration) -> anyhow::Result<Outcome> {
    let client = broker.client().await;
    client.topics().create("load").partitions(partitions).build().await?;
    let producer = client.producer("load").build().await?;
    let keys = keys(partitions);
    drive(&producer, &keys, records_in(load / 3)).await?;

    let cpu_before = cpu_time(broker.pid())?;
    let records = records_in(load);
    let times = drive(&producer, &keys, records).await?;
    let cpu = cpu_time(broker.pid())?.saturating_sub(cpu_before);
    Ok(Outcome {
        p50: times.latency.value_at_quantile(0.5) as f64,
        p99: times.latency.value_at_quantile(0.99) as f64,
        late_p99: times.lateness.value_at_quantile(0.99) as f64,
        broker_cpu_per_record: cpu.as_secs_f64() * 1e6 / f64::from(records),
    })
}

/// In µs.
struct Times {
    /// From when a record is due to its receipt.
    latency: Histogram<u64>,
    /// From when a record is due to when it is handed over.
    lateness: Histogram<u64>,
}

/// Publishes records with these keys in turn, each when it is due.
async fn drive(producer: &Producer, keys: &[Bytes], records: u32) -> anyhow::Result<Times> {
    let mut times = Times { latency: Histogram::new(3)?, lateness: Histogram::new(3)? };
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut keys = keys.iter().cycle();
    let mut acks = JoinSet::new();
    let mut due = pace(records);
    while let Some(at) = due.recv().await {
        times.lateness.record(micros(at.elapsed()))?;
        let key = keys.next().context("no keys")?.clone();
        let ticket = producer.enqueue(Record::new(value.clone()).key(key)).await?;
        acks.spawn(async move { ticket.await.map(|_| at.elapsed()) });
        while let Some(latency) = acks.try_join_next() {
            times.latency.record(micros(latency??))?;
        }
    }
    while let Some(latency) = acks.join_next().await {
        times.latency.record(micros(latency??))?;
    }
    Ok(times)
}

fn records_in(load: Duration) -> u32 {
    u32::try_from(load.as_nanos() / PACE.as_nanos()).unwrap_or(u32::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// When records are due, as they become due; from a thread, because the runtime's timer counts in milliseconds.
fn pace(records: u32) -> mpsc::Receiver<Instant> {
    let (sender, receiver) = mpsc::channel(1024);
    thread::spawn(move || {
        let start = Instant::now();
        for number in 0..records {
            let due = start + PACE * number;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.blocking_send(due).is_err() {
                return;
            }
        }
    });
    receiver
}
