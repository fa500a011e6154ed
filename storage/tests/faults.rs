//! Disks that fail without the power going: failed syncs of both kinds, full disks, short writes, errors anywhere.

mod support;

use std::io::ErrorKind;

use aqueduct_storage::sim::{Fault, Injection, OpKind, SimDisk, SyncLoss};
use aqueduct_storage::{AppendError, Durability, PartitionLog};
use support::model::{Action, Ended, Model, prove_usable};
use support::{ID, append, assert_same, log_dir, next_group, open, read_all, small_options};

fn new_log(disk: &SimDisk) -> PartitionLog {
    PartitionLog::create(disk.shared(), &log_dir(), ID, small_options()).expect("create")
}

fn once(op: OpKind, path: &str, after: u64, fault: Fault) -> Injection {
    Injection { op: Some(op), path_contains: path.to_owned(), after, fault }
}

const LOSSES: [SyncLoss; 2] = [SyncLoss::Dropped, SyncLoss::CachedOnly];

#[test]
fn a_failed_sync_makes_the_outcome_unknown_and_its_file_is_never_synced_again() {
    for loss in LOSSES {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        let acked = append(&mut log, &[100, 200]).expect("append");
        disk.inject(once(OpKind::SyncData, ".log", 0, Fault::SyncFails(loss)));
        let failed = append(&mut log, &[300]);
        assert!(matches!(failed, Err(AppendError::OutcomeUnknown(_))), "{failed:?}");
        let operations = disk.operation_count();
        assert!(matches!(append(&mut log, &[300]), Err(AppendError::Failed)));
        assert_eq!(disk.operation_count(), operations, "a failed log leaves the disk alone");
        let (epoch, end) = (log.epoch(), log.window().high_watermark);
        assert_same(&read_all(&log.reader()), &acked, "what was acknowledged is still read");

        log.recover_from_failure().expect("recover");
        assert_eq!((log.log_end(), log.epoch()), (end, epoch + 1));
        let mut expected = acked;
        expected.extend(append(&mut log, &[400]).expect("append"));
        assert_same(&read_all(&log.reader()), &expected, "after recovery in the process");
        let syncs = disk.operations().into_iter().skip(usize::try_from(operations).expect("small"));
        let again = syncs.filter(|done| done.op == OpKind::SyncData && done.path.ends_with("00000000000000000000.log"));
        assert_eq!(again.count(), 0, "{loss:?}: the failed file is not synced again");

        for seed in 0..20 {
            let after = disk.after_power_loss(seed);
            let (log, report) = open(&after.shared(), &log_dir()).expect("open");
            assert!(report.damage.is_empty(), "{loss:?}, seed {seed}: {report:?}");
            assert_same(&read_all(&log.reader()), &expected, &format!("{loss:?}, power loss, seed {seed}"));
        }
    }
}

#[test]
fn a_sync_that_fails_in_the_first_segment_is_recovered_from_under_the_same_name() {
    for loss in LOSSES {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        disk.inject(once(OpKind::SyncData, ".log", 0, Fault::SyncFails(loss)));
        assert!(append(&mut log, &[300]).is_err());
        log.recover_from_failure().expect("recover");
        let acked = append(&mut log, &[50]).expect("append");
        for seed in 0..20 {
            let (log, _) = open(&disk.after_power_loss(seed).shared(), &log_dir()).expect("open");
            assert_same(&read_all(&log.reader()), &acked, &format!("{loss:?}, seed {seed}"));
        }
    }
}

