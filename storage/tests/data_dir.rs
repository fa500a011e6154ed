//! The data directory: one owner, one format, and topics that come and go whole.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aqueduct_storage::sim::{Fault, Injection, OpKind, SimDisk};
use aqueduct_storage::{DataDir, DataDirError, Durability, PartitionLog, RealDisk, TopicMeta};
use support::{ID, append, small_options};

fn data() -> PathBuf {
    PathBuf::from("/srv/data")
}

fn topic(name: &str, id: u8) -> TopicMeta {
    TopicMeta { name: name.to_owned(), id: [id; 16], partitions: 2, ..TopicMeta::default() }
}

#[test]
fn a_directory_in_use_is_refused_with_the_pid_of_its_holder_and_freed_with_it() {
    let temp = tempfile::tempdir().expect("temp");
    let held = DataDir::open(Arc::new(RealDisk::new()), temp.path()).expect("open");
    // Another file description conflicts within one process as between two.
    let refused = DataDir::open(Arc::new(RealDisk::new()), temp.path());
    let Err(DataDirError::Locked { pid, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(pid, Some(std::process::id()));
    drop(held);
    DataDir::open(Arc::new(RealDisk::new()), temp.path()).expect("free again");
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let disk = SimDisk::new();
    drop(DataDir::open(disk.shared(), &data()).expect("open"));
    for content in ["2\n", "one", "", "0"] {
        disk.overwrite(&data().join("FORMAT"), content.as_bytes()).expect("overwrite");
        let before = disk.operations().len();
        let refused = DataDir::open(disk.shared(), &data());
        assert!(matches!(refused, Err(DataDirError::UnsupportedFormat { .. })), "{content:?}: {refused:?}");
        let only_read = |op: &OpKind| matches!(op, OpKind::Open | OpKind::Read | OpKind::List);
        assert!(disk.operations()[before..].iter().all(|done| only_read(&done.op)), "{content:?}");
    }
}

#[test]
fn topics_are_what_they_were_when_the_directory_is_opened_again() {
    let disk = SimDisk::new();
    let dir = DataDir::open(disk.shared(), &data()).expect("open");
    let mut orders = topic("orders", 1);
    dir.create_topic(&orders).expect("create");
    dir.create_topic(&topic("gone", 2)).expect("create");
    let log_dir = dir.partition_dir("gone", 0).expect("known");
    let mut log = PartitionLog::create(disk.shared(), &log_dir, ID, small_options()).expect("create");
    append(&mut log, &[10]).expect("append");
    drop(log);
    orders.retention_age = Some(Duration::from_secs(60));
    orders.durability = Durability::Os;
    dir.update_topic(&orders).expect("update");
    dir.delete_topic("gone").expect("delete");
    assert!(matches!(dir.create_topic(&orders), Err(DataDirError::TopicExists { .. })));
    assert!(matches!(dir.delete_topic("gone"), Err(DataDirError::UnknownTopic { .. })));
    dir.create_topic(&topic("gone", 3)).expect("made again");
    drop(dir);
    for seed in 0..5 {
        let dir = DataDir::open(disk.after_power_loss(seed).shared(), &data()).expect("open");
        assert_eq!(dir.topics(), [topic("gone", 3), orders.clone()]);
    }
}

#[test]
fn names_that_differ_only_in_case_or_are_long_have_folders_of_their_own() {
    let disk = SimDisk::new();
    let dir = DataDir::open(disk.shared(), &data()).expect("open");
    let long = "x".repeat(249);
    let names = ["Orders", "orders", "ORDERS", &long, "orders~billing~dlq"];
    for (id, name) in (1..).zip(names) {
        dir.create_topic(&topic(name, id)).expect("create");
    }
    let folder = |name: &str| dir.partition_dir(name, 0).expect("known").to_string_lossy().to_lowercase();
    let folders: std::collections::BTreeSet<String> = names.iter().map(|name| folder(name)).collect();
    assert_eq!(folders.len(), names.len());
    let known: Vec<String> = dir.topics().into_iter().map(|topic| topic.name).collect();
    drop(dir);
    let dir = DataDir::open(disk.shared(), &data()).expect("open");
    assert_eq!(dir.topics().into_iter().map(|topic| topic.name).collect::<Vec<_>>(), known);
    assert!(matches!(dir.create_topic(&topic("../x", 9)), Err(DataDirError::InvalidName { .. })));
}

#[test]
fn a_first_start_that_was_killed_anywhere_leaves_no_directory_above_that_a_power_loss_takes() {
    let whole = SimDisk::new();
    drop(DataDir::open(whole.shared(), &data()).expect("open"));
    for crash_at in 0..=whole.operation_count() {
        let disk = SimDisk::new();
        disk.crash_at(crash_at);
        drop(DataDir::open(disk.shared(), &data()));
        let disk = disk.after_kill();
        DataDir::open(disk.shared(), &data()).expect("open").create_topic(&topic("orders", 1)).expect("create");
        for seed in 0..20 {
            let dir = DataDir::open(disk.after_power_loss(seed).shared(), &data()).expect("open");
            assert_eq!(dir.topics(), [topic("orders", 1)], "kill at operation {crash_at}, seed {seed}");
        }
    }
}

#[test]
fn a_topic_whose_creation_or_deletion_has_failed_is_never_there_twice() {
    let sync_fails = |disk: &SimDisk, after| {
        let fault = Fault::Error(std::io::ErrorKind::Other);
        disk.inject(Injection { op: Some(OpKind::SyncDir), path_contains: "/topics".to_owned(), after, fault });
    };
    // A name that has its id in its folder.
    let (other, first, second) = (topic("Orders", 1), topic("orders", 2), topic("orders", 3));
    for fails in ["create", "delete"] {
        let disk = SimDisk::new();
        let dir = DataDir::open(disk.shared(), &data()).expect("open");
        dir.create_topic(&other).expect("create");
        if fails == "create" {
            // After that of the folder itself; and the one that would settle it at once.
            sync_fails(&disk, 1);
            sync_fails(&disk, 2);
            dir.create_topic(&first).expect_err("the sync fails");
        } else {
            dir.create_topic(&first).expect("create");
            sync_fails(&disk, 0);
            dir.delete_topic("orders").expect_err("the sync fails");
        }
        disk.clear_injections();
        assert_eq!(dir.topics(), std::slice::from_ref(&other), "{fails}");
        dir.create_topic(&second).expect("once the disk is well again");
        drop(dir);
        let dir = DataDir::open(disk.after_kill().shared(), &data()).expect("open");
        assert_eq!(dir.topics(), [other.clone(), second.clone()], "{fails}");
        for seed in 0..20 {
            let dir = DataDir::open(disk.after_power_loss(seed).shared(), &data()).expect("open");
            assert_eq!(dir.topics(), [other.clone(), second.clone()], "{fails}, seed {seed}");
        }
    }
}

/// Creates, alters and deletes topics; what was acknowledged of each step.
fn workload(disk: &SimDisk) -> (usize, Result<(), DataDirError>) {
    let mut acked = 0;
    let mut work = || -> Result<(), DataDirError> {
        let dir = DataDir::open(disk.shared(), &data())?;
        dir.create_topic(&topic("a", 1))?;
        acked = 1;
        dir.create_topic(&topic("b", 2))?;
        acked = 2;
        dir.update_topic(&TopicMeta { owner: Some("me".into()), ..topic("a", 1) })?;
        acked = 3;
        dir.delete_topic("b")?;
        acked = 4;
        dir.write_file_atomic(Path::new("system/small"), b"new")?;
        acked = 5;
        Ok(())
    };
    let ended = work();
    (acked, ended)
}

/// What the directory shows, as the number of the step that leads there.
fn steps_seen(disk: &SimDisk) -> usize {
    let dir = DataDir::open(disk.shared(), &data()).expect("a crash never makes it unreadable");
    let topics: Vec<(String, bool)> =
        dir.topics().into_iter().map(|topic| (topic.name, topic.owner.is_some())).collect();
    let shown: Vec<(&str, bool)> = topics.iter().map(|(name, owned)| (name.as_str(), *owned)).collect();
    let small = dir.read_file(Path::new("system/small")).expect("read");
    match (shown.as_slice(), small.as_deref()) {
        ([], None) => 0,
        ([("a", false)], None) => 1,
        ([("a", false), ("b", false)], None) => 2,
        ([("a", true), ("b", false)], None) => 3,
        ([("a", true)], None) => 4,
        ([("a", true)], Some(b"new")) => 5,
        other => panic!("a state that never was: {other:?}"),
    }
}

#[test]
fn a_crash_at_any_operation_leaves_each_topic_whole_or_not_at_all() {
    let whole = SimDisk::new();
    workload(&whole).1.expect("the workload itself succeeds");
    for crash_at in 0..=whole.operation_count() {
        let disk = SimDisk::new();
        disk.crash_at(crash_at);
        let (acked, _) = workload(&disk);
        for seed in 0..8 {
            let disk = if seed == 0 { disk.after_kill() } else { disk.after_power_loss(seed) };
            let seen = steps_seen(&disk);
            assert!(
                seen == acked || seen == acked + 1,
                "operation {crash_at}, seed {seed}: {acked} acked, {seen} seen"
            );
            for later_seed in 0..4 {
                let later = steps_seen(&disk.after_power_loss(later_seed));
                assert_eq!(later, seen, "operation {crash_at}, seed {seed}: what was seen is durable");
            }
            let names = disk.contents(&data().join("FORMAT")).expect("FORMAT");
            assert_eq!(names, b"1\n");
        }
    }
}
