//! What is done in the data directory, and what goes wrong with it.

use std::io::ErrorKind;

use aqueduct_storage::sim::{Fault, Injection, SimDisk, SyncLoss};
use aqueduct_storage::{Cleanup, Durability};
use fastrand::Rng;

use crate::coverage::Met;
use crate::damage;
use crate::support::model::{Action, Pass};
use crate::world::{End, Step, World};

const TOPICS: [&str; 3] = ["orders", "Orders", "audit"];
const FILES: [&str; 2] = ["producer-names.state", "broker.id"];
const GROUPS: u8 = 2;

/// Something of everything, in as few operations as that takes.
pub(crate) fn short() -> Vec<Step> {
    let log = |pick, action| Step::Log { pick, action };
    let (durability, cleanup) = (Durability::Fsync, Cleanup::Delete);
    vec![
        Step::CreateTopic { name: "orders", partitions: 2, durability, cleanup },
        log(0, Action::Append(vec![10, 300])),
        Step::SaveFile { name: "broker.id", bytes: 10 },
        log(1, Action::Overlap(vec![1200], vec![900, 30])),
        Step::Commit { group: 0, pick: 0, permille: 500 },
        Step::CreateTopic { name: "Orders", partitions: 1, durability, cleanup },
        log(0, Action::Append(vec![2500])),
        log(1, Action::Append(vec![2500])),
        Step::SaveProducers { pick: 1, bytes: 600 },
        Step::Commit { group: 0, pick: 0, permille: 1000 },
        Step::Commit { group: 1, pick: 1, permille: 900 },
        log(0, Action::Append(vec![3000])),
        Step::AlterTopic { name: "orders", retention_bytes: 5000 },
        log(0, Action::Append(vec![3500, 10])),
        log(0, Action::Retain(4096)),
        log(1, Action::RaiseEpoch),
        Step::Snapshot,
        log(1, Action::Trim(400)),
        Step::DeleteTopic { name: "Orders" },
        log(0, Action::Reopen),
        Step::CreateTopic { name: "Orders", partitions: 1, durability, cleanup },
        log(0, Action::Append(vec![40])),
        log(1, Action::Append(vec![50])),
        Step::SaveFile { name: "broker.id", bytes: 700 },
        Step::Commit { group: 1, pick: 1, permille: 1000 },
        log(1, Action::Trim(1000)),
        log(1, Action::Append(vec![60])),
        Step::CreateTopic { name: "audit", partitions: 1, durability, cleanup: Cleanup::Compact },
        log(1, Action::Append(vec![2500, 900])),
        log(1, Action::Append(vec![2500])),
        log(1, Action::Append(vec![2800])),
        log(1, Action::Compact(Pass { keys_max: 100, later_us: 100, meanwhile: vec![Action::Append(vec![300])] })),
        log(1, Action::Append(vec![3000])),
        log(1, Action::Compact(Pass { keys_max: 100, later_us: 100, meanwhile: Vec::new() })),
    ]
}

/// Which kind of seed it is: what is acknowledged from the page cache does not survive a failed sync, so such topics meet
/// only crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Climate {
    Faults,
    CrashesOnly,
}

/// Some lives of one data directory, each ended by a kill, a power loss or a clean stop, somewhere.
pub(crate) fn live_through(seed: u64) -> Met {
    let mut rng = Rng::with_seed(seed);
    let climate = if rng.u32(..4) == 0 { Climate::CrashesOnly } else { Climate::Faults };
    let mut world = World::new(format!("seed {seed}"));
    for life in 0..rng.usize(3..6) {
        world.context = format!("seed {seed}, life {life}");
        start(&mut world, climate, &mut rng);
        if climate == Climate::Faults {
            let faults = rng.usize(..3);
            (0..faults).for_each(|_| inject(&world.disk, 150, &mut rng));
        }
        if rng.u32(..3) > 0 {
            world.disk.crash_at(world.disk.operation_count() + rng.u64(..250));
        }
        if life == 0 {
            drop(world.perform(&create_topic(TOPICS[0], climate, &mut rng)));
        }
        for _ in 0..rng.usize(10..50) {
            if world.disk.is_off() || world.perform(&random_step(climate, &mut rng)).is_err() {
                break;
            }
        }
        world.end(random_end(&mut rng));
    }
    world.context = format!("seed {seed}, at the end");
    world.start().expect("nothing hinders it");
    world.prove_usable();
    damage::harm_a_batch(&mut world, &mut rng);
    world.met
}

/// Starts a process, after some that did not get through.
fn start(world: &mut World, climate: Climate, rng: &mut Rng) {
    damage::spoil_an_index(world, rng);
    while rng.u32(..4) == 0 {
        if climate == Climate::Faults && rng.bool() {
            inject(&world.disk, 60, rng);
        }
        world.disk.crash_at(rng.u64(..80));
        if world.start().is_ok() {
            world.disk.clear_injections();
            world.disk.crash_at(u64::MAX);
            return;
        }
        world.met.crashes_in_recovery += 1;
        world.end(if rng.bool() { End::Kill } else { End::PowerLoss(rng.u64(..)) });
    }
    world.start().expect("nothing hinders it");
}

