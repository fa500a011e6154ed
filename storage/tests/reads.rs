//! Readers: windows, times, sizes, caches, retention by age, and many partitions.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aqueduct_storage::sim::SimDisk;
use aqueduct_storage::{CacheBudget, Committer, LogId, LogOptions, PartitionLog, ReadError, RealDisk, SyncEachGroup};
use support::{
    ID, append, assert_same, batch, log_dir, next_batch, next_group, open, read_all, read_from, small_options,
};

fn new_log(disk: &SimDisk, options: LogOptions) -> PartitionLog {
    PartitionLog::create(disk.shared(), &log_dir(), ID, options).expect("create")
}

#[test]
fn a_group_is_invisible_until_it_is_published() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk, small_options());
    let reader = log.reader();
    let group = next_group(&log, &[100, 100]);
    let written = log.write_group(&group).expect("write");
    assert_eq!(reader.window().high_watermark, 0);
    assert!(matches!(reader.read(1, 1000), Err(ReadError::OffsetOutOfRange { .. })));
    assert_eq!(reader.read(0, 1000).expect("empty"), []);
    log.publish(SyncEachGroup.commit(written)).expect("publish");
    assert_same(&read_all(&reader), &group, "published");
}

#[test]
fn groups_may_be_written_while_earlier_ones_are_being_synced() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk, small_options());
    let first = next_group(&log, &[100]);
    let first_written = log.write_group(&first).expect("write");
    let second = next_group(&log, &[4000]);
    let second_written = log.write_group(&second).expect("write, into the next segment");
    log.publish(SyncEachGroup.commit(first_written)).expect("publish");
    assert_eq!(log.window().high_watermark, 2);
    log.publish(SyncEachGroup.commit(second_written)).expect("publish");
    let expected = [first, second].concat();
    assert_same(&read_all(&log.reader()), &expected, "both");
    let (log, _) = open(&disk.after_power_loss(3).shared(), &log_dir()).expect("open");
    assert_same(&read_all(&log.reader()), &expected, "after a power loss");
}

#[test]
fn a_batch_that_holds_the_offset_in_its_middle_is_returned_whole_and_reads_are_bounded() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk, small_options());
    let group = [batch(0, 5, 1, 1, 100), batch(5, 3, 1, 1, 100), batch(8, 2, 1, 1, 100)];
    log.append_group(&group).expect("append");
    let reader = log.reader();
    assert_same(&reader.read(6, 1).expect("read"), &group[1..2], "one at least");
    assert_same(&reader.read(6, 1 << 20).expect("read"), &group[1..], "all of them");
    assert_same(&reader.read(4, 350).expect("read"), &group[..2], "within the bytes");
    assert_eq!(reader.headers(6, 10).expect("headers").len(), 2);
    assert!(reader.read(10, 1).expect("at the high watermark").is_empty());
    assert!(matches!(reader.read(11, 1), Err(ReadError::OffsetOutOfRange { requested: 11, .. })));
}

