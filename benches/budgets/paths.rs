//! The hot paths, each with fixed inputs: seeded, on one thread, without a clock or a random hash in the counted part.

use std::{hint::black_box, sync::Arc};

use anyhow::{Context as _, ensure};
use aqueduct::hot_paths;
use aqueduct_client::{Codec, Record, codec};
use aqueduct_storage::{
    Batch, BatchHeader, Durability, LogId, LogOptions, LogReader, Offset, PartitionLog, RealDisk, payload_crc,
};
use bytes::Bytes;
use tempfile::TempDir;

use crate::callgrind::measured_part;

/// Enough for what happens now and then (a checkpoint, a growing buffer) to be counted in proportion.
const ITERATIONS: u32 = 100;
const RECORDS: u32 = 1000;
const VALUE_BYTES: usize = 100;
/// Batches that one append takes together under load.
const GROUP: usize = 16;
const PARTITIONS: u32 = 1000;
const MEMBERS: u64 = 10;

/// What has a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    Encode,
    Decode,
    DecodeOwned,
    Check,
    AppendOne,
    AppendGroup,
    ReadCache,
    ReadFile,
    Assign,
}

impl Path {
    pub(crate) const ALL: [Self; 9] = [
        Self::Encode,
        Self::Decode,
        Self::DecodeOwned,
        Self::Check,
        Self::AppendOne,
        Self::AppendGroup,
        Self::ReadCache,
        Self::ReadFile,
        Self::Assign,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::DecodeOwned => "decode-owned",
            Self::Check => "check",
            Self::AppendOne => "append-one",
            Self::AppendGroup => "append-group",
            Self::ReadCache => "read-cache",
            Self::ReadFile => "read-file",
            Self::Assign => "assign",
        }
    }

    /// What its figure is for.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Encode => "record of 100 B, client: into a batch with its checksum",
            Self::Decode => "record of 100 B, client: views of a batch, checksum verified",
            Self::DecodeOwned => "record of 100 B, client: events of their own",
            Self::Check => "record of 100 B, broker: a batch on arrival",
            Self::AppendOne => "append of one batch of one record",
            Self::AppendGroup => "append of 16 batches of 1000 records",
            Self::ReadCache => "batch of 1000 records, from memory",
            Self::ReadFile => "batch of 1000 records, from the file, checksum verified",
            Self::Assign => "member that joins or leaves a group with 1000 partitions",
        }
    }

    /// How many of its units [`run`](Self::run) does.
    pub(crate) fn units(self) -> f64 {
        let iterations = f64::from(ITERATIONS);
        match self {
            Self::Encode | Self::Decode | Self::DecodeOwned | Self::Check => iterations * f64::from(RECORDS),
            Self::AppendOne | Self::AppendGroup | Self::ReadCache | Self::ReadFile => iterations,
            Self::Assign => 2.0 * (MEMBERS as f64),
        }
    }

    /// Does its work.
    ///
    /// # Errors
    /// If the work does not give what it must: a wrong result is not fast.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Encode => encode(),
            Self::Decode => decode(|batch| {
                batch.records().filter(|record| record.as_ref().is_ok_and(|r| touch(r.key, r.value))).count()
            }),
            Self::DecodeOwned => decode(|batch| {
                batch.events().filter(|event| event.as_ref().is_ok_and(|e| touch(e.key(), e.value()))).count()
            }),
            Self::Check => check(),
            Self::AppendOne => append(1, 1),
            Self::AppendGroup => append(GROUP, RECORDS),
            Self::ReadCache => read(LogOptions { tail_cache_bytes: 64 << 20, ..options() }),
            Self::ReadFile => read(LogOptions { tail_cache_bytes: 0, ..options() }),
            Self::Assign => assign(),
        }
    }
}

fn records(count: u32) -> Vec<Record> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut value = || std::iter::repeat_with(|| random.u8(..)).take(VALUE_BYTES).collect::<Vec<u8>>();
    (0..count).map(|number| Record::new(value()).key(format!("customer-{:04}", number % 100))).collect()
}

/// The first byte of each: user code that reads more pays for it itself.
fn touch(key: Option<&[u8]>, value: Option<&[u8]>) -> bool {
    let first = |bytes: Option<&[u8]>| bytes.and_then(<[u8]>::first).copied();
    black_box(first(key)).is_some() && black_box(first(value)).is_some()
}

