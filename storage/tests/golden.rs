//! The bytes of FORMAT.md: what is written today is what was written when the golden files were made, and those are read.
//!
//! After a deliberate change of the format, `AQUEDUCT_WRITE_GOLDEN=1 cargo test -p aqueduct-storage --test golden`
//! writes the directory of the new version; the old ones stay, and stay readable.

mod support;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aqueduct_storage::sim::SimDisk;
use aqueduct_storage::{
    Audience, Batch, BatchHeader, Codec, DataDir, Durability, Finding, LastStop, LogId, PartitionLog, ProducerSequence,
    RepairMode, TopicMeta, payload_crc, repair_log, verify_log,
};
use bytes::Bytes;
use support::{ID, assert_same, read_all, small_options};

const FILES: [&str; 8] = [
    "FORMAT",
    "topics/orders/topic.toml",
    "topics/orders/0/00000000000000000000.log",
    "topics/orders/0/00000000000000000000.index",
    "topics/orders/0/00000000000000000011.log",
    "topics/orders/0/00000000000000000011.index",
    "topics/orders/0/00000000000000000013.log",
    "topics/orders/0/partition.state",
];

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(file)
}

fn batches() -> Vec<Batch> {
    let make = |base_offset: u64, record_count: u32, payload: Vec<u8>| {
        let header = BatchHeader {
            base_offset,
            record_count,
            payload_crc: payload_crc(&payload),
            append_time_us: 1_700_000_000_000_000 + i64::try_from(base_offset).expect("small"),
            max_timestamp_us: 1_600_000_000_000_000,
            epoch: 1,
            ..BatchHeader::default()
        };
        Batch { header, payload: Bytes::from(payload) }
    };
    let mut full = make(3, 3, b"compacted".to_vec());
    full.header.codec = Codec::Zstd;
    full.header.offset_span = 8;
    full.header.offset_deltas = vec![0, 3, 7];
    full.header.attributes = 1 << 16;
    full.header.producer = Some(ProducerSequence { id: *b"producer 16 byte", epoch: 2, sequence: 77 });
    full.header.key_hashes = vec![1, 2, u32::MAX];
    let mut lz4 = make(11, 2, vec![7; 4000]);
    lz4.header.codec = Codec::Lz4;
    vec![make(0, 3, b"hello".to_vec()), full, lz4, make(13, 1, Vec::new())]
}

fn topic() -> TopicMeta {
    TopicMeta {
        name: "orders".into(),
        id: *b"topic id 16 byte",
        partitions: 1,
        retention_bytes: Some(1 << 30),
        retention_age: Some(Duration::from_secs(3600)),
        durability: Durability::Fsync,
        segment_bytes: Some(4096),
        owner: Some("shop".into()),
        created_us: 1_700_000_000_000_000,
        settings: [("backlog".to_owned(), "none".to_owned())].into(),
        ..TopicMeta::default()
    }
}

fn write() -> SimDisk {
    let disk = SimDisk::new();
    let dir = DataDir::open(disk.shared(), Path::new("/data")).expect("open");
    dir.create_topic(&topic()).expect("create");
    let log_dir = dir.partition_dir("orders", 0).expect("known");
    let mut log = PartitionLog::create(disk.shared(), &log_dir, ID, small_options()).expect("create");
    for batch in batches() {
        log.append_group(std::slice::from_ref(&batch)).expect("append");
    }
    log.close().expect("close");
    disk
}

#[test]
fn what_is_written_is_what_was_written() {
    let disk = write();
    let is_making = std::env::var_os("AQUEDUCT_WRITE_GOLDEN").is_some();
    for file in FILES {
        let written = disk.contents(&Path::new("/data").join(file)).expect(file);
        if is_making {
            std::fs::create_dir_all(golden(file).parent().expect("has one")).expect("directory");
            std::fs::write(golden(file), &written).expect("write");
        }
        let known = std::fs::read(golden(file)).expect(file);
        assert!(written == known, "{file} differs: the format has changed");
    }
}

/// The golden directory on a disk.
fn golden_disk() -> SimDisk {
    let disk = SimDisk::new();
    let shared = disk.shared();
    for dir in ["/data", "/data/topics", "/data/topics/orders", "/data/topics/orders/0"] {
        shared.create_dir(Path::new(dir)).expect("directory");
    }
    for file in FILES {
        let path = Path::new("/data").join(file);
        shared.create(&path).expect("create");
        disk.overwrite(&path, &std::fs::read(golden(file)).expect(file)).expect("overwrite");
    }
    disk
}

/// Whether there is anything to say of a log.
#[derive(Default)]
struct Heard(Vec<Finding>);

impl Audience for Heard {
    fn found(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    fn read(&mut self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

#[test]
fn a_repair_writes_what_it_wrote() {
    const REPAIRED: [&str; 3] =
        ["00000000000000000000.log", "00000000000000000000.index", "00000000000000000000.log.damaged-64"];
    let disk = golden_disk();
    let log_dir = Path::new("/data/topics/orders/0");
    disk.flip_bit(&log_dir.join("00000000000000000000.log"), 64 + 75, 0).expect("flip");
    let mode = RepairMode::Repair { now_us: 0 };
    repair_log(&disk.shared(), log_dir, ID, mode, &mut |_| {}).expect("repaired");
    let is_making = std::env::var_os("AQUEDUCT_WRITE_GOLDEN").is_some();
    for file in REPAIRED {
        let written = disk.contents(&log_dir.join(file)).expect(file);
        let path = golden("../v1-repaired").join(file);
        if is_making {
            std::fs::create_dir_all(path.parent().expect("has one")).expect("directory");
            std::fs::write(&path, &written).expect("write");
        }
        let known = std::fs::read(&path).expect(file);
        assert!(written == known, "{file} differs: the format has changed");
    }
}

#[test]
fn the_golden_directory_is_readable() {
    let disk = golden_disk();
    let mut heard = Heard::default();
    verify_log(&disk.shared(), Path::new("/data/topics/orders/0"), ID, &mut heard).expect("verified");
    assert_eq!(heard.0, [], "and there is nothing to say of it");
    let dir = DataDir::open(disk.shared(), Path::new("/data")).expect("open");
    assert_eq!(dir.topics(), [topic()]);
    let log_dir = dir.partition_dir("orders", 0).expect("known");
    let (log, report) = PartitionLog::open(disk.shared(), &log_dir, ID, small_options(), 0).expect("open");
    assert_eq!(report.stop, LastStop::Clean);
    assert_same(&read_all(&log.reader()), &batches(), "golden");
    assert!(PartitionLog::open(disk.shared(), &log_dir, LogId([0; 16]), small_options(), 0).is_err());
}