#[test]
fn a_group_written_behind_one_whose_sync_fails_leaves_nothing_in_the_way() {
    for loss in LOSSES {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        let first = log.write_group(&next_group(&log, &[3000])).expect("write");
        let second = log.write_group(&next_group(&log, &[3000])).expect("write");
        disk.inject(once(OpKind::SyncData, ".log", 0, Fault::SyncFails(loss)));
        assert!(log.publish(first.sync()).is_err());
        assert!(log.publish(second.sync()).is_err(), "it lies above a group that has failed");
        assert_eq!(log.window().high_watermark, 0);
        log.recover_from_failure().expect("recover");
        let acked = append(&mut log, &[100]).expect("append");
        for seed in 0..20 {
            let (log, report) = open(&disk.after_power_loss(seed).shared(), &log_dir()).expect("open");
            assert!(report.damage.is_empty(), "{loss:?}, seed {seed}: {report:?}");
            assert_same(&read_all(&log.reader()), &acked, &format!("{loss:?}, seed {seed}"));
        }
    }
}

#[test]
fn after_a_failed_sync_and_a_kill_what_recovery_shows_is_on_the_disk() {
    for loss in LOSSES {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        append(&mut log, &[100]).expect("append");
        disk.inject(once(OpKind::SyncData, ".log", 0, Fault::SyncFails(loss)));
        assert!(append(&mut log, &[700, 900]).is_err());
        let disk = disk.after_kill();
        let (log, _) = open(&disk.shared(), &log_dir()).expect("open");
        let shown = read_all(&log.reader());
        for seed in 0..20 {
            let (log, report) = open(&disk.after_power_loss(seed).shared(), &log_dir()).expect("open");
            assert!(report.damage.is_empty(), "{loss:?}, seed {seed}: {report:?}");
            assert_same(&read_all(&log.reader()), &shown, &format!("{loss:?}, seed {seed}"));
        }
    }
}

#[test]
fn a_full_disk_refuses_the_group_whole_and_later_appends_succeed() {
    for room in [0, 1, 63, 64, 100, 500, 1000] {
        // In a new segment, in one that has room, and in one that has not.
        for (before, group) in [(0, [1500; 2]), (1, [700; 2]), (3, [1500; 2])] {
            let disk = SimDisk::new();
            let mut log = new_log(&disk);
            let mut acked = Vec::new();
            for _ in 0..before {
                acked.extend(append(&mut log, &[900]).expect("append"));
            }
            disk.set_capacity(Some(disk.used_bytes() + room));
            let context = format!("room {room}, {before} before");
            let used_bytes = disk.used_bytes();
            for _ in 0..3 {
                let full = append(&mut log, &group);
                assert!(matches!(full, Err(AppendError::Full)), "{context}: {full:?}");
                // A segment may have been sealed to make room in the log, which takes 64 bytes and an index.
                assert!(disk.used_bytes() < used_bytes + 500, "{context}: torn bytes are cut");
                assert_same(&read_all(&log.reader()), &acked, &context);
            }
            disk.set_capacity(None);
            acked.extend(append(&mut log, &group).expect("room again"));
            assert_same(&read_all(&log.reader()), &acked, &context);
            for seed in 0..5 {
                let (log, report) = open(&disk.after_power_loss(seed).shared(), &log_dir()).expect("open");
                assert!(report.damage.is_empty(), "{context}: {report:?}");
                assert_same(&read_all(&log.reader()), &acked, &context);
            }
        }
    }
}

#[test]
fn a_group_that_a_full_disk_has_refused_does_not_come_back_after_a_power_loss() {
    // Of the group one batch fits: in a segment that has room, and in a new one.
    for sizes in [[100, 1500], [100, 4000]] {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        let acked = append(&mut log, &[900]).expect("append");
        disk.set_capacity(Some(disk.used_bytes() + 1000));
        assert!(matches!(append(&mut log, &sizes), Err(AppendError::Full)), "{sizes:?}");
        for seed in 0..50 {
            let (log, _) = open(&disk.after_power_loss(seed).shared(), &log_dir()).expect("open");
            assert_same(&read_all(&log.reader()), &acked, &format!("{sizes:?}, seed {seed}"));
        }
    }
}