fn random_end(rng: &mut Rng) -> End {
    match rng.u32(..8) {
        0 => End::Clean,
        1..4 => End::Kill,
        _ => End::PowerLoss(rng.u64(..)),
    }
}

fn inject(disk: &SimDisk, after_max: u64, rng: &mut Rng) {
    let loss = if rng.bool() { SyncLoss::Dropped } else { SyncLoss::CachedOnly };
    let fault = match rng.u32(..8) {
        0 | 1 => Fault::Error(ErrorKind::Other),
        2 => Fault::Error(ErrorKind::StorageFull),
        3 => Fault::Error(ErrorKind::Interrupted),
        4 => Fault::ShortWrite,
        5 | 6 => Fault::SyncFails(loss),
        _ => Fault::SyncFindsDiskFull(loss),
    };
    let op = match fault {
        Fault::SyncFails(_) if rng.u32(..4) == 0 => Some(aqueduct_storage::sim::OpKind::SyncDir),
        Fault::SyncFails(_) | Fault::SyncFindsDiskFull(_) => Some(aqueduct_storage::sim::OpKind::SyncData),
        Fault::ShortWrite => Some(aqueduct_storage::sim::OpKind::Write),
        Fault::Error(_) | Fault::PowerLoss | Fault::Misdirected(_) | Fault::Panic => None,
    };
    // Of a kind there are fewer than of all together.
    let after_max = if op.is_some() { after_max / 5 } else { after_max };
    disk.inject(Injection { op, path_contains: String::new(), after: rng.u64(..after_max), fault });
}

fn create_topic(name: &'static str, climate: Climate, rng: &mut Rng) -> Step {
    let durability = match climate {
        Climate::CrashesOnly if rng.bool() => Durability::Os,
        Climate::CrashesOnly | Climate::Faults => Durability::Fsync,
    };
    let cleanup = match durability {
        Durability::Fsync if rng.bool() => Cleanup::Compact,
        Durability::Fsync | Durability::Os => Cleanup::Delete,
    };
    Step::CreateTopic { name, partitions: rng.u32(1..4), durability, cleanup }
}

fn random_step(climate: Climate, rng: &mut Rng) -> Step {
    let name = TOPICS[rng.usize(..TOPICS.len())];
    let pick = rng.usize(..12);
    match rng.u32(..100) {
        0..6 => create_topic(name, climate, rng),
        6..8 => Step::AlterTopic { name, retention_bytes: rng.u64(..) >> 20 },
        8..10 => Step::DeleteTopic { name },
        10..72 => Step::Log { pick, action: random_action(rng) },
        72..84 => Step::Commit { group: rng.u8(..GROUPS), pick, permille: rng.u64(..=1000) },
        84..86 => Step::Snapshot,
        86 => Step::Journal(if rng.bool() { Action::Reopen } else { Action::RaiseEpoch }),
        87..89 => Step::SaveFile { name: FILES[rng.usize(..FILES.len())], bytes: rng.usize(..1500) },
        89..91 => Step::SaveProducers { pick, bytes: rng.usize(..1500) },
        91..96 => Step::HealAll,
        96..98 => Step::FillDisk { room: rng.u64(..3000) },
        _ => Step::FreeDisk,
    }
}

fn random_action(rng: &mut Rng) -> Action {
    match rng.u32(..100) {
        0..62 => Action::Append(random_sizes(rng)),
        62..72 => Action::Overlap(random_sizes(rng), random_sizes(rng)),
        72..77 => Action::Trim(rng.u64(..=1000)),
        77..85 => Action::Retain(rng.u64(..12_000)),
        85..87 => Action::RaiseEpoch,
        87..90 => Action::Reopen,
        90..93 => Action::Heal,
        93 => Action::Roll,
        _ => Action::Compact(random_pass(rng)),
    }
}

/// With few keys in memory, segments are split; meanwhile the log grows, rolls, is trimmed, fails and recovers.
fn random_pass(rng: &mut Rng) -> Pass {
    let keys_max = if rng.u32(..4) == 0 { rng.usize(1..6) } else { 1000 };
    let meanwhile = |rng: &mut Rng| match rng.u32(..6) {
        0 => Action::Trim(rng.u64(..=600)),
        1 => Action::Retain(rng.u64(..20_000)),
        2 => Action::Heal,
        _ => Action::Append(random_sizes(rng)),
    };
    let meanwhile = (0..rng.usize(..3)).map(|_| meanwhile(rng)).collect();
    Pass { keys_max, later_us: rng.i64(0..60), meanwhile }
}

fn random_sizes(rng: &mut Rng) -> Vec<usize> {
    let size = |rng: &mut Rng| if rng.u32(..6) == 0 { rng.usize(..5000) } else { rng.usize(..400) };
    (0..rng.usize(1..5)).map(|_| size(rng)).collect()
}
