//! The work, the same for all: what is published or read, and which figures it gives.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::peer::{Message, Peer, Producer};

/// Records that one call of a pipelined producer hands over.
const CHUNK: usize = 512;
const TASKS: usize = 64;
/// Distance of the records of [`Workload::EndToEnd`]: 5,000 a second.
const PACE: Duration = Duration::from_micros(200);
/// Longer without news is a failure.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const KEYS: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    PublishOne,
    PublishEight,
    PublishLarge,
    Tasks,
    Synchronous,
    EndToEnd,
    Replay,
}

impl Workload {
    pub(crate) const ALL: [Self; 7] = [
        Self::PublishOne,
        Self::PublishEight,
        Self::PublishLarge,
        Self::Tasks,
        Self::Synchronous,
        Self::EndToEnd,
        Self::Replay,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::PublishOne => "Publish, 1 producer, 100 B",
            Self::PublishEight => "Publish, 8 producers on 8 partitions, 100 B",
            Self::PublishLarge => "Publish, 1 producer, 1 KiB",
            Self::Tasks => "64 tasks, each publishing one record at a time, 100 B",
            Self::Synchronous => "One publish at a time, 100 B",
            Self::EndToEnd => "Publish to delivery at 5,000 records/s, 100 B",
            Self::Replay => "Replay of a prepared log, 1 consumer that hashes key and value, 100 B",
        }
    }

    /// What the figures of a [`Sample`] are.
    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Self::PublishOne | Self::PublishEight | Self::PublishLarge | Self::Tasks | Self::Replay => &[Column::Rate],
            Self::Synchronous => &[Column::P50, Column::P99],
            Self::EndToEnd => &[Column::P50, Column::P99, Column::Lateness],
        }
    }
}

/// What a figure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Rate,
    P50,
    P99,
    /// By how much the generator of the load was late: part of what is seen.
    Lateness,
}

impl Column {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Rate => "records/s",
            Self::P50 => "p50, µs",
            Self::P99 => "p99, µs",
            Self::Lateness => "generator late, p50, µs",
        }
    }
}

/// What one run gave.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) records: u64,
    /// One for each column.
    pub(crate) figures: Vec<f64>,
}

/// Runs `workload` for `load`; [`Workload::Replay`] reads what [`prepare`] has published.
pub(crate) async fn run(
    workload: Workload,
    peer: &dyn Peer,
    load: Duration,
    log_records: u64,
) -> anyhow::Result<Sample> {
    match workload {
        Workload::PublishOne => publish(peer, 1, 100, load).await,
        Workload::PublishEight => publish(peer, 8, 100, load).await,
        Workload::PublishLarge => publish(peer, 1, 1024, load).await,
        Workload::Tasks => tasks(peer, load).await,
        Workload::Synchronous => synchronous(peer, load).await,
        Workload::EndToEnd => end_to_end(peer, load).await,
        Workload::Replay => replay(peer, log_records).await,
    }
}

/// Values that do not compress.
fn values(bytes: usize) -> impl Iterator<Item = Bytes> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(move || std::iter::repeat_with(|| random.u8(..)).take(bytes).collect::<Vec<u8>>().into())
}

fn messages(bytes: usize) -> Vec<Message> {
    values(bytes).take(CHUNK).map(|value| Message { key: None, value }).collect()
}

fn rate(records: u64, elapsed: Duration) -> Sample {
    Sample { records, figures: vec![records as f64 / elapsed.as_secs_f64()] }
}

async fn publish(peer: &dyn Peer, producers: u32, value_bytes: usize, load: Duration) -> anyhow::Result<Sample> {
    peer.create("publish", producers).await?;
    let messages: Arc<[Message]> = messages(value_bytes).into();
    let mut running = JoinSet::new();
    let mut ready = Vec::new();
    for partition in 0..producers {
        ready.push(peer.producer("publish", partition).await?);
    }
    let start = Instant::now();
    for mut producer in ready {
        let messages = Arc::clone(&messages);
        running.spawn(async move {
            let mut records = 0;
            while start.elapsed() < load {
                producer.enqueue(&messages).await?;
                records += CHUNK as u64;
            }
            producer.flush().await?;
            anyhow::Ok(records)
        });
    }
    let records = sum(running).await?;
    Ok(rate(records, start.elapsed()))
}

async fn sum(mut running: JoinSet<anyhow::Result<u64>>) -> anyhow::Result<u64> {
    let mut records = 0;
    while let Some(done) = running.join_next().await {
        records += done??;
    }
    Ok(records)
}

async fn tasks(peer: &dyn Peer, load: Duration) -> anyhow::Result<Sample> {
    peer.create("tasks", 1).await?;
    let producer: Arc<dyn Producer> = peer.producer("tasks", 0).await?.into();
    let message = messages(100).swap_remove(0);
    let mut running = JoinSet::new();
    let start = Instant::now();
    for _ in 0..TASKS {
        let (producer, message) = (Arc::clone(&producer), message.clone());
        running.spawn(async move {
            let mut records = 0;
            while start.elapsed() < load {
                producer.publish(message.clone()).await?;
                records += 1;
            }
            anyhow::Ok(records)
        });
    }
    let records = sum(running).await?;
    Ok(rate(records, start.elapsed()))
}

