//! Reading a topic from its start, from the page cache.

use std::time::{Duration, Instant};

use aqueduct_client::{Record, Start};
use aqueduct_tests::BrokerProcess;
use bytes::Bytes;

use crate::{process::cpu_time, report::Report};

const CHUNK: usize = 1024;
const RECORDS_MIN: usize = 2_000_000;

pub(crate) async fn measure(report: &mut Report, load: Duration, record_bytes: usize) -> anyhow::Result<()> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("replay").build().await?;
    let producer = client.producer("replay").build().await?;
    let value: Bytes = (0..record_bytes).map(|_| fastrand::u8(..)).collect::<Vec<u8>>().into();
    let key = Bytes::from_static(b"customer-7");
    let records = if load < Duration::from_secs(2) { CHUNK } else { RECORDS_MIN.next_multiple_of(CHUNK) };
    for _ in 0..records / CHUNK {
        let chunk = (0..CHUNK).map(|_| Record::new(value.clone()).key(key.clone()));
        drop(producer.enqueue_all(chunk).await?);
    }
    producer.flush().await?;

    let cpu_before = cpu_time(broker.pid())?;
    let mut read = 0;
    let mut touched = 0_u64;
    let start = Instant::now();
    while start.elapsed() < load {
        let mut events = client.subscribe("replay").from(Start::Earliest).until_end().build().await?;
        while let Some(batch) = events.next_batch().await {
            for record in batch?.records() {
                let record = record?;
                touched = touched.wrapping_add(touch(record.key)).wrapping_add(touch(record.value));
                read += 1;
            }
        }
    }
    let elapsed = start.elapsed();
    let cpu = cpu_time(broker.pid())? - cpu_before;
    assert_ne!(touched, 0, "the records hold random bytes");
    report.figure("replay: 1 consumer", f64::from(read) / elapsed.as_secs_f64(), "records/s");
    report.figure("broker CPU per million replayed", cpu.as_secs_f64() / (f64::from(read) / 1e6), "s");
    Ok(())
}

/// Reads every byte, as user code would.
fn touch(bytes: Option<&[u8]>) -> u64 {
    bytes.unwrap_or_default().iter().fold(0, |sum, byte| sum + u64::from(*byte))
}
