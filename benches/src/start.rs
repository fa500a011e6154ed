//! Starting with much log and many partitions, after a clean stop and after a kill.

use std::time::Instant;

use aqueduct_client::Record;
use aqueduct_tests::{BrokerProcess, Launch};
use bytes::Bytes;

use crate::report::figure;

const VALUE_BYTES: usize = 1000;
const CHUNK: usize = 1000;

pub(crate) async fn measure(log_mib: u64, partitions: u32) -> anyhow::Result<()> {
    let broker = BrokerProcess::launch(Launch::default());
    fill(&broker, log_mib, partitions).await?;

    let (status, stopped) = broker.terminate();
    anyhow::ensure!(status.success(), "the broker ended with {status}");
    let start = Instant::now();
    let broker = stopped.restart();
    figure("start after a clean stop", start.elapsed().as_secs_f64() * 1e3, "ms");

    // Something to recover in every partition.
    fill(&broker, u64::from(partitions) / 256 + 1, partitions).await?;
    let stopped = broker.kill();
    let start = Instant::now();
    let broker = stopped.restart();
    figure("start after kill -9", start.elapsed().as_secs_f64() * 1e3, "ms");
    drop(broker);
    Ok(())
}

async fn fill(broker: &BrokerProcess, log_mib: u64, partitions: u32) -> anyhow::Result<()> {
    let client = broker.client().await;
    if client.topics().describe("start").await.is_err() {
        client.topics().create("start").partitions(partitions).build().await?;
    }
    let producer = client.producer("start").build().await?;
    let value: Bytes = (0..VALUE_BYTES).map(|_| fastrand::u8(..)).collect::<Vec<u8>>().into();
    let records = (log_mib << 20) / VALUE_BYTES as u64;
    let mut key = 0_u64;
    for _ in 0..records.div_ceil(CHUNK as u64) {
        let chunk = (0..CHUNK).map(|_| {
            key += 1;
            Record::new(value.clone()).key(key.to_le_bytes().to_vec())
        });
        drop(producer.enqueue_all(chunk).await?);
    }
    producer.flush().await?;
    Ok(())
}
