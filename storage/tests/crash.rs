//! The oracle of FAULTS.md, with the power cut, or the process killed, at every operation of a workload.

mod support;

use std::path::Path;

use aqueduct_storage::sim::{OpKind, SimDisk};
use aqueduct_storage::{Durability, PartitionLog};
use support::model::{Action, Ended, Model, prove_usable};
use support::{ID, append, log_dir, open, small_options};

/// Rolls three times, trims, retains, raises the epoch and reopens, with as few operations as that takes.
fn workload() -> Vec<Action> {
    vec![
        Action::Append(vec![10]),
        Action::Roll,
        Action::Append(vec![100, 1200, 600]),
        Action::Append(vec![1500]),
        Action::Append(vec![900, 20]),
        Action::RaiseEpoch,
        Action::Append(vec![2500]),
        Action::Reopen,
        Action::Append(vec![700]),
        Action::Trim(300),
        Action::Append(vec![600, 600]),
        Action::Append(vec![30]),
        Action::Append(vec![3000]),
        Action::Retain(4096),
        Action::Append(vec![40]),
        Action::Trim(1000),
        Action::Append(vec![50, 60]),
    ]
}

fn operations_in(durability: Durability, actions: &[Action]) -> u64 {
    let disk = SimDisk::new();
    let ended = Model::new(durability).run(&disk, actions);
    assert!(matches!(ended, Ended::Done(_)), "the workload itself succeeds");
    disk.operation_count()
}

/// The workload on a disk whose power goes at operation `crash_at`.
fn crashed_at(crash_at: u64, durability: Durability) -> (Model, SimDisk) {
    let disk = SimDisk::new();
    disk.crash_at(crash_at);
    let mut model = Model::new(durability);
    drop(model.run(&disk, &workload()));
    (model, disk)
}

#[test]
fn a_power_loss_at_any_operation_loses_nothing_that_was_acknowledged() {
    for durability in [Durability::Fsync, Durability::Os] {
        let operations = operations_in(durability, &workload());
        println!("{operations} operations, {durability:?}");
        for crash_at in 0..=operations {
            let (model, disk) = crashed_at(crash_at, durability);
            for seed in 0..12 {
                let context = format!("{durability:?}, power loss at operation {crash_at}, seed {seed}");
                let disk = disk.after_power_loss(seed);
                let mut model = model.clone();
                if let Some(log) = model.reopen(&disk, &context) {
                    prove_usable(&mut model, &disk, log, &context);
                }
            }
        }
    }
}

#[test]
fn a_kill_at_any_operation_loses_nothing_that_was_acknowledged() {
    for durability in [Durability::Fsync, Durability::Os] {
        for crash_at in 0..=operations_in(durability, &workload()) {
            let context = format!("{durability:?}, kill at operation {crash_at}");
            let (mut model, disk) = crashed_at(crash_at, durability);
            let disk = disk.after_kill();
            if let Some(log) = model.reopen(&disk, &context) {
                prove_usable(&mut model, &disk, log, &context);
            }
        }
    }
}

#[test]
fn what_was_read_after_a_kill_survives_a_power_loss_that_follows() {
    for crash_at in 0..=operations_in(Durability::Fsync, &workload()) {
        let (mut model, disk) = crashed_at(crash_at, Durability::Fsync);
        let disk = disk.after_kill();
        let context = format!("kill at operation {crash_at}");
        let Some(log) = model.reopen(&disk, &context) else { continue };
        drop(log);
        for seed in 0..4 {
            let context = format!("{context}, then power loss, seed {seed}");
            let disk = disk.after_power_loss(seed);
            let mut model = model.clone();
            model.created = true;
            let log = model.reopen(&disk, &context).expect("it was open before");
            prove_usable(&mut model, &disk, log, &context);
        }
    }
}