#[test]
fn times_and_sizes_are_found_from_memory_and_from_disk() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk, small_options());
    let sizes = |i: u64| 100 + usize::try_from(i % 7).expect("small") * 50;
    for i in 0..60 {
        let time_us = 1_000 + 10 * i64::try_from(i).expect("small");
        log.append_group(&[batch(3 * i, 3, 1, time_us, sizes(i))]).expect("append");
    }
    log.close().expect("close");
    for seed in 0..2 {
        let disk = if seed == 0 { disk.after_kill() } else { disk.after_power_loss(seed) };
        let (mut log, _) = open(&disk.shared(), &log_dir()).expect("open");
        log.append_group(&[batch(180, 3, log.epoch(), 1_600, 100)]).expect("append");
        let reader = log.reader();
        for i in 0..=60 {
            let time_us = 1_000 + 10 * i64::try_from(i).expect("small");
            assert_eq!(reader.offset_for_time(time_us).expect("time"), Some(3 * i), "{i}");
            assert_eq!(reader.offset_for_time(time_us - 5).expect("time"), Some(3 * i), "{i}");
            assert_eq!(reader.append_time_at(3 * i + 2).expect("time"), Some(time_us));
        }
        assert_eq!(reader.offset_for_time(i64::MIN).expect("time"), Some(0));
        assert_eq!(reader.offset_for_time(1_601).expect("time"), None);
        assert_eq!(reader.append_time_at(183).expect("time"), None);
        for (from, to) in [(0, 183), (0, 3), (30, 33), (20, 150), (100, 100), (180, 183), (0, 180)] {
            let exact: u64 = (from / 3..to / 3).map(|i| 72 + sizes(i) as u64).sum();
            let estimate = reader.bytes_between(from, to).expect("bytes");
            assert!(
                estimate.abs_diff(exact) <= 1_500 + 200 * reader.segment_count() as u64,
                "[{from}, {to}): {estimate}, exactly {exact}"
            );
        }
        log.trim(50).expect("trim");
        assert_eq!(reader.offset_for_time(0).expect("time"), Some(50), "never below the log start");
        assert!(matches!(reader.read(49, 1), Err(ReadError::OffsetOutOfRange { log_start: 50, .. })));
    }
}

#[test]
fn a_reader_in_a_segment_that_retention_removes_finishes_or_is_out_of_range() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk, small_options());
    for _ in 0..8 {
        append(&mut log, &[3000]).expect("append");
    }
    let reader = log.reader();
    reader.read(1, 100).expect("read");
    log.set_options(LogOptions { retention_bytes: Some(7000), ..small_options() });
    let outcome = log.enforce_retention(0).expect("retention");
    assert_eq!((outcome.log_start, outcome.segments_removed), (10, 5));
    assert!(matches!(reader.read(1, 100), Err(ReadError::OffsetOutOfRange { log_start: 10, .. })));
    assert_eq!(read_from(&reader, 10).expect("the rest").len(), 3);
}

#[test]
fn retention_by_bytes_alone_removes_nothing_for_its_age() {
    let disk = SimDisk::new();
    let options = LogOptions { retention_age: Some(Duration::from_secs(1)), ..small_options() };
    let mut log = new_log(&disk, options.clone());
    for _ in 0..8 {
        append(&mut log, &[3000]).expect("append");
    }
    log.enforce_retention(0).expect("the age clock begins");
    disk.advance_clock(Duration::from_secs(3600));
    assert_eq!(log.enforce_retention_bytes().expect("no bytes are set").segments_removed, 0);
    log.set_options(LogOptions { retention_bytes: Some(7000), ..options });
    let outcome = log.enforce_retention_bytes().expect("retention");
    assert_eq!((outcome.log_start, outcome.segments_removed), (10, 5));
    assert_eq!(log.enforce_retention(3_600_000_000).expect("by age").log_start, log.log_end());
}

#[test]
fn what_lies_behind_a_record_tells_whether_retention_by_bytes_removes_it() {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let retention_bytes = random.u64(1..20_000);
        let mut log =
            new_log(&SimDisk::new(), LogOptions { retention_bytes: Some(retention_bytes), ..small_options() });
        let reader = log.reader();
        let mut removals = 0;
        for _ in 0..60 {
            append(&mut log, &[random.usize(1..3000)]).expect("append");
            let oldest = reader.window().log_start;
            let goes = reader.bytes_after_segment_of(oldest) >= retention_bytes;
            assert_eq!(reader.last_segment_bytes_with(oldest).is_some(), reader.segment_count() == 1, "seed {seed}");
            let outcome = log.enforce_retention(0).expect("retention");
            assert_eq!(outcome.log_start > oldest, goes, "seed {seed}");
            removals += u32::from(goes);
        }
        let newest = reader.window().high_watermark;
        assert_eq!(reader.bytes_after_segment_of(newest), 0);
        assert!(reader.last_segment_bytes_with(newest).is_some_and(|bytes| bytes <= reader.size_bytes()));
        assert!(removals > 0, "seed {seed}: this test tests nothing");
    }
}

