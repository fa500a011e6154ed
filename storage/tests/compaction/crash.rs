//! The power cut, or the process killed, at every operation of a workload that compacts, splits, merges and trims.

use aqueduct_storage::sim::{OpKind, SimDisk};
use aqueduct_storage::{CompactionPolicy, PartitionLog};

use crate::world::{SECOND_US, World, create, open, policy};

/// Appends `rounds` batches over few keys, most of them over and over, some of them tombstones.
fn fill(world: &mut World, log: &mut PartitionLog, rounds: u64) -> bool {
    (0..rounds).all(|round| {
        let filler = "x".repeat(usize::try_from(60 + round % 7 * 40).expect("small"));
        // Most of what is written: segments are left with little, so that several of them become one.
        let hot = format!("hot-{}={}", round % 3, filler.repeat(4));
        let warm = format!("warm-{}={round}{filler}", round % 11);
        let once = format!("once-{}={filler}", world.keyed.len());
        let gone = format!("warm-{}", (round + 5) % 11);
        let lines: Vec<&str> = match round % 6 {
            0 => vec![&hot, &warm, &once],
            3 => vec![&hot, &gone],
            5 => vec!["=keyless"],
            1 | 2 | 4 => vec![&hot, &warm],
            _ => unreachable!("a remainder of 6"),
        };
        world.append(log, &lines)
    })
}

/// Everything that a compaction does, until the disk refuses.
fn workload(world: &mut World, mut log: PartitionLog) {
    if !fill(world, &mut log, 36) || !pass(world, &mut log, 1 << 16) {
        return;
    }
    // With few keys in memory it splits, and merges what the first has left.
    if !fill(world, &mut log, 20) || !pass(world, &mut log, 4) || !pass(world, &mut log, 4) {
        return;
    }
    if !world.trim(&mut log, 20) || !fill(world, &mut log, 14) {
        return;
    }
    if log.roll().is_err() || !pass(world, &mut log, 1 << 16) {
        return;
    }
    drop(log.close());
}

/// Compacts when no producer sends anything again; tombstones of the pass before are old by then.
fn pass(world: &mut World, log: &mut PartitionLog, keys_max: usize) -> bool {
    world.now_us += 950 * SECOND_US;
    let policy = CompactionPolicy { keys_max, ..policy(world.now_us) };
    world.compact_with(log, policy).is_ok()
}

fn run(disk: &SimDisk) -> World {
    let mut world = World::default();
    let log = create(disk);
    workload(&mut world, log);
    world
}

/// The workload on a disk whose power goes after `crash_at` operations.
fn crashed_at(crash_at: u64) -> (World, SimDisk) {
    let disk = SimDisk::new();
    let mut world = World::default();
    let log = create(&disk);
    disk.crash_at(crash_at);
    workload(&mut world, log);
    (world, disk)
}

/// Where the workload is cut short: before each operation that changes something, from the first compaction on. What a
/// crash before a read leaves, one before the next change leaves, too.
fn operations() -> Vec<u64> {
    let disk = SimDisk::new();
    let mut world = World::default();
    let mut log = create(&disk);
    assert!(fill(&mut world, &mut log, 36));
    let first = disk.operation_count();
    drop(log);
    let disk = SimDisk::new();
    let World { merges, splits, merged_max, .. } = run(&disk);
    println!("{merges} merges, of {merged_max} segments at most, {splits} splits");
    assert!(merges > 0 && splits > 0 && merged_max > 2, "{merges} merges, {splits} splits, {merged_max} at once");
    let changes = |op: OpKind| !matches!(op, OpKind::Read | OpKind::Open | OpKind::List);
    let of_interest = (0..).zip(disk.operations()).filter(|(number, done)| *number >= first && changes(done.op));
    of_interest.map(|(number, _)| number).chain([disk.operation_count()]).collect()
}

/// The log on `disk` holds what it must, as it is and after another compaction, and goes on.
fn prove_whole(mut world: World, disk: &SimDisk, context: &str) {
    let mut log = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    world.check(&log, context);
    world.compact(&mut log).unwrap_or_else(|error| panic!("{context}: {error}"));
    world.check(&log, &format!("{context}, compacted again"));
    assert!(fill(&mut world, &mut log, 3), "{context}: it goes on");
    log.close().unwrap_or_else(|error| panic!("{context}: {error}"));
    World::verify(disk, &format!("{context}, closed"));
    let log = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    world.check(&log, &format!("{context}, reopened"));
}

#[test]
fn a_power_loss_at_any_operation_keeps_the_latest_of_every_key() {
    let operations = operations();
    println!("{} operations", operations.len());
    for crash_at in operations {
        let (world, disk) = crashed_at(crash_at);
        for seed in 0..4 {
            let context = format!("power loss at operation {crash_at}, seed {seed}");
            let disk = disk.after_power_loss(seed);
            World::verify(&disk, &context);
            prove_whole(world.clone(), &disk, &context);
        }
    }
}

#[test]
fn a_kill_at_any_operation_keeps_the_latest_of_every_key() {
    for crash_at in operations() {
        let (world, disk) = crashed_at(crash_at);
        let context = format!("kill at operation {crash_at}");
        World::verify(&disk.after_kill(), &context);
        prove_whole(world.clone(), &disk.after_kill(), &context);
        let context = format!("{context}, then power loss");
        let killed = disk.after_kill();
        drop(open(&killed).unwrap_or_else(|error| panic!("{context}: {error}")));
        let disk = killed.after_power_loss(crash_at);
        World::verify(&disk, &context);
        prove_whole(world, &disk, &context);
    }
}

/// A log whose first segment is split behind a part that is trimmed already: from then on nobody reads that.
fn split_behind_what_is_trimmed(disk: &SimDisk, crash_after: u64) -> World {
    let mut world = World::default();
    let mut log = create(disk);
    let filler = "x".repeat(300);
    for key in 0..16 {
        assert!(world.append(&mut log, &[&format!("k{key}={filler}")]));
    }
    assert!(world.trim(&mut log, 6));
    disk.crash_at(disk.operation_count() + crash_after);
    let few = CompactionPolicy { keys_max: 4, ..policy(world.now_us) };
    drop(world.compact_with(&mut log, few));
    world
}

#[test]
fn what_a_split_segment_was_made_of_goes_only_when_it_is_there_to_stay() {
    for crash_after in 0.. {
        let disk = SimDisk::new();
        let world = split_behind_what_is_trimmed(&disk, crash_after);
        let killed = disk.after_kill();
        let context = format!("kill after {crash_after} operations of a compaction");
        drop(open(&killed).unwrap_or_else(|error| panic!("{context}: {error}")));
        for seed in 0..8 {
            let context = format!("{context}, then power loss, seed {seed}");
            let log = open(&killed.after_power_loss(seed)).unwrap_or_else(|error| panic!("{context}: {error}"));
            world.clone().check(&log, &context);
        }
        if !disk.is_off() {
            assert!(world.splits > 0 && crash_after > 20);
            break;
        }
    }
}
