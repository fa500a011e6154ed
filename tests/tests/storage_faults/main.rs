//! Disks that lie, fail and run full, under a real broker.

mod damage;
mod device;
mod failing;
mod full;
mod health;
mod panic;

use aqueduct_client::{Client, Record};

/// A topic with small segments, and `count` acknowledged records in batches of ten. Record `n` begins with its number.
async fn numbered(client: &Client, topic: &str, count: u64) {
    let made = client.topics().create(topic).segment_bytes(64 * 1024).build().await;
    made.expect("a new topic");
    let producer = client.producer(topic).batch_records_max(10).build().await.expect("a producer");
    let numbers: Vec<u64> = (0..count).collect();
    // What is written together is never split over segments: small groups make many.
    for group in numbers.chunks(30) {
        producer.publish_all(group.iter().copied().map(record)).await.expect("receipts");
    }
}

fn record(number: u64) -> Record {
    Record::new(format!("{number} {}", "x".repeat(500)))
}