#[test]
fn records_expire_by_time_that_passed_and_not_by_a_wall_clock_that_jumps() {
    let hour = Duration::from_secs(3600);
    let day_us = 24 * 3_600_000_000_i64;
    let aged = LogOptions { retention_age: Some(10 * hour), ..small_options() };
    let disk = SimDisk::new();
    let mut log = new_log(&disk, aged.clone());
    for _ in 0..3 {
        append(&mut log, &[3000]).expect("append");
    }
    log.enforce_retention(0).expect("first tick");
    assert_eq!(log.enforce_retention(30 * day_us).expect("a jump").segments_removed, 0);
    log.close().expect("close");
    let (mut log, _) = PartitionLog::open(disk.shared(), &log_dir(), ID, aged, 90 * day_us).expect("open");
    assert_eq!(log.enforce_retention(95 * day_us).expect("a jump across a restart").segments_removed, 0);
    // Both clocks agree on eleven hours: even the last record is too old, and the active segment makes way.
    disk.advance_clock(11 * hour);
    let outcome = log.enforce_retention(95 * day_us + 11 * 3_600_000_000).expect("retention");
    assert_eq!((outcome.log_start, log.log_end()), (6, 6), "{outcome:?}");
    let (mut log, _) = open(&disk.after_power_loss(1).shared(), &log_dir()).expect("open");
    assert_eq!(next_batch(&log, 1, 0).header.base_offset, 6, "offsets go on");
    append(&mut log, &[10]).expect("append");
}

#[test]
fn the_tail_is_read_from_memory_without_touching_the_disk() {
    let disk = SimDisk::new();
    let budget = CacheBudget::new(10_000);
    let options = LogOptions { tail_cache_bytes: 2000, cache_budget: Some(budget.clone()), ..small_options() };
    let mut log = new_log(&disk, options);
    let mut appended = Vec::new();
    for _ in 0..20 {
        appended.extend(append(&mut log, &[300]).expect("append"));
    }
    let operations = disk.operation_count();
    let reader = log.reader();
    let cached = reader.read_cached(36, 1 << 20).expect("in range").expect("cached");
    assert_same(&cached, &appended[18..], "the tail");
    assert_eq!(cached[0].header.durable_offset, 36, "as on disk");
    assert!(reader.read_cached(0, 100).expect("in range").is_none());
    assert_eq!(reader.read_cached(40, 100).expect("in range"), Some(Vec::new()));
    assert_eq!(disk.operation_count(), operations);
    assert!(budget.used_bytes() > 0 && budget.used_bytes() <= 2000);
    drop((log, reader));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn hundreds_of_partitions_open_at_once_and_hold_no_descriptors_while_idle() {
    let temp = tempfile::tempdir().expect("temp");
    let disk = RealDisk::new();
    let disk: Arc<dyn aqueduct_storage::Disk> = Arc::new(disk);
    let dir = |i: usize| temp.path().join(i.to_string());
    let id = |i: usize| LogId(u128::try_from(i).expect("fits").to_le_bytes());
    let options = LogOptions { durability: aqueduct_storage::Durability::Os, ..LogOptions::default() };
    for i in 0..200 {
        let mut log = PartitionLog::create(disk.clone(), &dir(i), id(i), options.clone()).expect("create");
        append(&mut log, &[1000; 16]).expect("append");
        if i % 2 == 0 {
            log.close().expect("close");
        }
    }
    let open_files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = open_files();
    let begun = Instant::now();
    let open = |i| PartitionLog::open(disk.clone(), &dir(i), id(i), options.clone(), 0).expect("open");
    let logs: Vec<_> = (0..200).map(open).collect();
    let took = begun.elapsed();
    println!("opened in {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(open_files() < before + 50, "no descriptor for each partition");
    assert!(logs.iter().all(|(log, report)| log.log_end() == 32 && report.damage.is_empty()));
}
