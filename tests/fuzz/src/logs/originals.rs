//! Logs as they are found on disk, one for each way in which a log was left. Inputs are changes to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use aqueduct_storage::sim::{Fault, Injection, OpKind, SimDisk, SyncLoss};
use aqueduct_storage::{Batch, BatchHeader, Disk as _, LogId, LogOptions, Offset, PartitionLog, payload_crc};
use bytes::Bytes;

/// Files of a log's directory, by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) const ID: LogId = LogId(*b"0123456789abcdef");

/// How many logs there are.
pub(crate) const COUNT: usize = 4;

pub(crate) fn log_dir() -> PathBuf {
    PathBuf::from("/log")
}

/// Small segments, so that a few batches make several.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 4096,
        index_interval_bytes: 256,
        checkpoint_bytes: 4096,
        zero_ahead_bytes: 512,
        tail_cache_bytes: 0,
        ..LogOptions::default()
    }
}

/// A batch of two records.
pub(crate) fn batch(base_offset: Offset, epoch: u32, append_time_us: i64, payload_bytes: usize) -> Batch {
    let payload: Vec<u8> = base_offset.to_le_bytes().into_iter().cycle().take(payload_bytes).collect();
    let header = BatchHeader {
        base_offset,
        record_count: 2,
        payload_crc: payload_crc(&payload),
        append_time_us,
        max_timestamp_us: append_time_us,
        epoch,
        ..BatchHeader::default()
    };
    Batch { header, payload: Bytes::from(payload) }
}

/// A disk that holds `files` as a log's directory, durably.
pub(crate) fn disk_of(files: &Files) -> SimDisk {
    let disk = SimDisk::new();
    let durable = "a disk that works";
    disk.create_dir(&log_dir()).expect(durable);
    for (name, content) in files {
        let path = log_dir().join(name);
        disk.create(&path).expect(durable);
        disk.overwrite(&path, content).expect(durable);
    }
    disk.sync_dir(&log_dir()).expect(durable);
    disk.sync_dir(Path::new("/")).expect(durable);
    disk
}

/// The files of the log on `disk`.
pub(crate) fn files_on(disk: &SimDisk) -> Files {
    let entries = disk.list(&log_dir()).expect("a directory");
    let content = |name: &str| disk.contents(&log_dir().join(name)).expect("a file");
    entries.into_iter().map(|entry| (entry.name.clone(), content(&entry.name))).collect()
}

/// The log number `which`.
pub(crate) fn original(which: usize) -> &'static Files {
    static ORIGINALS: OnceLock<[Files; COUNT]> = OnceLock::new();
    &ORIGINALS.get_or_init(|| [closed(), killed(), trimmed(), superseded()])[which % COUNT]
}

fn closed() -> Files {
    let (disk, mut log) = created();
    append(&mut log, &[10, 900, 900, 900, 900, 1500, 1500, 300, 20]);
    log.close().expect("close");
    files_on(&disk)
}

fn killed() -> Files {
    let (disk, mut log) = created();
    append(&mut log, &[10, 700, 200]);
    drop(log);
    files_on(&disk)
}

fn trimmed() -> Files {
    let (disk, mut log) = created();
    append(&mut log, &[3000, 900, 900, 900]);
    log.trim(3).expect("trim");
    log.raise_epoch().expect("raise");
    append(&mut log, &[3000, 100, 100]);
    drop(log);
    files_on(&disk)
}

fn superseded() -> Files {
    let (disk, mut log) = created();
    append(&mut log, &[100, 100]);
    disk.inject(Injection {
        op: Some(OpKind::SyncData),
        path_contains: ".log".to_owned(),
        after: 0,
        fault: Fault::SyncFails(SyncLoss::CachedOnly),
    });
    log.append_group(&[next(&log, 300)]).expect_err("the sync fails");
    log.recover_from_failure().expect("recover");
    append(&mut log, &[200, 50]);
    drop(log);
    files_on(&disk)
}

fn created() -> (SimDisk, PartitionLog) {
    let disk = SimDisk::new();
    let log = PartitionLog::create(disk.shared(), &log_dir(), ID, options()).expect("create");
    (disk, log)
}

fn append(log: &mut PartitionLog, payload_bytes: &[usize]) {
    for bytes in payload_bytes {
        log.append_group(&[next(log, *bytes)]).expect("append");
    }
}

/// Its append time is ten times its offset, so that times are easy to ask for.
fn next(log: &PartitionLog, payload_bytes: usize) -> Batch {
    let time_us = i64::try_from(log.log_end() * 10).expect("small");
    batch(log.log_end(), log.epoch(), time_us, payload_bytes)
}
