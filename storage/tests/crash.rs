//! The oracle of FAULTS.md, with the power cut, or the process killed, at every operation of a workload.

mod support;

use aqueduct_storage::Durability;
use aqueduct_storage::sim::SimDisk;
use support::model::{Action, Ended, Model, prove_usable};

/// Rolls three times, trims, retains, raises the epoch and reopens, with as few operations as that takes.
fn workload() -> Vec<Action> {
    vec![
        Action::Append(vec![10]),
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
