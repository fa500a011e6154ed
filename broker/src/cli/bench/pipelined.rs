//! Publishing as fast as acknowledgements come: calls that hand over many records, tickets dropped.

use std::sync::Arc;
use std::time::Instant;

use aqueduct_client::{Client, Producer, Record};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::histogram::Latencies;
use super::outcome::{Outcome, Totals};
use super::payload::Payloads;
use super::plan::{Pipelined, Shape};
use super::progress::Progress;
use super::stage::{Retention, Stage};
use super::window::{Counts, Window, meter};

pub(super) async fn run(
    stage: &Stage,
    load: &Pipelined,
    shape: &Shape,
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    stage.make_topic(shape, Retention::Bounded).await?;
    let producers = producers(stage, load, shape).await?;
    let payloads = Payloads::new(shape.value_bytes());
    let sample = Arc::new(Mutex::new(Latencies::default()));
    let window = Window::open(shape.warm_up, shape.duration);
    // Counted by their receipts, not by the calls.
    let stored = || producers.iter().map(|(_, producer)| producer.stats().records_stored).sum();
    let counts = || Counts { published: stored(), ..Counts::default() };
    let publishing = try_join_all(producers.iter().map(|(_, producer)| {
        let (producer, payloads, sample) = (producer.clone(), payloads.clone(), Arc::clone(&sample));
        let task = tokio::spawn(publish(producer, load.batch, payloads, window, sample));
        async { task.await? }
    }));
    let metering = async { anyhow::Ok(meter(window, stage.broker_pid(), counts, progress).await) };
    let (enqueued, metered) = tokio::try_join!(publishing, metering)?;
    let (enqueued, published): (u64, u64) = (enqueued.iter().sum(), stored());
    anyhow::ensure!(enqueued == published, "{enqueued} records were handed over, but {published} acknowledged");

    let mut outcome = Outcome::new(&metered);
    outcome.flow("published", metered.counts.published, shape, 0);
    outcome.latency("ack", "a call → its last record acknowledged, sampled", sample.lock().clone());
    outcome.totals = Totals { published, ..Totals::default() };
    Ok(outcome)
}

/// With as many producers as partitions or more, each keeps to one; with fewer, records go round.
pub(super) fn partition_of(producer: u32, producers: u32, partitions: u32) -> Option<u32> {
    (producers >= partitions).then_some(producer % partitions)
}

async fn producers(stage: &Stage, load: &Pipelined, shape: &Shape) -> anyhow::Result<Vec<(Client, Producer)>> {
    let mut producers = Vec::new();
    for number in 0..load.producers {
        let client = stage.connect().await?;
        let mut builder = client.producer(&stage.topic).codec(shape.codec);
        builder = builder.batches_in_flight_max(load.in_flight as usize);
        if let Some(partition) = partition_of(number, load.producers, shape.partitions) {
            builder = builder.partition(partition);
        }
        let producer = builder.build().await?;
        producers.push((client, producer));
    }
    Ok(producers)
}

/// Returns how many records were handed over, all of them acknowledged by then.
async fn publish(
    producer: Producer,
    batch: u32,
    mut payloads: Payloads,
    window: Window,
    sample: Arc<Mutex<Latencies>>,
) -> anyhow::Result<u64> {
    let mut enqueued = 0;
    let mut sampled: Option<JoinHandle<()>> = None;
    while !window.is_over() {
        let called = Instant::now();
        let records = payloads.by_ref().take(batch as usize).map(Record::new);
        let ticket = producer.enqueue_all(records).await?;
        enqueued += u64::from(batch);
        if sampled.as_ref().is_none_or(JoinHandle::is_finished) && window.measures(called) {
            let sample = Arc::clone(&sample);
            sampled = Some(tokio::spawn(async move {
                // What failed is counted as not acknowledged.
                if ticket.await.is_ok() {
                    sample.lock().record(called.elapsed());
                }
            }));
        } else {
            // `flush` reports what failed.
            drop(ticket);
        }
        // As long as there is room nothing above waits, and what was handed over would not even be sent.
        tokio::task::coop::consume_budget().await;
    }
    producer.flush().await?;
    if let Some(sampled) = sampled {
        sampled.await?;
    }
    Ok(enqueued)
}
