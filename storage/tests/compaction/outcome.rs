//! What a compaction that is not interrupted leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use aqueduct_storage::sim::SimDisk;
use aqueduct_storage::{Batch, CompactionError, CompactionPolicy, Installed, Offset, PartitionLog, Urgency};

use crate::support::lines::{Line, Lines, lines_of};
use crate::support::{read_all, read_from};
use crate::world::{Pass, SECOND_US, World, create, open, policy};

/// `key=value` with a value of about 300 bytes.
fn entry(key: &str, value: usize) -> String {
    format!("{key}={value}{}", "-".repeat(300))
}

fn append_each(world: &mut World, log: &mut PartitionLog, lines: &[String]) {
    for line in lines {
        assert!(world.append(log, &[line]));
    }
}

/// Three keys, again and again, over several segments.
fn filled(batches: usize) -> (SimDisk, World, PartitionLog) {
    let disk = SimDisk::new();
    let (mut world, mut log) = (World::default(), create(&disk));
    let lines: Vec<String> = (0..batches).map(|value| entry(&format!("k{}", value % 3), value)).collect();
    append_each(&mut world, &mut log, &lines);
    (disk, world, log)
}

/// Base offset of the last segment, which is never compacted.
fn active_base(disk: &SimDisk) -> Offset {
    let names = disk.shared().list(&crate::support::log_dir()).expect("listed");
    names.iter().filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok()).max().expect("a segment")
}

fn keys_below(found: &[Line], end: Offset) -> Vec<&str> {
    found.iter().filter(|line| line.offset < end).filter_map(|line| line.key.as_deref()).collect()
}

#[test]
fn each_key_is_left_once_below_the_active_segment_and_offsets_do_not_change() {
    let (disk, mut world, mut log) = filled(60);
    let active = active_base(&disk);
    let pass = world.compact(&mut log).expect("compacted");
    assert!(pass.records_removed > 30, "{pass:?}");
    let found = world.check(&log, "compacted");
    let mut keys = keys_below(&found, active);
    keys.sort_unstable();
    assert_eq!(keys, ["k0", "k1", "k2"]);
    assert_eq!(found.iter().filter(|line| line.offset >= active).count() as u64, 60 - active, "all of the active one");
    World::verify(&disk, "compacted");
    assert_eq!(world.compact(&mut log).expect("nothing to do"), Pass::default());
    log.close().expect("closed");
    let log = open(&disk).expect("reopened");
    assert_eq!(world.check(&log, "reopened"), found);
}

#[test]
fn small_segments_are_merged_and_their_number_does_not_grow() {
    let (_disk, mut world, mut log) = filled(60);
    for round in 0..10 {
        world.compact(&mut log).expect("compacted");
        let lines: Vec<String> = (0..40).map(|value| entry(&format!("k{}", value % 3), value)).collect();
        append_each(&mut world, &mut log, &lines);
        // No producer sends any of that again.
        world.now_us += 3600 * SECOND_US;
        world.compact(&mut log).expect("compacted");
        world.check(&log, &format!("round {round}"));
        assert!(log.reader().segment_count() <= 8, "{} segments in round {round}", log.reader().segment_count());
    }
}

#[test]
fn more_keys_than_memory_are_compacted_part_by_part() {
    let disk = SimDisk::new();
    let (mut world, mut log) = (World::default(), create(&disk));
    let lines: Vec<String> = (0..120).map(|value| entry(&format!("k{}", value % 30), value)).collect();
    append_each(&mut world, &mut log, &lines);
    let active = active_base(&disk);
    let mut passes = 0;
    loop {
        let few = CompactionPolicy { keys_max: 7, ..policy(world.now_us) };
        if world.compact_with(&mut log, few).expect("compacted") == Pass::default() {
            break;
        }
        passes += 1;
        world.check(&log, &format!("pass {passes}"));
        World::verify(&disk, &format!("pass {passes}"));
        assert!(passes < 200, "it comes to an end");
    }
    assert!(passes > 3, "{passes}");
    let found = world.check(&log, "at the end");
    let keys = keys_below(&found, active);
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{keys:?}");
}