fn encode() -> anyhow::Result<()> {
    let records = records(RECORDS);
    for _ in 0..ITERATIONS {
        let mut batch = None;
        measured_part(&mut || batch = codec::encode_batch(black_box(&records), Codec::None).ok());
        ensure!(batch.is_some_and(|batch| batch.record_count == RECORDS), "not encoded");
    }
    Ok(())
}

fn decode(visit: fn(codec::EventBatch) -> usize) -> anyhow::Result<()> {
    let encoded = codec::encode_batch(&records(RECORDS), Codec::None)?;
    let topic: Arc<str> = "orders".into();
    for _ in 0..ITERATIONS {
        let mut incoming = Some(encoded.clone());
        let mut touched = 0;
        measured_part(&mut || {
            let batch = incoming.take().and_then(|batch| codec::decode_batch(&topic, 0, batch).ok());
            touched = batch.map_or(0, visit);
        });
        ensure!(touched == RECORDS as usize, "{touched} records decoded");
    }
    Ok(())
}

/// As it is stored: `count` records from `base_offset` on.
fn batch(payload: &Bytes, count: u32, base_offset: Offset, time_us: i64) -> Batch {
    let header = BatchHeader {
        base_offset,
        record_count: count,
        payload_crc: payload_crc(payload),
        append_time_us: time_us,
        max_timestamp_us: time_us,
        epoch: 1,
        ..BatchHeader::default()
    };
    Batch { header, payload: payload.clone() }
}

fn check() -> anyhow::Result<()> {
    let arriving = batch(&codec::encode_record_set(&records(RECORDS)), RECORDS, 0, 0);
    for _ in 0..ITERATIONS {
        let mut incoming = Some(arriving.clone());
        let mut checked = None;
        measured_part(&mut || checked = incoming.take().and_then(hot_paths::check_batch));
        ensure!(checked.is_some(), "the batch is refused");
    }
    Ok(())
}

/// The kernel is not counted, so a real disk repeats; without syncs, which would only take time.
fn options() -> LogOptions {
    LogOptions { durability: Durability::Os, ..LogOptions::default() }
}

/// A log in a directory that is removed at the end.
struct Log {
    log: PartitionLog,
    _directory: TempDir,
}

impl Log {
    fn create(options: LogOptions) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("log");
        let log = PartitionLog::create(Arc::new(RealDisk::new()), &path, LogId(*b"0123456789abcdef"), options)?;
        Ok(Self { log, _directory: directory })
    }

    /// Batches that follow the end of the log.
    fn group(&self, payload: &Bytes, batches: usize, count: u32) -> Vec<Batch> {
        let mut offset = self.log.log_end();
        let time_us = self.log.last_append_time_us().unwrap_or(0) + 1;
        let next = || {
            let made = batch(payload, count, offset, time_us);
            offset = made.header.next_offset();
            made
        };
        std::iter::repeat_with(next).take(batches).collect()
    }
}

fn append(batches: usize, count: u32) -> anyhow::Result<()> {
    let payload = codec::encode_record_set(&records(count));
    let mut log = Log::create(options())?;
    for _ in 0..ITERATIONS {
        let group = log.group(&payload, batches, count);
        let mut outcome = Ok(());
        measured_part(&mut || outcome = log.log.append_group(black_box(&group)));
        outcome?;
    }
    Ok(())
}

fn read(options: LogOptions) -> anyhow::Result<()> {
    let payload = codec::encode_record_set(&records(RECORDS));
    let mut log = Log::create(options)?;
    for _ in 0..ITERATIONS {
        let group = log.group(&payload, 1, RECORDS);
        log.log.append_group(&group)?;
    }
    let reader: LogReader = log.log.reader();
    let (mut from, mut batches) = (0, 0);
    while from < reader.window().high_watermark {
        let mut found = Ok(Vec::new());
        measured_part(&mut || found = reader.read(black_box(from), 256 << 10));
        let found = found?;
        from = found.last().context("nothing is read below the high watermark")?.header.next_offset();
        batches += found.len();
    }
    ensure!(batches == ITERATIONS as usize, "{batches} batches read");
    Ok(())
}

/// Members join one by one and leave in the same order, so that partitions move every time.
fn assign() -> anyhow::Result<()> {
    let mut roster = hot_paths::Roster::default();
    let mut steps = 0;
    for member in 0..MEMBERS {
        measured_part(&mut || steps += roster.join(member, PARTITIONS));
    }
    for member in 0..MEMBERS {
        measured_part(&mut || steps += roster.leave(member));
    }
    ensure!(steps > PARTITIONS as usize, "only {steps} steps");
    Ok(())
}
