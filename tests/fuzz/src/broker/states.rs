//! The small files of a data directory, and the journal of the groups.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aqueduct::{Broker, OpenError};
use aqueduct_storage::{Batch, BatchHeader, LogId, LogOptions, PartitionLog, RealDisk, payload_crc};
use bytes::Bytes;

use super::data::{config, directory_of, original, runtime};
use crate::input::Input;

/// Longer than opening and stopping ever takes.
const PATIENCE: Duration = Duration::from_secs(60);

const FILES: [&str; 8] = [
    "topics/orders/topic.toml",
    "topics/orders/1/partition.state",
    "topics/orders/1/producers.state",
    "system/groups/partition.state",
    "system/groups.state",
    "system/producers.state",
    "system/broker.id",
    "FORMAT",
];

const JOURNAL: &str = "system/groups";

/// Which file, with what checksum, and its content; or entries of the journal.
///
/// The broker opens, or says which file hinders it. If it opens it can be asked about everything, stopped, and opened
/// again.
pub fn states(input: &[u8]) {
    let mut input = Input::new(input);
    let (Some(which), Some(checksum)) = (input.byte(), input.byte()) else { return };
    let mut tree = original().clone();
    let content = input.rest();
    let file = FILES.get(usize::from(which) % (FILES.len() + 1));
    if let Some(file) = file {
        tree.insert(PathBuf::from(file), with_checksum(content, checksum));
    }
    let directory = directory_of(&tree);
    if file.is_none() {
        append_to_journal(directory.path(), content);
    }
    runtime().block_on(open(directory.path()));
}

fn with_checksum(content: &[u8], which: u8) -> Vec<u8> {
    let crc = crc32fast::hash(content).to_le_bytes();
    match which % 3 {
        0 => content.to_vec(),
        1 => [content, &crc].concat(),
        _ => [&crc, content].concat(),
    }
}

fn append_to_journal(path: &Path, payload: &[u8]) {
    let segment = Path::new(JOURNAL).join("00000000000000000000.log");
    // The identity of the log, from the segment's header.
    let id = LogId(original()[&segment][16..32].try_into().expect("16 bytes"));
    let disk = std::sync::Arc::new(RealDisk::new());
    let (mut log, _) =
        PartitionLog::open(disk, &path.join(JOURNAL), id, LogOptions::default(), 0).expect("the journal");
    let header = BatchHeader {
        base_offset: log.log_end(),
        record_count: 1,
        payload_crc: payload_crc(payload),
        append_time_us: log.last_append_time_us().unwrap_or(0),
        epoch: log.epoch(),
        ..BatchHeader::default()
    };
    log.append_group(&[Batch { header, payload: Bytes::copy_from_slice(payload) }]).expect("appended");
    log.close().expect("closed");
}

async fn open(path: &Path) {
    match Broker::open_with(path, config()).await {
        Err(error) => assert!(says_where(&error, path), "{error}"),
        Ok(broker) => {
            ask(&broker).await;
            broker.shutdown(PATIENCE).await.expect("the disk works");
            let again = Broker::open_with(path, config()).await;
            let broker = again.unwrap_or_else(|error| panic!("it opened, was stopped, and does not open: {error}"));
            ask(&broker).await;
        }
    }
}

fn says_where(error: &OpenError, path: &Path) -> bool {
    let text = error.to_string();
    text.contains(&*path.to_string_lossy())
        || ["system/", "topic", "journal", "group state", "data of format"].iter().any(|part| text.contains(part))
}

/// Whatever it answers.
async fn ask(broker: &Broker) {
    let client = broker.client();
    for topic in client.topics().list().await.expect("a list") {
        let _ = client.topics().describe(&topic.name).await;
        let _ = client.fetch(&topic.name, 0, 0).build().await;
    }
    for group in client.groups().list().await.unwrap_or_default() {
        let _ = client.group(&group.name).describe().await;
    }
}