async fn synchronous(peer: &dyn Peer, load: Duration) -> anyhow::Result<Sample> {
    peer.create("synchronous", 1).await?;
    let producer = peer.producer("synchronous", 0).await?;
    let message = messages(100).swap_remove(0);
    let mut times = Histogram::<u64>::new(3)?;
    let start = Instant::now();
    while start.elapsed() < load {
        let publish = Instant::now();
        producer.publish(message.clone()).await?;
        times.record(micros(publish.elapsed()))?;
    }
    Ok(Sample { records: times.len(), figures: vec![quantile(&times, 0.5), quantile(&times, 0.99)] })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn quantile(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64
}

/// Open loop: record `i` is due at `i * PACE`, whatever became of those before, and its latency counts from there.
async fn end_to_end(peer: &dyn Peer, load: Duration) -> anyhow::Result<Sample> {
    peer.create("news", 1).await?;
    let producer: Arc<dyn Producer> = peer.producer("news", 0).await?.into();
    // A stream of Redis, and whatever else is made at the first use, exists before the clock starts.
    producer.publish(numbered(0, &[0; 100])).await?;
    let mut tail = peer.follow("news").await?;
    timeout(SILENCE_MAX, tail.next(&mut |_, _| {})).await??;

    let records = micros(load) / micros(PACE);
    let filler = values(100).next().context("a value")?;
    let start = Instant::now();
    let mut due = pace(start, records);
    let publishing = tokio::spawn(async move {
        let mut lateness = Histogram::<u64>::new(3)?;
        let mut running = JoinSet::new();
        while let Some(number) = due.recv().await {
            lateness.record(micros(since_due(start, number)))?;
            let (producer, message) = (Arc::clone(&producer), numbered(number, &filler));
            running.spawn(async move { producer.publish(message).await });
            while let Some(done) = running.try_join_next() {
                done??;
            }
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        anyhow::Ok(lateness)
    });
    let mut times = Histogram::<u64>::new(3)?;
    while times.len() < records {
        let mut arrived = Vec::new();
        let mut see = |_: &[u8], value: &[u8]| {
            let number = value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
            arrived.push(micros(since_due(start, number)));
        };
        timeout(SILENCE_MAX, tail.next(&mut see)).await??;
        for latency in arrived {
            times.record(latency)?;
        }
    }
    let lateness = publishing.await??;
    let figures = vec![quantile(&times, 0.5), quantile(&times, 0.99), quantile(&lateness, 0.5)];
    Ok(Sample { records, figures })
}

fn since_due(start: Instant, number: u64) -> Duration {
    start.elapsed().saturating_sub(PACE.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX)))
}

fn numbered(number: u64, filler: &[u8]) -> Message {
    let mut value = filler.to_vec();
    value[..8].copy_from_slice(&number.to_le_bytes());
    Message { key: None, value: value.into() }
}

/// The numbers of records as they become due, from a thread: the runtime's timer counts in milliseconds.
fn pace(start: Instant, records: u64) -> mpsc::Receiver<u64> {
    let (sender, receiver) = mpsc::channel(1024);
    thread::spawn(move || {
        for number in 0..records {
            let at = PACE.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
            thread::sleep(at.saturating_sub(start.elapsed()));
            if sender.blocking_send(number).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Publishes the log that is replayed.
pub(crate) async fn prepare(peer: &dyn Peer, log_records: u64) -> anyhow::Result<()> {
    peer.create("replay", 1).await?;
    let mut producer = peer.producer("replay", 0).await?;
    let keys: Vec<Bytes> = (0..KEYS).map(|key| Bytes::from(format!("customer-{key}"))).collect();
    let values: Vec<Bytes> = values(100).take(CHUNK).collect();
    let records = keys.iter().cycle().zip(values.iter().cycle());
    let mut records = records.map(|(key, value)| Message { key: Some(key.clone()), value: value.clone() });
    for _ in 0..log_records / CHUNK as u64 {
        let chunk: Vec<Message> = records.by_ref().take(CHUNK).collect();
        producer.enqueue(&chunk).await?;
    }
    producer.flush().await
}

/// Records of the log that is replayed: about `records`, in whole chunks.
pub(crate) fn whole_chunks(records: u64) -> u64 {
    records.next_multiple_of(CHUNK as u64)
}

async fn replay(peer: &dyn Peer, log_records: u64) -> anyhow::Result<Sample> {
    let mut hash = 0_u32;
    let mut touch = |key: &[u8], value: &[u8]| hash ^= crc32fast::hash(key).rotate_left(1) ^ crc32fast::hash(value);
    let start = Instant::now();
    timeout(SILENCE_MAX, peer.replay("replay", log_records, &mut touch)).await??;
    let elapsed = start.elapsed();
    std::hint::black_box(hash);
    Ok(rate(log_records, elapsed))
}
