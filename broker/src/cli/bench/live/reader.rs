//! Readers at the tail: what they do with a record stands for user code.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use aqueduct_client::{Client, Consumer, Subscription};
use tokio::sync::watch;

use super::{Book, due};
use crate::cli::bench::payload;
use crate::cli::bench::window::Window;

/// Reads until `stopped` closes; returns how many records came.
pub(super) async fn subscribe(
    _client: Client,
    mut subscription: Subscription,
    window: Window,
    book: Arc<Book>,
    mut stopped: watch::Receiver<()>,
) -> anyhow::Result<u64> {
    let mut read = 0;
    loop {
        let batch = tokio::select! {
            batch = subscription.next_batch() => batch,
            _ = stopped.changed() => return Ok(read),
        };
        let Some(batch) = batch else { return Ok(read) };
        let mut here = 0;
        for record in batch?.records() {
            let record = record?;
            black_box(payload::digest(&record));
            here += 1;
            if let Some(due) = due(window, record.timestamp).filter(|due| window.measures(*due)) {
                book.deliveries.lock().record(Instant::now().saturating_duration_since(due));
            }
        }
        read += here;
        book.counters.delivered.fetch_add(here, Ordering::Relaxed);
        book.progress.notify_one();
    }
}

/// Reads and acknowledges until `stopped` closes, then leaves the group; returns how many deliveries came.
pub(super) async fn consume(
    _client: Client,
    mut consumer: Consumer,
    window: Window,
    book: Arc<Book>,
    mut stopped: watch::Receiver<()>,
) -> anyhow::Result<u64> {
    let mut read = 0;
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            _ = stopped.changed() => break,
        };
        let Some(delivery) = delivery else { break };
        let delivery = delivery?;
        black_box(payload::digest_of(delivery.key(), delivery.value()));
        read += 1;
        if let Some(due) = due(window, delivery.record.timestamp).filter(|due| window.measures(*due)) {
            book.consumptions.lock().record(Instant::now().saturating_duration_since(due));
        }
        delivery.ack();
        book.counters.consumed.fetch_add(1, Ordering::Relaxed);
        book.progress.notify_one();
    }
    // Waits until every ack is durable.
    consumer.close().await?;
    Ok(read)
}