#[test]
fn a_tombstone_stays_for_its_time_and_takes_what_is_older_with_it() {
    let disk = SimDisk::new();
    let (mut world, mut log) = (World::default(), create(&disk));
    append_each(&mut world, &mut log, &[entry("gone", 1), "gone".to_owned(), entry("kept", 1)]);
    let fill: Vec<String> = (0..30).map(|value| entry("other", value)).collect();
    append_each(&mut world, &mut log, &fill);
    world.compact(&mut log).expect("compacted");
    let found = world.check(&log, "young");
    let gone: Vec<&Line> = found.iter().filter(|line| line.key.as_deref() == Some("gone")).collect();
    assert_eq!(gone.iter().map(|line| (line.offset, &line.value)).collect::<Vec<_>>(), [(1, &None)]);

    world.now_us += 2000 * SECOND_US;
    append_each(&mut world, &mut log, &fill);
    world.compact(&mut log).expect("compacted");
    let found = world.check(&log, "old");
    assert!(found.iter().all(|line| line.key.as_deref() != Some("gone")), "{found:?}");
    assert!(found.iter().any(|line| line.key.as_deref() == Some("kept")));
}

#[test]
fn what_is_younger_than_the_lag_is_left_alone() {
    let (_disk, mut world, mut log) = filled(60);
    let lag = Duration::from_secs(30);
    let before = world.check(&log, "before");
    world.compact_with(&mut log, CompactionPolicy { min_lag: lag, ..policy(world.now_us) }).expect("compacted");
    let found = world.check(&log, "after");
    let is_young = |line: &&Line| line.append_time_us > world.now_us - 30 * SECOND_US;
    let young = |lines: &[Line]| lines.iter().filter(is_young).cloned().collect::<Vec<_>>();
    assert_eq!(young(&found), young(&before));
    assert!(found.len() < before.len());
}

#[test]
fn a_pass_waits_until_enough_is_new() {
    let (_disk, mut world, mut log) = filled(60);
    let due = |new_bytes_min| Urgency::Due { new_percent_min: 50, new_bytes_min };
    let with = |world: &World, urgency| CompactionPolicy { urgency, ..policy(world.now_us) };
    let rare = with(&world, due(1 << 30));
    assert_eq!(world.compact_with(&mut log, rare).expect("not due"), Pass::default());
    let often = with(&world, due(1));
    assert!(world.compact_with(&mut log, often.clone()).expect("due").files > 0);
    assert_eq!(world.compact_with(&mut log, often).expect("not due again"), Pass::default());
}

#[test]
fn a_quiet_log_does_not_keep_for_ever_what_is_superseded_in_its_active_segment() {
    let (disk, mut world, mut log) = filled(6);
    assert_eq!(log.reader().segment_count(), 1, "all of it is active");
    let hour = Duration::from_secs(3600);
    let patient = |world: &World, urgency| CompactionPolicy { active_age_max: hour, urgency, ..policy(world.now_us) };
    let due = Urgency::Due { new_percent_min: 50, new_bytes_min: 1 };
    let is_due = |log: &PartitionLog, policy: &CompactionPolicy| log.reader().is_roll_due(policy).expect("readable");
    assert!(!is_due(&log, &patient(&world, due)), "it is young");
    world.now_us += 3600 * SECOND_US;
    assert!(is_due(&log, &patient(&world, due)), "its first record is an hour old");
    log.roll().expect("sealed");
    assert!(!is_due(&log, &patient(&world, Urgency::Now)), "nothing is in the active segment");
    log.roll().expect("nothing to seal");
    world.compact_with(&mut log, patient(&world, due)).expect("compacted");
    let mut keys: Vec<String> = world.check(&log, "quiet").into_iter().filter_map(|line| line.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["k0", "k1", "k2"]);

    append_each(&mut world, &mut log, &["k0=".to_owned()]);
    world.now_us += 2 * 3600 * SECOND_US;
    assert!(!is_due(&log, &patient(&world, due)), "it is next to nothing of what is kept");
    assert!(is_due(&log, &patient(&world, Urgency::Now)));
    World::verify(&disk, "rolled");
    log.close().expect("closed");
    world.check(&open(&disk).expect("reopened"), "reopened");
}

