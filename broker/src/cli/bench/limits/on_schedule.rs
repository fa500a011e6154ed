//! What a log cannot do without, on the schedule of a load: what is due goes over a bare gRPC stream to a thread that writes
//! what has arrived, syncs it and says so.
//!
//! The pauses of a machine meet it as they meet the load. Measured one sync after the other, a pause is one late sync; at
//! 5,000/s it is every record that fell due meanwhile, and that is what a 99th percentile is made of.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aqueduct_client::Durability;
use aqueduct_client::proto::{Batch, PublishRequest, PublishStreamResponse, publish_request::Payload};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::Status;

use super::Percentiles;
use super::disk::{Scratch, ZEROED_BYTES};
use super::grpc::{BareServer, MESSAGE_BYTES, outcome, request_of};
use crate::cli::bench::histogram::Latencies;
use crate::cli::bench::pacer::Pacer;
use crate::cli::bench::schedule::{GRACE, Schedule};
use crate::cli::bench::window::Window;

/// Requests that may wait for the disk, or for the connection.
const REQUESTS_MAX: usize = 1024;

/// What does not count: the first connection of a thread that has just started.
const WARM_UP_PERCENT: u32 = 10;

/// What comes due.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli::bench) struct Due {
    /// Records a second.
    pub(in crate::cli::bench) rate: u32,
    pub(in crate::cli::bench) record_bytes: usize,
    /// Most records in a request.
    pub(in crate::cli::bench) batch: u64,
    pub(in crate::cli::bench) durability: Durability,
}

/// How long that took, from when a record was due.
#[derive(Debug, Clone, Copy, Serialize)]
pub(in crate::cli::bench) struct OnSchedule {
    pub(in crate::cli::bench) rate: u32,
    #[serde(flatten)]
    pub(in crate::cli::bench) latency: Percentiles,
}

/// A request that waits for the disk.
pub(super) struct Arrived {
    pub(super) request: PublishRequest,
    pub(super) answers: mpsc::Sender<Result<PublishStreamResponse, Status>>,
}

/// `None` if even that cannot keep the rate.
pub(super) async fn measure(directory: &Path, due: Due, take: Duration) -> anyhow::Result<Option<OnSchedule>> {
    let (disk, arrived) = mpsc::channel(REQUESTS_MAX);
    let file = Scratch::zeroed(directory, "on-schedule", ZEROED_BYTES)?;
    let writing = thread::spawn(move || write(&file, due.durability, arrived));
    let server = BareServer::start(Some(disk)).await?;
    let latency = carry(&server, due, take).await;
    // With it goes the last one who sends to the disk.
    drop(server);
    let written = tokio::task::spawn_blocking(|| writing.join()).await?;
    written.map_err(|_| anyhow::anyhow!("the thread that writes has panicked"))??;
    Ok(latency?.map(|latency| OnSchedule { rate: due.rate, latency }))
}

/// Publishes what is due, and listens to the answers.
async fn carry(server: &BareServer, due: Due, take: Duration) -> anyhow::Result<Option<Percentiles>> {
    let (requests, mut to_send) = mpsc::channel(REQUESTS_MAX);
    let to_send = stream::poll_fn(move |context| to_send.poll_recv(context));
    let mut answers = server.log().publish_stream(to_send).await?.into_inner();
    let schedule = Schedule::new(due.rate, 1, 0);
    // What is late goes in messages of the usual size, like that of a client.
    let batch = due.batch.min((MESSAGE_BYTES / due.record_bytes.max(1)).max(1) as u64);
    let warm_up = take * WARM_UP_PERCENT / 100;
    let window = Window::open(warm_up, take - warm_up);
    let all = schedule.due_before(window.length());
    let sending = async {
        let pacer = Pacer::new()?;
        let mut sent = 0;
        loop {
            let next = schedule.due(window.start.elapsed()).min(sent + batch).min(all);
            if next > sent {
                requests.send(request(next, due.record_bytes * usize::try_from(next - sent)?)).await?;
                sent = next;
            }
            if sent == all || Instant::now() > window.end() + GRACE {
                break;
            }
            pacer.until(window.start + schedule.due_at(sent)).await?;
        }
        drop(requests);
        anyhow::Ok(sent)
    };
    let listening = async {
        let (mut latencies, mut answered) = (Latencies::default(), 0);
        while let Some(request_id) = request_of(answers.message().await?) {
            window.note_since_due(&mut latencies, schedule, answered..request_id);
            answered = request_id;
        }
        anyhow::Ok((latencies, answered))
    };
    let (sent, (latencies, answered)) = tokio::try_join!(sending, listening)?;
    anyhow::ensure!(answered == sent, "{sent} records were sent to a bare server, and {answered} answered");
    Ok((sent == all && latencies.count() > 0).then(|| Percentiles::of(&latencies)))
}

/// Up to record number `end`, by which it is known.
fn request(end: u64, bytes: usize) -> PublishRequest {
    let batch = Batch { records: Bytes::from(vec![7; bytes]), ..Batch::default() };
    PublishRequest { request_id: end, payload: Some(Payload::Batch(batch)), ..PublishRequest::default() }
}

/// Until nobody sends any more.
fn write(file: &Scratch, durability: Durability, mut arrived: mpsc::Receiver<Arrived>) -> anyhow::Result<()> {
    let (mut group, mut bytes, mut position) = (Vec::new(), Vec::new(), 0);
    while arrived.blocking_recv_many(&mut group, REQUESTS_MAX) > 0 {
        bytes.clear();
        for Arrived { request, .. } in &group {
            if let Some(Payload::Batch(batch)) = &request.payload {
                bytes.extend_from_slice(&batch.records);
            }
        }
        // Into zeros again and again.
        position = if position + bytes.len() as u64 > ZEROED_BYTES { 0 } else { position };
        file.file.write_all_at(&bytes, position)?;
        if durability == Durability::Fsync {
            file.file.sync_data().context("cannot sync")?;
        }
        position += bytes.len() as u64;
        for Arrived { request, answers } in group.drain(..) {
            // If nobody listens any more, that is not the disk's business.
            let _ = answers.blocking_send(Ok(outcome(request.request_id)));
        }
    }
    Ok(())
}
