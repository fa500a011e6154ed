//! Publishing at full speed, every record acknowledged from disk.

use std::time::{Duration, Instant};

use aqueduct_client::{Client, Producer, Record};
use aqueduct_tests::BrokerProcess;
use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::{process::cpu_time, report::Report};

/// Records that one call of a pipelined producer hands over.
const CHUNK: usize = 512;

const TASKS: usize = 64;

pub(crate) async fn measure(report: &mut Report, load: Duration, record_bytes: usize) -> anyhow::Result<()> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;

    let cpu_before = cpu_time(broker.pid())?;
    let (records, elapsed) = pipelined(&client, "one", 1, 1, load, record_bytes).await?;
    let cpu = cpu_time(broker.pid())? - cpu_before;
    rate(report, "publish: 1 producer, 1 partition", records, elapsed);
    report.figure("broker CPU per million published", cpu.as_secs_f64() / (records / 1e6), "s");

    let (records, elapsed) = pipelined(&client, "eight", 8, 8, load, record_bytes).await?;
    rate(report, "publish: 8 producers, 8 partitions", records, elapsed);

    let (records, elapsed) = tickets(&client, load, record_bytes).await?;
    rate(report, "publish: 1 producer, a ticket per record", records, elapsed);

    let (records, elapsed) = one_at_a_time(&client, load, record_bytes).await?;
    rate(report, "publish: 64 tasks, one record each at a time", records, elapsed);
    Ok(())
}

fn rate(report: &mut Report, name: &'static str, records: f64, elapsed: Duration) {
    report.figure(name, records / elapsed.as_secs_f64(), "records/s");
}

/// Values that do not compress.
fn payloads(bytes: usize) -> Vec<Bytes> {
    (0..CHUNK).map(|_| (0..bytes).map(|_| fastrand::u8(..)).collect::<Vec<u8>>().into()).collect()
}

async fn pipelined(
    client: &Client,
    topic: &str,
    partitions: u32,
    producers: u32,
    load: Duration,
    record_bytes: usize,
) -> anyhow::Result<(f64, Duration)> {
    client.topics().create(topic).partitions(partitions).build().await?;
    let payloads = payloads(record_bytes);
    let start = Instant::now();
    let runs = (0..producers).map(async |partition| {
        let producer = client.producer(topic).partition(partition % partitions).build().await?;
        let mut records = 0;
        while start.elapsed() < load {
            let chunk = payloads.iter().map(|payload| Record::new(payload.clone()));
            // The ticket is dropped: `flush` reports what failed.
            drop(producer.enqueue_all(chunk).await?);
            records += CHUNK;
        }
        producer.flush().await?;
        anyhow::Ok(records)
    });
    let records: usize = try_join_all(runs).await?.into_iter().sum();
    Ok((records as f64, start.elapsed()))
}

async fn tickets(client: &Client, load: Duration, record_bytes: usize) -> anyhow::Result<(f64, Duration)> {
    client.topics().create("tickets").partitions(1).build().await?;
    let producer = client.producer("tickets").build().await?;
    let payloads = payloads(record_bytes);
    let start = Instant::now();
    let mut records = 0;
    while start.elapsed() < load {
        for payload in &payloads {
            drop(producer.enqueue(Record::new(payload.clone())).await?);
        }
        records += payloads.len();
    }
    producer.flush().await?;
    Ok((records as f64, start.elapsed()))
}

async fn one_at_a_time(client: &Client, load: Duration, record_bytes: usize) -> anyhow::Result<(f64, Duration)> {
    client.topics().create("tasks").partitions(1).build().await?;
    let producer = client.producer("tasks").build().await?;
    let payload = payloads(record_bytes).swap_remove(0);
    let start = Instant::now();
    let tasks = (0..TASKS).map(|_| {
        let (producer, payload): (Producer, Bytes) = (producer.clone(), payload.clone());
        async move {
            let mut records = 0;
            while start.elapsed() < load {
                producer.publish(Record::new(payload.clone())).await?;
                records += 1;
            }
            anyhow::Ok(records)
        }
    });
    let records: u32 = try_join_all(tasks).await?.into_iter().sum();
    Ok((f64::from(records), start.elapsed()))
}