#[test]
fn a_reader_in_the_middle_of_a_segment_goes_on_whatever_replaces_it() {
    let (_disk, mut world, mut log) = filled(60);
    let reader = log.reader();
    let first = reader.read(0, 700).expect("read");
    let next = first.last().expect("a batch").header.next_offset();
    // A segment is looked up before it is replaced, and its file opened after.
    let stale = log.reader();
    world.compact(&mut log).expect("compacted");
    let rest = read_from(&reader, next).expect("the rest");
    let found: Vec<Offset> = rest.iter().flat_map(lines_of).map(|line| line.offset).collect();
    let expected: Vec<Offset> =
        world.check(&log, "compacted").iter().map(|line| line.offset).filter(|offset| *offset >= next).collect();
    assert_eq!(found, expected);
    for offset in 0..60 {
        let time_us = stale.append_time_at(offset).expect("read").expect("below the end");
        assert!(time_us >= (i64::try_from(offset).expect("small") + 1) * SECOND_US, "offset {offset}");
        assert!(stale.bytes_between(offset, 60).is_ok());
    }
}

#[test]
fn an_offset_is_found_by_time_although_its_neighbours_are_gone() {
    let (_disk, mut world, mut log) = filled(60);
    world.compact(&mut log).expect("compacted");
    let found = world.check(&log, "compacted");
    for second in 0..=61 {
        let time_us = second * SECOND_US;
        let wanted = found.iter().find(|line| line.append_time_us >= time_us).map(|line| line.offset);
        let start = log.reader().offset_for_time(time_us).expect("found");
        let reached = start.map(|start| found.iter().find(|line| line.offset >= start).expect("one").offset);
        assert_eq!(reached, wanted, "second {second}");
    }
}

#[test]
fn the_last_batch_of_a_producer_tells_of_it_even_when_its_records_are_gone() {
    let (_disk, mut world, mut log) = filled(60);
    let last_of = |batches: &[Batch]| {
        let producers = batches.iter().filter_map(|batch| {
            let producer = batch.header.producer?;
            Some((producer.id, (producer.sequence + u64::from(batch.header.span()), batch.header.base_offset)))
        });
        producers.collect::<BTreeMap<_, _>>()
    };
    let before = last_of(&read_all(&log.reader()));
    world.now_us += 3600 * SECOND_US;
    world.compact(&mut log).expect("compacted");
    assert_eq!(last_of(&read_all(&log.reader())), before);
}

#[test]
fn a_damaged_segment_is_named_and_nothing_is_touched() {
    let (disk, mut world, mut log) = filled(60);
    let before = world.check(&log, "before");
    let path = crate::support::log_dir().join(format!("{:020}.log", 0));
    disk.flip_bit(&path, 400, 1).expect("flipped");
    let error = world.compact(&mut log).expect_err("damaged");
    assert!(matches!(error, CompactionError::Damaged(_)), "{error}");
    disk.flip_bit(&path, 400, 1).expect("flipped back");
    assert_eq!(world.check(&log, "after"), before);
}

#[test]
fn retention_that_overtakes_a_compaction_ends_it() {
    let (_disk, mut world, mut log) = filled(60);
    let go_on = &mut |_| ControlFlow::Continue(());
    let compaction = log.reader().compact(policy(world.now_us), 4096, &Lines, go_on).expect("begun");
    let rewritten = compaction.expect("due").next(&Lines, go_on).expect("written").expect("a file");
    assert!(world.trim(&mut log, 40));
    assert_eq!(log.install(rewritten).expect("not installed"), Installed::Overtaken);
    world.check(&log, "overtaken");
}

#[test]
fn a_compaction_that_is_told_to_stop_leaves_no_file() {
    let (disk, world, log) = filled(60);
    let mut left = 20_000_u64;
    let pace = &mut |bytes: u64| {
        left = left.saturating_sub(bytes);
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let compaction = log.reader().compact(policy(world.now_us), 4096, &Lines, pace);
    let stopped = compaction.and_then(|compaction| compaction.expect("due").next(&Lines, pace).map(|_| ()));
    assert!(matches!(stopped, Err(CompactionError::Stopped)), "{stopped:?}");
    let names = disk.shared().list(&crate::support::log_dir()).expect("listed");
    assert!(names.iter().all(|entry| !entry.name.ends_with(".new")), "{names:?}");
}