#[test]
fn a_disk_that_reports_full_at_the_sync_has_failed_the_sync() {
    for loss in LOSSES {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        append(&mut log, &[100]).expect("append");
        disk.inject(once(OpKind::SyncData, ".log", 0, Fault::SyncFindsDiskFull(loss)));
        let failed = append(&mut log, &[100]);
        assert!(matches!(failed, Err(AppendError::OutcomeUnknown(_))), "{failed:?}");
        assert!(log.is_failed());
    }
}

#[test]
fn short_and_interrupted_writes_are_completed() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    for after in 0..3 {
        disk.inject(once(OpKind::Write, ".log", after, Fault::ShortWrite));
        disk.inject(once(OpKind::Write, ".log", after, Fault::Error(ErrorKind::Interrupted)));
    }
    let acked = append(&mut log, &[1000, 0, 700]).expect("append");
    assert!(disk.operations().iter().filter(|done| done.op == OpKind::Write).count() > 5);
    let (log, _) = open(&disk.after_power_loss(0).shared(), &log_dir()).expect("open");
    assert_same(&read_all(&log.reader()), &acked, "every byte arrived");
}

#[test]
fn a_directory_sync_that_fails_fences_the_log_before_the_ack() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    disk.inject(once(OpKind::SyncDir, "/log", 0, Fault::Error(ErrorKind::Other)));
    let failed = append(&mut log, &[100]);
    assert!(matches!(failed, Err(AppendError::OutcomeUnknown(_))), "{failed:?}");
    assert_eq!(log.window().high_watermark, 0, "nothing of it is visible");
}

#[test]
fn an_error_at_any_operation_leaves_a_log_that_heals_and_loses_nothing() {
    let actions: Vec<Action> = [10, 1500, 900, 2500, 300, 1200, 50, 3000, 20]
        .into_iter()
        .flat_map(|bytes| [Action::Append(vec![bytes, 5]), Action::Heal])
        .chain([Action::Trim(500), Action::Heal, Action::RaiseEpoch, Action::Heal, Action::Retain(4096), Action::Heal])
        .chain([Action::Append(vec![77]), Action::Heal, Action::Append(vec![78])])
        .collect();
    let faultless = SimDisk::new();
    drop(Model::new(Durability::Fsync).run(&faultless, &actions));
    let faults =
        [Fault::Error(ErrorKind::Other), Fault::SyncFails(SyncLoss::Dropped), Fault::SyncFails(SyncLoss::CachedOnly)];
    for at in 14..faultless.operation_count() {
        for fault in faults {
            let disk = SimDisk::new();
            disk.inject(Injection { op: None, path_contains: String::new(), after: at, fault });
            let mut model = Model::new(Durability::Fsync);
            let context = format!("{fault:?} at operation {at}");
            let Ended::Done(log) = model.run(&disk, &actions) else { panic!("{context}: the log did not heal") };
            drop(log);
            for seed in 0..3 {
                let context = format!("{context}, then power loss, seed {seed}");
                let disk = disk.after_power_loss(seed);
                let mut model = model.clone();
                let log = model.reopen(&disk, &context).expect("created");
                prove_usable(&mut model, &disk, log, &context);
            }
        }
    }
}

#[test]
fn a_group_that_breaks_a_rule_is_rejected_and_nothing_is_written() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    append(&mut log, &[10]).expect("append");
    let operations = disk.operation_count();
    let good = next_group(&log, &[10, 10]);
    let spoiled = |spoil: fn(&mut aqueduct_storage::BatchHeader)| {
        let mut group = good.clone();
        spoil(&mut group[1].header);
        group
    };
    for group in [
        spoiled(|header| header.base_offset += 1),
        spoiled(|header| header.append_time_us = 0),
        spoiled(|header| header.epoch += 1),
        spoiled(|header| header.record_count = 0),
        Vec::new(),
    ] {
        assert!(matches!(log.append_group(&group), Err(AppendError::Rejected(_))), "{group:?}");
    }
    assert_eq!(disk.operation_count(), operations);
    log.append_group(&good).expect("the log goes on");
}
