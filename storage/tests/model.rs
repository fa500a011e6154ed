//! Long random workloads beside a model: appends, rolls, trims, retention, failures, kills and power losses.

mod support;

use std::io::ErrorKind;

use aqueduct_storage::Durability;
use aqueduct_storage::sim::{Fault, Injection, SimDisk, SyncLoss};
use fastrand::Rng;
use support::model::{Action, Ended, Model, Pass};

fn random_action(rng: &mut Rng) -> Action {
    match rng.u32(..100) {
        0..70 => {
            let batches = rng.usize(1..6);
            Action::Append(
                (0..batches).map(|_| if rng.u32(..8) == 0 { rng.usize(..6000) } else { rng.usize(..400) }).collect(),
            )
        }
        70..78 => Action::Trim(rng.u64(..=1000)),
        78..84 => Action::Retain(rng.u64(..20_000)),
        84..88 => Action::RaiseEpoch,
        88..92 => Action::Reopen,
        92..95 => Action::Roll,
        _ => Action::Heal,
    }
}

/// Compactions, in the middle of which other things happen, and less that takes away what they could work on.
fn random_action_with_compactions(rng: &mut Rng) -> Action {
    match rng.u32(..100) {
        0..12 => {
            let keys_max = if rng.u32(..4) == 0 { rng.usize(1..6) } else { 1000 };
            let mut meanwhile: Vec<Action> = (0..rng.usize(..4)).map(|_| random_action(rng)).collect();
            // Whoever closes a log ends its compaction first.
            meanwhile.retain(|action| !matches!(action, Action::Reopen));
            Action::Compact(Pass { keys_max, later_us: rng.i64(0..60), meanwhile })
        }
        12..30 => random_action(rng),
        _ => Action::Append((0..rng.usize(1..4)).map(|_| rng.usize(..1200)).collect()),
    }
}

fn random_fault(rng: &mut Rng) -> Fault {
    let loss = if rng.bool() { SyncLoss::Dropped } else { SyncLoss::CachedOnly };
    match rng.u32(..6) {
        0 => Fault::Error(ErrorKind::Other),
        1 => Fault::Error(ErrorKind::StorageFull),
        2 => Fault::Error(ErrorKind::Interrupted),
        3 => Fault::ShortWrite,
        4 => Fault::SyncFails(loss),
        _ => Fault::SyncFindsDiskFull(loss),
    }
}

/// Some lives of one log, each ended by a kill or a power loss somewhere; what the log was at the end.
fn live_through(seed: u64, mut model: Model, random_action: fn(&mut Rng) -> Action, operations_max: u64) -> Model {
    let durability = model.durability;
    let mut rng = Rng::with_seed(seed);
    let mut disk = SimDisk::new();
    let Ended::Done(log) = model.run(&disk, &[]) else { panic!("created") };
    let mut log = Some(*log);
    for life in 0..8 {
        let context = format!("seed {seed}, {durability:?}, life {life}");
        if durability == Durability::Fsync && rng.bool() {
            let after = rng.u64(..operations_max * 2 / 5);
            let fault = random_fault(&mut rng);
            let op = None;
            disk.inject(Injection { op, path_contains: String::new(), after, fault });
        }
        if rng.u32(..3) > 0 {
            disk.crash_at(disk.operation_count() + rng.u64(..operations_max));
        }
        let actions: Vec<Action> = (0..rng.usize(1..40)).map(|_| random_action(&mut rng)).collect();
        let running = log.take().expect("open");
        drop(model.go_on(&disk, running, &actions));
        disk.clear_injections();
        disk = if rng.bool() { disk.after_kill() } else { disk.after_power_loss(rng.u64(..)) };
        log = model.reopen(&disk, &context);
    }
    model
}

#[test]
fn a_log_that_lives_through_random_failures_holds_what_its_model_holds() {
    for seed in 0..200 {
        live_through(seed, Model::new(Durability::Fsync), random_action, 200);
    }
}

#[test]
fn a_log_that_acknowledges_from_the_page_cache_recovers_to_a_prefix() {
    for seed in 0..100 {
        live_through(seed, Model::new(Durability::Os), random_action, 200);
    }
}

#[test]
fn a_log_that_is_compacted_through_random_failures_keeps_the_latest_of_every_key() {
    let mut files_installed = 0;
    for seed in 0..300 {
        let model = Model::new(Durability::Fsync).compacted();
        files_installed += live_through(seed, model, random_action_with_compactions, 500).files_installed;
    }
    assert!(files_installed > 1000, "{files_installed} files were put in place");
}
