//! Reading a log from its beginning, again and again, from the page cache.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context as _;
use aqueduct_client::{Client, Record, Start};
use bytes::Bytes;
use futures_util::future::try_join_all;
use parking_lot::Mutex;

use super::histogram::Latencies;
use super::outcome::{Outcome, Totals};
use super::payload::{self, Payloads};
use super::plan::{Replay, Shape};
use super::progress::Progress;
use super::stage::{Retention, Stage};
use super::window::{Counters, Window, meter};

const KEY_BYTES: u64 = 10;
const KEYS: u64 = 1_000;
/// Records handed over per call while the log is written.
const CHUNK: u64 = 1_024;

pub(super) async fn run(stage: &Stage, load: &Replay, shape: &Shape, progress: &Progress) -> anyhow::Result<Outcome> {
    stage.make_topic(shape, Retention::Everything).await?;
    let log = write_log(stage, load.records, shape, progress).await?;
    let mut clients = Vec::new();
    for _ in 0..load.subscribers {
        clients.push(stage.connect().await?);
    }
    let counters = Arc::new(Counters::default());
    let first_records = Arc::new(Mutex::new(Latencies::default()));
    let window = Window::open(shape.warm_up, shape.duration);
    let reading = try_join_all(clients.into_iter().map(|client| {
        let reader = Reader {
            client,
            topic: stage.topic.clone(),
            log,
            window,
            counters: Arc::clone(&counters),
            first_records: Arc::clone(&first_records),
        };
        let task = tokio::spawn(reader.read());
        async { task.await? }
    }));
    let metering = async { anyhow::Ok(meter(window, stage.broker_pid(), || counters.now(), progress).await) };
    let (replays, metered) = tokio::try_join!(reading, metering)?;

    let mut outcome = Outcome::new(&metered);
    outcome.flow("delivered", metered.counts.delivered, shape, KEY_BYTES);
    outcome.latency("first_record", "subscribe → the first record read", first_records.lock().clone());
    let delivered = counters.now().delivered;
    outcome.totals = Totals { published: load.records, delivered, ..Totals::default() };
    let whole: u64 = replays.iter().sum();
    outcome.notes.push(format!("the whole log was read {whole} times, and each time was what had been published"));
    Ok(outcome)
}

/// What there is to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Log {
    records: u64,
    /// The sum of all digests.
    digest: u64,
}

async fn write_log(stage: &Stage, records: u64, shape: &Shape, progress: &Progress) -> anyhow::Result<Log> {
    let client = stage.connect().await?;
    let producer = client.producer(&stage.topic).codec(shape.codec).build().await?;
    let keys: Vec<Bytes> = (0..KEYS).map(|key| format!("client-{key:03}").into()).collect();
    let mut entries = keys.iter().cycle().zip(Payloads::new(shape.value_bytes()));
    let mut log = Log::default();
    while log.records < records {
        let chunk: Vec<Record> = (log.records..records.min(log.records + CHUNK))
            .zip(entries.by_ref())
            .map(|(_, (key, value))| Record::new(value).key(key.clone()))
            .collect();
        for record in &chunk {
            log.records += 1;
            log.digest = log.digest.wrapping_add(payload::digest_of(record.key.as_deref(), record.value.as_deref()));
        }
        drop(producer.enqueue_all(chunk).await?);
        if log.records.is_multiple_of(CHUNK * 64) {
            progress.phase(&format!("writing the log: {} %", log.records * 100 / records), None);
        }
    }
    producer.flush().await.context("cannot write the log")?;
    Ok(log)
}

struct Reader {
    client: Client,
    topic: String,
    log: Log,
    window: Window,
    counters: Arc<Counters>,
    first_records: Arc<Mutex<Latencies>>,
}

impl Reader {
    /// Returns how often it read the whole log.
    async fn read(self) -> anyhow::Result<u64> {
        let mut replays = 0;
        while !self.window.is_over() {
            let read = self.read_once().await?;
            if self.window.is_over() {
                break;
            }
            let expected = self.log;
            anyhow::ensure!(read == expected, "the log was {expected:?}, but {read:?} was read");
            replays += 1;
        }
        Ok(replays)
    }

    /// To the end of the log or of the window.
    async fn read_once(&self) -> anyhow::Result<Log> {
        let begun = Instant::now();
        let mut events = self.client.subscribe(&self.topic).from(Start::Earliest).until_end().build().await?;
        let mut read = Log::default();
        while let Some(batch) = events.next_batch().await {
            let before = read.records;
            for record in batch?.records() {
                read.digest = read.digest.wrapping_add(payload::digest(&record?));
                read.records += 1;
            }
            if before == 0 && self.window.measures(begun) {
                self.first_records.lock().record(begun.elapsed());
            }
            self.counters.delivered.fetch_add(read.records - before, Ordering::Relaxed);
            if self.window.is_over() {
                break;
            }
        }
        Ok(read)
    }
}