#[test]
fn a_crash_at_any_operation_of_recovery_converges_however_often() {
    let operations = operations_in(Durability::Fsync, &workload());
    for crash_at in (0..=operations).step_by(3) {
        let (model, crashed) = crashed_at(crash_at, Durability::Fsync);
        for recovery_crash_at in 0.. {
            let mut is_through = false;
            for round in 0..6 {
                let seed = crash_at * 1000 + recovery_crash_at * 10 + round;
                let disk = if round == 0 { crashed.after_power_loss(seed) } else { crashed.after_kill() };
                disk.crash_at(recovery_crash_at);
                is_through = model.open(&disk).is_ok();
                // Once more at the same place, with other losses.
                let mut next = disk.after_power_loss(seed + 1);
                next.crash_at(recovery_crash_at);
                drop(model.open(&next));
                next = if seed.is_multiple_of(2) { next.after_power_loss(seed + 2) } else { next.after_kill() };
                let context =
                    format!("crash at operation {crash_at}, then at {recovery_crash_at} of recovery, {round}");
                let mut model = model.clone();
                if let Some(log) = model.reopen(&next, &context) {
                    prove_usable(&mut model, &next, log, &context);
                }
            }
            if is_through || recovery_crash_at > 60 {
                break;
            }
        }
    }
}

/// Two batches and a roll: the last segment is empty, and nothing was saved since the log was made.
fn rolled() -> (SimDisk, i64) {
    let disk = SimDisk::new();
    disk.shared().create_dir(&log_dir()).expect("a directory");
    disk.shared().sync_dir(Path::new("/")).expect("synced");
    let mut log = PartitionLog::create(disk.shared(), &log_dir(), ID, small_options()).expect("create");
    append(&mut log, &[100]).expect("append");
    append(&mut log, &[200]).expect("append");
    log.roll().expect("rolled");
    (disk, log.last_append_time_us().expect("appended to"))
}

#[test]
fn the_last_append_time_outlives_a_kill_or_a_power_loss_behind_a_roll() {
    let (disk, last_us) = rolled();
    let power_losses = (0..8).map(|seed| (format!("power loss, seed {seed}"), disk.after_power_loss(seed)));
    for (context, disk) in power_losses.chain([("kill".to_owned(), disk.after_kill())]) {
        for state in ["kept", "lost"] {
            let disk = disk.after_kill();
            if state == "lost" {
                disk.shared().remove_file(&log_dir().join("partition.state")).expect("removed");
            }
            let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
            assert_eq!(report.log_end, 4, "{context}, state {state}");
            assert_eq!(log.last_append_time_us(), Some(last_us), "{context}, state {state}");
        }
    }
}

#[test]
fn the_last_append_time_outlives_a_last_segment_that_holds_nothing() {
    for content in [Vec::new(), vec![0; 64]] {
        let (disk, last_us) = rolled();
        let disk = disk.after_kill();
        disk.overwrite(&log_dir().join("00000000000000000004.log"), &content).expect("a torn header");
        let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
        assert_eq!((report.log_end, log.last_append_time_us()), (4, Some(last_us)));
    }
}

#[test]
fn a_last_segment_that_holds_nothing_goes_when_the_rest_is_there_to_stay() {
    let (disk, _) = rolled();
    let disk = disk.after_kill();
    let path = log_dir().join("00000000000000000004.log");
    disk.overwrite(&path, &[]).expect("without a header");
    drop(open(&disk.shared(), &log_dir()).expect("open"));
    let done = disk.operations();
    let removed = done.iter().position(|done| done.op == OpKind::Remove && done.path == path).expect("removed");
    let (before, after) = done.split_at(removed);
    assert!(before.iter().any(|done| done.op == OpKind::SyncDir), "{before:?}");
    assert!(after.iter().all(|done| matches!(done.op, OpKind::Remove | OpKind::List)), "it goes last: {after:?}");
}

#[test]
fn the_last_append_time_is_that_of_the_batches_where_a_trailer_is_missing() {
    let (disk, last_us) = rolled();
    let disk = disk.after_kill();
    let path = log_dir().join("00000000000000000000.log");
    let mut superseded = disk.contents(&path).expect("a segment");
    superseded.truncate(superseded.len() - 64);
    disk.overwrite(&path, &superseded).expect("without its trailer");
    let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
    assert_eq!((report.log_end, report.damage.len()), (4, 0));
    assert_eq!(log.last_append_time_us(), Some(last_us));
}
