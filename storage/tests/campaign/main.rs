//! The campaign on the simulated disk: a whole data directory beside a model of what it must hold.
//!
//! Several topics come and go, their partitions roll, are trimmed and retained, a journal keeps committed offsets, small
//! files are replaced; and the power goes, the process is killed, syncs fail, the disk is full, errors come from anywhere,
//! also during recovery, and files are damaged. After each recovery the oracle of FAULTS.md is asked about every log.
//!
//! - [`world`] is a process on a disk, and what happens to it.
//! - [`known`] is what must be found: the oracle.
//! - [`workload`] says what is done and what goes wrong; [`damage`] harms what is durable.
//! - [`seeds`] runs many seeds, [`coverage`] demands that they have met what they are for.

#[path = "../support/mod.rs"]
mod support;

mod coverage;
mod damage;
mod known;
mod seeds;
mod workload;
mod world;

use workload::{live_through, short};
use world::{End, World};

/// A world after the short workload, whose power went at operation `crash_at` of it.
fn crashed_at(crash_at: u64) -> World {
    let mut world = World::new(format!("crash at operation {crash_at}"));
    world.disk.crash_at(crash_at);
    drop(world.start().and_then(|()| short().iter().try_for_each(|step| world.perform(step))));
    world
}

fn operations_of_the_short_workload() -> u64 {
    crashed_at(u64::MAX).disk.operation_count()
}

fn ends() -> impl Iterator<Item = End> {
    std::iter::once(End::Kill).chain((0..5).map(End::PowerLoss))
}

#[test]
fn a_crash_at_any_operation_of_a_short_workload_keeps_the_whole_directory() {
    let operations = operations_of_the_short_workload();
    println!("{operations} operations");
    for crash_at in 0..=operations {
        let crashed = crashed_at(crash_at);
        for end in ends() {
            let mut world = crashed.ended(end);
            world.start().expect("nothing hinders it");
            world.prove_usable();
        }
    }
}

#[test]
fn a_crash_at_any_operation_of_recovery_converges_to_the_same_directory() {
    for crash_at in (0..=operations_of_the_short_workload()).step_by(7) {
        let crashed = crashed_at(crash_at);
        for recovery_crash_at in 0.. {
            let end = if crash_at.is_multiple_of(2) { End::Kill } else { End::PowerLoss(crash_at) };
            let mut world = crashed.ended(end);
            world.disk.crash_at(recovery_crash_at);
            let is_through = world.start().is_ok();
            // And once more at the same place.
            let mut world = world.ended(End::PowerLoss(recovery_crash_at));
            world.disk.crash_at(recovery_crash_at);
            drop(world.start());
            for end in [End::Kill, End::PowerLoss(recovery_crash_at + 1)] {
                let mut world = world.ended(end);
                world.start().expect("nothing hinders it");
                world.prove_usable();
            }
            if is_through {
                break;
            }
        }
    }
}

#[test]
fn random_lives_of_a_directory_keep_what_was_acknowledged() {
    seeds::run(live_through);
}
