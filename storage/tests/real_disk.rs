//! The log on the operating system's file system.

mod support;

use std::path::Path;
use std::sync::Arc;

use aqueduct_storage::{DataDir, Disk, LastStop, LogOptions, OpenError, PartitionLog, RealDisk, TopicMeta};
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

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("create");
    for entry in std::fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copy");
        }
    }
}

#[test]
fn a_copy_of_a_data_directory_opens_elsewhere_and_holds_the_same() {
    let temp = tempfile::tempdir().expect("temp");
    let (original, copy) = (temp.path().join("original"), temp.path().join("copy"));
    let topic = TopicMeta { name: "orders".to_owned(), id: [3; 16], partitions: 2, ..TopicMeta::default() };
    let data = DataDir::open(real_disk(), &original).expect("open");
    data.create_topic(&topic).expect("create");
    let dir = data.partition_dir("orders", 1).expect("its directory");
    let mut log = PartitionLog::create(real_disk(), &dir, ID, small_options()).expect("create");
    let batches: Vec<_> = (0..20).flat_map(|_| append(&mut log, &[700, 10]).expect("append")).collect();
    log.close().expect("close");

    // Its holder is alive, and holds the original.
    copy_folder(&original, &copy);
    let data_of_copy = DataDir::open(real_disk(), &copy).expect("open");
    assert_eq!(data_of_copy.topics(), [topic]);
    let dir = data_of_copy.partition_dir("orders", 1).expect("its directory");
    assert!(dir.starts_with(&copy));
    let (log, report) = open(&real_disk(), &dir).expect("open");
    assert_eq!((report.stop, report.damage.as_slice()), (LastStop::Clean, [].as_slice()));
    assert_same(&read_all(&log.reader()), &batches, "the copy");
    drop(data);
}
