//! Memory of the broker: idle, and with publishers that are faster than the disk.
//!
//! The disk is slowed down from outside, by a tracer that delays each sync; where there is no `strace`, only the idle
//! broker is measured.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use aqueduct_client::{Client, Record};
use aqueduct_tests::{BrokerProcess, resident_anonymous_bytes};
use bytes::Bytes;
use futures_util::future::join_all;

use crate::report::figure;

const MIB: f64 = 1024.0 * 1024.0;

/// A group has at most 16 MiB, so syncs that take 16 s are a disk of 1 MB/s.
const SYNC_DELAY: Duration = Duration::from_secs(16);

pub(crate) async fn measure(publishers: usize, load: Duration) -> anyhow::Result<()> {
    let broker = BrokerProcess::start();
    broker.client().await.info().await?;
    let idle = resident_anonymous_bytes(broker.pid());
    figure("memory: idle broker, anonymous", idle as f64 / MIB, "MiB");

    let client = broker.client().await;
    client.topics().create("slow").partitions(8).build().await?;
    let Some(tracer) = slow_down(broker.pid()) else {
        println!("strace is not installed: memory with a slow disk is not measured");
        return Ok(());
    };
    let deadline = Instant::now() + load;
    let url = broker.url();
    let publishing = join_all((0..publishers).map(|_| publish(&url, deadline)));
    let watching = watch(&broker, deadline);
    let (_, peak) = tokio::join!(tokio::time::timeout(load, publishing), watching);
    figure("memory: held publishers, anonymous, peak", peak as f64 / MIB, "MiB");
    figure("memory: above idle", (peak.saturating_sub(idle)) as f64 / MIB, "MiB");
    drop(tracer);
    Ok(())
}

/// Publishes as fast as it is let, on a connection of its own.
async fn publish(url: &str, deadline: Instant) -> anyhow::Result<()> {
    let client = Client::connect(url).await?;
    let producer = client.producer("slow").build().await?;
    let value = Bytes::from(vec![7; 1000]);
    while Instant::now() < deadline {
        drop(producer.enqueue_all((0..100).map(|_| Record::new(value.clone()))).await?);
    }
    Ok(())
}

async fn watch(broker: &BrokerProcess, deadline: Instant) -> u64 {
    let mut peak = 0;
    while Instant::now() < deadline {
        peak = peak.max(resident_anonymous_bytes(broker.pid()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    peak
}

/// Ends the tracer when it is dropped.
struct Tracer(std::process::Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn slow_down(pid: u32) -> Option<Tracer> {
    let delay = format!("inject=fdatasync:delay_enter={}", SYNC_DELAY.as_micros());
    Command::new("strace")
        .args(["-f", "-q", "-e", "trace=fdatasync", "-e", &delay, "-o", "/dev/null", "-p", &pid.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
        .map(Tracer)
}
