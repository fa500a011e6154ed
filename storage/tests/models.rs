//! Interleavings of a log's writer and its readers, tried out by the scheduler `shuttle`: the code itself, on the simulated
//! disk, with a change of threads at any lock, atomic and operation of the disk. Run with `--features shuttle`.
//!
//! A failure prints the schedule that led to it; `shuttle::replay` repeats it.

mod support;

use std::sync::Arc;

use aqueduct_storage::sim::{Fault, Injection, OpKind, SimDisk, SyncLoss};
use aqueduct_storage::{Batch, LogOptions, LogReader, Offset, PartitionLog, ReadError};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use support::{ID, append, assert_same, log_dir, open, read_all, small_options};

/// Schedules that a model is tried with: some threads are held back at few points (which finds rare orders), or all take
/// turns at random.
const SCHEDULES: usize = 300;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    let again = Arc::clone(&model);
    shuttle::check_pct(move || model(), SCHEDULES, 3);
    shuttle::check_random(move || again(), SCHEDULES);
}

fn new_log(disk: &SimDisk, options: LogOptions) -> PartitionLog {
    PartitionLog::create(disk.shared(), &log_dir(), ID, options).expect("create")
}

fn cached_options() -> LogOptions {
    LogOptions { tail_cache_bytes: 1 << 20, ..small_options() }
}

/// What the reader can see now, which must be what was written there.
fn read_window(reader: &LogReader) -> Vec<Batch> {
    let seen = reader.window().high_watermark;
    let found = read_all(reader);
    assert!(found.last().map_or(0, |batch| batch.header.next_offset()) >= seen, "all that the window promised");
    found
}

#[test]
fn what_a_reader_has_seen_survives_a_power_loss_at_that_moment() {
    explore(|| {
        let disk = SimDisk::new();
        let mut log = new_log(&disk, cached_options());
        let reader = log.reader();
        let watching = thread::spawn({
            let disk = disk.clone();
            move || {
                for seed in 0..3 {
                    let seen = read_window(&reader);
                    let (log, _) = open(&disk.after_power_loss(seed).shared(), &log_dir()).expect("open");
                    let kept = read_all(&log.reader());
                    assert!(kept.len() >= seen.len(), "{} batches were seen, {} kept", seen.len(), kept.len());
                    assert_same(&kept[..seen.len()], &seen, "seen, and kept");
                }
            }
        });
        for bytes in [100, 3900, 200] {
            append(&mut log, &[bytes, 10]).expect("append");
        }
        watching.join().expect("the reader is content");
    });
}

#[test]
fn whoever_is_told_of_an_append_can_read_it() {
    for options in [small_options(), cached_options()] {
        explore(move || {
            let mut log = new_log(&SimDisk::new(), options.clone());
            let told = Arc::new(AtomicU64::new(0));
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let (reader, told) = (log.reader(), Arc::clone(&told));
                    thread::spawn(move || {
                        for _ in 0..3 {
                            let told = told.load(Ordering::SeqCst);
                            let end = read_window(&reader).last().map_or(0, |batch| batch.header.next_offset());
                            assert!(end >= told, "told of {told}, read up to {end}");
                        }
                    })
                })
                .collect();
            for bytes in [100, 3900, 200] {
                append(&mut log, &[bytes]).expect("append");
                told.store(log.window().high_watermark, Ordering::SeqCst);
            }
            readers.into_iter().for_each(|reader| reader.join().expect("the reader is content"));
        });
    }
}

#[test]
fn a_reader_goes_on_while_the_log_fails_and_is_recovered_beneath_it() {
    explore(|| {
        let disk = SimDisk::new();
        let mut log = new_log(&disk, small_options());
        let acked = append(&mut log, &[100, 200]).expect("append");
        let reader = log.reader();
        let reading = thread::spawn({
            let acked = acked.clone();
            move || {
                for _ in 0..3 {
                    let found = read_window(&reader);
                    assert_same(&found[..acked.len()], &acked, "what was acknowledged before the failure");
                    assert!(found[acked.len()..].iter().all(|batch| batch.header.epoch > 1), "{found:?}");
                }
            }
        });
        let fault = Fault::SyncFails(SyncLoss::Dropped);
        disk.inject(Injection { op: Some(OpKind::SyncData), path_contains: ".log".to_owned(), after: 0, fault });
        append(&mut log, &[300]).expect_err("the sync fails");
        log.recover_from_failure().expect("recover");
        append(&mut log, &[400]).expect("append");
        reading.join().expect("the reader is content");
    });
}

/// An answer of a reader that retention may interrupt.
fn finished_or_out_of_range<T>(answer: Result<T, ReadError>, of: &str) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(ReadError::OffsetOutOfRange { .. }) => None,
        Err(error) => panic!("{of}: {error}"),
    }
}

/// A log of four segments and its first offset in each.
fn four_segments(disk: &SimDisk) -> (PartitionLog, Vec<Batch>) {
    let mut log = new_log(disk, small_options());
    let batches = (0..4).flat_map(|_| append(&mut log, &[1500, 1500]).expect("append")).collect();
    assert_eq!(log.reader().segment_count(), 4);
    (log, batches)
}

#[test]
fn under_retention_a_reader_finishes_or_is_out_of_range() {
    explore(|| {
        let disk = SimDisk::new();
        let (mut log, batches) = four_segments(&disk);
        let reading = thread::spawn({
            let reader = log.reader();
            move || {
                let mut from = 0;
                while from < 16 {
                    match finished_or_out_of_range(reader.read(from, 2000), "read") {
                        Some(found) => {
                            let first = usize::try_from(from / 2).expect("small");
                            assert_same(&found, &batches[first..first + found.len()], "as written");
                            from += 2 * found.len() as Offset;
                        }
                        None => from = reader.window().log_start,
                    }
                }
            }
        });
        log.trim(3).expect("trim");
        log.trim(9).expect("trim");
        reading.join().expect("the reader is content");
    });
}

#[test]
fn under_retention_every_question_is_answered_or_out_of_range() {
    explore(|| {
        let disk = SimDisk::new();
        let (mut log, batches) = four_segments(&disk);
        let asking = thread::spawn({
            let reader = log.reader();
            let last_us = batches.last().expect("some").header.append_time_us;
            move || {
                finished_or_out_of_range(reader.headers(1, 3), "headers");
                finished_or_out_of_range(reader.append_time_at(5), "append time");
                finished_or_out_of_range(reader.bytes_between(2, 14), "bytes between");
                assert_eq!(reader.offset_for_time(last_us).expect("what is asked for is kept"), Some(12));
                assert!(reader.offset_for_time(0).expect("what is left").is_some());
            }
        });
        log.set_options(LogOptions { retention_bytes: Some(7000), ..small_options() });
        log.enforce_retention(0).expect("retention");
        asking.join().expect("the reader is content");
    });
}

#[test]
fn the_bytes_between_two_offsets_are_told_while_the_log_grows() {
    explore(|| {
        let mut log = new_log(&SimDisk::new(), small_options());
        append(&mut log, &[3800, 20]).expect("append");
        append(&mut log, &[20]).expect("rolls");
        let asking = thread::spawn({
            let reader = log.reader();
            move || {
                let bytes = reader.bytes_between(2, 6).expect("in the window");
                assert!(bytes <= reader.size_bytes(), "{bytes} bytes in a log of {}", reader.size_bytes());
            }
        });
        for _ in 0..2 {
            append(&mut log, &[1500]).expect("append");
        }
        asking.join().expect("the reader is content");
    });
}
