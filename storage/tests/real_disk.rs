//! The log on the operating system's file system.

mod support;

use std::sync::Arc;

use aqueduct_storage::{Disk, LastStop, LogOptions, OpenError, PartitionLog, RealDisk};
use support::{ID, append, assert_same, open, read_all, small_options};

fn real_disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk::new())
}

#[test]
fn what_is_appended_is_read_back_from_memory_from_disk_and_after_reopening() {
    for tail_cache_bytes in [0, 1 << 20] {
        let temp = tempfile::tempdir().expect("temp");
        let dir = temp.path().join("log");
        let disk = real_disk();
        let options = LogOptions { tail_cache_bytes, ..small_options() };
        let mut log = PartitionLog::create(disk.clone(), &dir, ID, options).expect("create");
        let mut appended = Vec::new();
        for round in 0..40 {
            appended.extend(append(&mut log, &[100, 0, 300 + round]).expect("append"));
        }
        let reader = log.reader();
        assert!(reader.segment_count() > 3, "the test rolls");
        assert_same(&read_all(&reader), &appended, "while open");
        log.close().expect("close");

        let (mut log, report) = open(&disk, &dir).expect("open");
        assert_eq!((report.stop, report.scanned_bytes), (LastStop::Clean, 0));
        assert_same(&read_all(&log.reader()), &appended, "after a clean stop");
        appended.extend(append(&mut log, &[10]).expect("append"));
        let epoch = log.epoch();
        drop(log);

        let (log, report) = open(&disk, &dir).expect("open");
        assert_eq!((report.stop, report.damage.as_slice()), (LastStop::Unclean, [].as_slice()));
        assert_eq!(log.epoch(), epoch + 1);
        assert_same(&read_all(&log.reader()), &appended, "after a kill");
    }
}

#[test]
fn a_log_is_created_once_and_opened_only_where_it_is() {
    let temp = tempfile::tempdir().expect("temp");
    let dir = temp.path().join("log");
    assert!(matches!(open(&real_disk(), &dir), Err(OpenError::Missing { .. })));
    drop(PartitionLog::create(real_disk(), &dir, ID, small_options()).expect("create"));
    let again = PartitionLog::create(real_disk(), &dir, ID, small_options());
    assert!(matches!(again, Err(OpenError::AlreadyExists { .. })));
    let other = aqueduct_storage::LogId([0; 16]);
    let as_other = PartitionLog::open(real_disk(), &dir, other, small_options(), 0);
    assert!(matches!(as_other, Err(OpenError::WrongLog { .. })));
}

#[test]
fn a_group_larger_than_one_vectored_call_is_appended_whole() {
    let temp = tempfile::tempdir().expect("temp");
    let dir = temp.path().join("log");
    let options = LogOptions { checkpoint_bytes: 1 << 30, ..LogOptions::default() };
    let mut log = PartitionLog::create(real_disk(), &dir, ID, options).expect("create");
    let sizes: Vec<usize> = (0..3000).map(|i| i % 50).collect();
    let appended = append(&mut log, &sizes).expect("append");
    drop(log);
    let (log, report) = open(&real_disk(), &dir).expect("open");
    assert!(report.rewritten_bytes > 0, "the last group is not proven and is written again");
    assert_same(&read_all(&log.reader()), &appended, "after a kill");
}
