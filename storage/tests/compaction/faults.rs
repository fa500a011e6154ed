//! A disk that refuses one operation of a compaction, any of them.

use std::io::ErrorKind;

use aqueduct_storage::PartitionLog;
use aqueduct_storage::sim::{Fault, Injection, OpKind, SimDisk, SyncLoss};

use crate::world::{World, create, open};

/// A log on which the next compaction merges.
fn prepared() -> (SimDisk, World, PartitionLog) {
    let disk = SimDisk::new();
    let (mut world, mut log) = (World::default(), create(&disk));
    for value in 0..48 {
        if value == 24 {
            world.compact(&mut log).expect("compacted");
        }
        append(&mut world, &mut log, value);
    }
    (disk, world, log)
}

fn append(world: &mut World, log: &mut PartitionLog, value: usize) {
    let line = format!("k{}={value}{}", value % 3, "-".repeat(300));
    assert!(world.append(log, &[&line]), "appends go on");
}

/// With one operation refused, the log holds what it must: at once, after a recovery in the process, compacted again, and
/// after a power loss. Gives whether the fault was met.
fn survives(injection: Injection, context: &str) -> bool {
    let (disk, mut world, mut log) = prepared();
    disk.inject(injection);
    let outcome = world.compact(&mut log);
    let is_met = !disk.faults_met().is_empty();
    disk.clear_injections();
    world.check(&log, context);
    if log.is_failed() {
        assert!(outcome.is_err(), "{context}: whoever compacts is told");
        log.recover_from_failure().unwrap_or_else(|error| panic!("{context}: {error}"));
    }
    for value in 0..4 {
        append(&mut world, &mut log, value);
    }
    world.check(&log, &format!("{context}, gone on"));
    for seed in 0..3 {
        let disk = disk.after_power_loss(seed);
        let context = format!("{context}, power loss {seed}");
        let log = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        world.clone().check(&log, &context);
    }
    world.compact(&mut log).unwrap_or_else(|error| panic!("{context}: {error}"));
    world.check(&log, &format!("{context}, compacted again"));
    log.close().unwrap_or_else(|error| panic!("{context}: {error}"));
    let log = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    world.check(&log, &format!("{context}, reopened"));
    is_met
}

#[test]
fn an_operation_that_fails_costs_nothing_but_the_compaction() {
    let faults = [
        (None, Fault::Error(ErrorKind::Other)),
        (None, Fault::Error(ErrorKind::StorageFull)),
        (Some(OpKind::SyncData), Fault::SyncFails(SyncLoss::Dropped)),
        (Some(OpKind::SyncData), Fault::SyncFails(SyncLoss::CachedOnly)),
        (Some(OpKind::SyncDir), Fault::SyncFails(SyncLoss::Dropped)),
        (Some(OpKind::SyncDir), Fault::SyncFails(SyncLoss::CachedOnly)),
    ];
    for (op, fault) in faults {
        let mut met = 0;
        while survives(
            Injection { op, path_contains: String::new(), after: met, fault },
            &format!("{op:?} {met} meets {fault:?}"),
        ) {
            met += 1;
        }
        assert!(met > 2, "{fault:?} was met {met} times");
    }
}
