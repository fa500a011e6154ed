//! Verification and repair, as a user meets them: on the command line, and of a broker that is running.

mod copies;
mod repair;
mod running;
mod stopped;

use std::{collections::BTreeMap, fs, path::Path, time::SystemTime};

use aqueduct_client::{Client, Record};
use aqueduct_tests::{Output, aqueduct, segments};

/// A topic with small segments, and `count` acknowledged records in batches of ten. Record `n` begins with its number.
async fn numbered(client: &Client, topic: &str, count: u64) {
    client.topics().create(topic).segment_bytes(64 * 1024).build().await.expect("a new topic");
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

/// A file as it lies there; `None` for a directory.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    content: Option<Vec<u8>>,
    modified: SystemTime,
}

/// Everything below `directory`: names, bytes and times.
fn snapshot(directory: &Path) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    collect(directory, directory, &mut found);
    found
}

fn collect(top: &Path, path: &Path, found: &mut BTreeMap<String, Entry>) {
    let metadata = fs::metadata(path).expect("an entry");
    let content = metadata.is_file().then(|| fs::read(path).expect("a file"));
    let name = path.strip_prefix(top).expect("below").display().to_string();
    found.insert(name, Entry { content, modified: metadata.modified().expect("a time") });
    if metadata.is_dir() {
        for entry in fs::read_dir(path).expect("a directory") {
            collect(top, &entry.expect("an entry").path(), found);
        }
    }
}

fn run(command: &str, data: &Path, more: &[&str]) -> Output {
    let mut args = vec![command, data.to_str().expect("a path in UTF-8")];
    args.extend(more);
    aqueduct(None, &args)
}

/// Flips a bit in the payload of a batch in the middle of segment `index` of partition 0, and returns its offsets.
fn damage_batch(data: &Path, topic: &str, index: usize) -> std::ops::Range<u64> {
    let segment = &segments::segments(data, topic, 0)[index];
    let positions = segments::batch_positions(segment);
    let batch = (positions.len() - 1) / 2;
    segments::flip(segment, positions[batch + 1] - 20);
    let first = segments::base_offset(segment) + 10 * batch as u64;
    first..first + 10
}
