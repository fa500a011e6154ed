//! Repair: what is damaged is kept aside and given up by name, the rest stays as it was, whenever the power goes.

mod support;

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use aqueduct_storage::sim::{OpKind, SimDisk};
use aqueduct_storage::{
    Audience, Batch, Fact, Finding, Offset, PartitionLog, ReadError, RepairAction, RepairMode, RepairStep, repair_log,
    verify_log,
};
use support::{ID, append, log_dir, open, plain, small_options};

const DO: RepairMode = RepairMode::Repair { now_us: 0 };

struct Heard(Vec<Finding>);

impl Audience for Heard {
    fn found(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    fn read(&mut self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

fn findings(disk: &SimDisk) -> Vec<Finding> {
    let mut heard = Heard(Vec::new());
    verify_log(&disk.shared(), &log_dir(), ID, &mut heard).expect("the disk is well");
    heard.0
}

fn damage(disk: &SimDisk) -> Vec<Finding> {
    findings(disk).into_iter().filter(Finding::is_damage).collect()
}

fn repair(disk: &SimDisk, mode: RepairMode) -> Vec<RepairStep> {
    let mut steps = Vec::new();
    repair_log(&disk.shared(), &log_dir(), ID, mode, &mut |step| steps.push(step.clone())).expect("the disk is well");
    steps
}

fn file(name: &str) -> PathBuf {
    log_dir().join(name)
}

fn contents(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let entries = disk.shared().list(&log_dir()).expect("the directory");
    let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), disk.contents(&file(&name)).expect("a file"))).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    Closed,
    Killed,
}

fn written(left: Left) -> (SimDisk, Vec<Batch>) {
    let disk = SimDisk::new();
    let mut log = PartitionLog::create(disk.shared(), &log_dir(), ID, small_options()).expect("create");
    let sizes = [700, 1600, 900, 1000, 900, 300, 3000, 900, 2500, 40, 80];
    let batches = sizes.iter().flat_map(|bytes| append(&mut log, &[*bytes]).expect("append")).collect();
    match left {
        Left::Closed => log.close().expect("close"),
        Left::Killed => drop(log),
    }
    (disk, batches)
}

/// Everything that can be read, and the offsets that are lost; nothing may be damaged.
fn read_around_losses(log: &PartitionLog) -> (Vec<Batch>, BTreeSet<Offset>) {
    let (mut found, mut lost) = (Vec::new(), BTreeSet::new());
    let reader = log.reader();
    let mut from = log.window().log_start;
    while from < log.window().high_watermark {
        match reader.read(from, 900) {
            Ok(batches) => {
                from = batches.last().expect("below the high watermark").header.next_offset();
                found.extend(batches);
            }
            Err(ReadError::Lost { from: first, to }) => {
                assert!(first <= from && to > from);
                lost.extend(from..to);
                from = to;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (found, lost)
}

/// After a repair: no damage, `lost` is named, all else is as it was and the log goes on behind it.
fn check_repaired(disk: &SimDisk, batches: &[Batch], lost: &BTreeSet<Offset>, context: &str) {
    let left = damage(disk);
    assert!(left.is_empty(), "{context}: {left:?}");
    let (mut log, report) = open(&disk.shared(), &log_dir()).expect("open");
    assert!(report.damage.is_empty(), "{context}: {report:?}");
    let end = batches.last().expect("some").header.next_offset();
    assert_eq!(log.log_end(), end, "{context}: no offset is renumbered");
    let (found, named) = read_around_losses(&log);
    assert_eq!(&named, lost, "{context}");
    let intact: Vec<Batch> =
        batches.iter().filter(|batch| !lost.contains(&batch.header.base_offset)).map(plain).collect();
    assert!(found.iter().map(plain).eq(intact), "{context}: what was intact is as it was");
    let time = log.reader().offset_for_time(1).expect("lookups by time go through");
    assert!(time.is_some(), "{context}");
    let more = append(&mut log, &[50, 60]).expect("append");
    assert_eq!(more[0].header.base_offset, end, "{context}");
    log.close().expect("close");
    assert!(damage(disk).is_empty(), "{context}: after more appends");
}

/// The damaged bytes are in some side file.
fn is_kept(disk: &SimDisk, bytes: &[u8]) -> bool {
    contents(disk)
        .iter()
        .filter(|(name, _)| name.contains(".damaged-"))
        .any(|(_, content)| content.windows(bytes.len()).any(|window| window == bytes))
}

fn part(content: &[u8], bytes: Range<u64>) -> &[u8] {
    let at = |position: u64| usize::try_from(position).expect("small");
    &content[at(bytes.start)..at(bytes.end)]
}

fn position(batches: &[Batch], at: usize) -> u64 {
    64 + batches[..at].iter().map(Batch::stored_bytes).sum::<u64>()
}

#[test]
fn a_flipped_bit_anywhere_costs_what_it_hit_and_nothing_else() {
    for left in [Left::Closed, Left::Killed] {
        let (disk, batches) = written(left);
        for (name, content) in contents(&disk) {
            for byte in (0..content.len()).step_by(41) {
                let disk = disk.after_kill();
                disk.flip_bit(&file(&name), byte as u64, 1).expect("flip");
                let damaged = disk.contents(&file(&name)).expect("content");
                let found = damage(&disk);
                let lost: BTreeSet<Offset> =
                    found.iter().filter_map(|finding| finding.offsets.clone()).flatten().collect();
                let context = format!("{left:?}, {name} at byte {byte}: {found:?}");
                let steps = repair(&disk, DO);
                assert_eq!(steps.is_empty(), found.is_empty(), "{context}: {steps:?}");
                for bytes in found
                    .iter()
                    .filter(|finding| name.ends_with(".log") && finding.is_damage())
                    .filter_map(|finding| finding.bytes.clone())
                {
                    assert!(is_kept(&disk, part(&damaged, bytes)), "{context}");
                }
                if found.is_empty() {
                    continue; // between the slots, or in what was promised to nobody
                }
                check_repaired(&disk, &batches, &lost, &context);
            }
        }
    }
}

#[test]
fn larger_damage_is_given_up_by_its_offsets() {
    for left in [Left::Closed, Left::Killed] {
        let (disk, batches) = written(left);
        let path = file("00000000000000000000.log");
        let whole = disk.contents(&path).expect("segment");
        let at = |batch: usize| usize::try_from(position(&batches, batch)).expect("small");
        let mut overwritten = whole.clone();
        overwritten[at(1) - 30..at(2) + 5].fill(0xee);
        let mut all_zero = whole.clone();
        all_zero.fill(0);
        let mut no_header = whole.clone();
        no_header[..70].fill(0xff);
        for (what, content, lost) in [
            ("noise over three batches", overwritten, 0..6),
            ("nothing but zeros", all_zero, 0..6),
            ("neither header nor first batch", no_header, 0..2),
            ("cut in the second batch", whole[..at(1) + 10].to_vec(), 2..6),
            ("empty", Vec::new(), 0..6),
            ("without its last bytes", whole[..whole.len() - 1].to_vec(), 0..0),
        ] {
            let disk = disk.after_kill();
            disk.overwrite(&path, &content).expect("overwrite");
            repair(&disk, DO);
            check_repaired(&disk, &batches, &lost.collect(), &format!("{left:?}, {what}"));
        }
    }
}

#[test]
fn the_end_of_a_closed_log_may_be_lost_and_its_offsets_are_not_used_again() {
    let (disk, batches) = written(Left::Closed);
    let path = file("00000000000000000014.log");
    let whole = disk.contents(&path).expect("segment");
    for kept in [0, 64, 100, whole.len() - 3] {
        let disk = disk.after_kill();
        disk.overwrite(&path, &whole[..kept]).expect("cut");
        let lost: BTreeSet<Offset> =
            damage(&disk).iter().filter_map(|finding| finding.offsets.clone()).flatten().collect();
        assert!(lost.contains(&21), "{kept}: {lost:?}");
        repair(&disk, DO);
        check_repaired(&disk, &batches, &lost, &format!("{kept} bytes left"));
    }
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let (disk, batches) = written(Left::Killed);
    disk.flip_bit(&file("00000000000000000000.log"), position(&batches, 1) + 80, 0).expect("flip");
    disk.flip_bit(&file("00000000000000000000.index"), 70, 0).expect("flip");
    let disk = disk.after_kill();
    let before = contents(&disk);
    let planned = repair(&disk, RepairMode::DryRun);
    assert!(
        disk.operations().iter().all(|operation| matches!(operation.op, OpKind::Open | OpKind::Read | OpKind::List))
    );
    assert_eq!(contents(&disk), before);
    assert!(planned.iter().any(|step| step.action == RepairAction::GiveUp { offsets: 2..4 }), "{planned:?}");
    assert_eq!(repair(&disk, DO), planned);
    assert_eq!(repair(&disk, DO), [], "a log that was repaired needs nothing");
    let notes = findings(&disk);
    assert!(notes.iter().any(|finding| finding.fact == Fact::TakenOut && finding.offsets == Some(2..4)), "{notes:?}");
    assert!(notes.iter().any(|finding| finding.fact == Fact::Quarantined), "{notes:?}");
}

#[test]
fn a_missing_segment_is_refused_and_nothing_is_touched() {
    let (disk, _) = written(Left::Closed);
    disk.lose(&file("00000000000000000006.log")).expect("lose");
    disk.flip_bit(&file("00000000000000000000.log"), 200, 0).expect("flip");
    let disk = disk.after_kill();
    let before = contents(&disk);
    let steps = repair(&disk, DO);
    assert!(
        !steps.is_empty() && steps.iter().all(|step| matches!(step.action, RepairAction::Refuse { .. })),
        "{steps:?}"
    );
    assert_eq!(contents(&disk), before);
}

#[test]
fn a_second_damage_at_the_same_place_does_not_overwrite_what_the_first_one_has_kept() {
    let (disk, batches) = written(Left::Closed);
    let path = file("00000000000000000000.log");
    let mut kept = Vec::new();
    for round in 0..3 {
        let content = disk.contents(&path).expect("segment");
        kept.push(content[64..64 + 72].to_vec());
        disk.flip_bit(&path, 70 + round, 0).expect("flip");
        let damaged = disk.contents(&path).expect("segment")[64..64 + 72].to_vec();
        repair(&disk, DO);
        assert!(is_kept(&disk, &damaged), "round {round}");
        kept.pop();
        kept.push(damaged);
    }
    assert!(kept.iter().all(|bytes| is_kept(&disk, bytes)));
    check_repaired(&disk, &batches, &(0..2).collect(), "three times");
}

/// A log with damage in a header, two payloads, a trailer, at the end, and in an index.
fn damaged(left: Left) -> (SimDisk, Vec<Batch>, Vec<Vec<u8>>) {
    let (disk, batches) = written(left);
    let first = file("00000000000000000000.log");
    disk.flip_bit(&first, position(&batches, 1) + 90, 0).expect("flip");
    disk.flip_bit(&first, 20, 0).expect("flip");
    disk.flip_bit(&file("00000000000000000006.log"), 100, 0).expect("flip");
    disk.flip_bit(&file("00000000000000000014.log"), 80, 0).expect("flip");
    disk.flip_bit(&file("00000000000000000000.index"), 30, 0).expect("flip");
    let second = (position(&batches, 1), position(&batches, 2));
    let content = disk.contents(&first).expect("segment");
    let kept = vec![content[..64].to_vec(), part(&content, second.0..second.1).to_vec()];
    (disk, batches, kept)
}

#[test]
fn a_crash_at_any_operation_of_a_repair_loses_nothing_and_the_next_repair_finishes_it() {
    for left in [Left::Closed, Left::Killed] {
        let (disk, batches, kept) = damaged(left);
        let lost: BTreeSet<Offset> =
            damage(&disk).iter().filter_map(|finding| finding.offsets.clone()).flatten().collect();
        assert!(lost.len() >= 6, "{lost:?}");
        let whole = disk.after_kill();
        repair(&whole, DO);
        check_repaired(&whole, &batches, &lost, "without a crash");
        let rehearsal = disk.after_kill();
        repair(&rehearsal, DO);
        let operations = rehearsal.operation_count();
        println!("{operations} operations, {left:?}");
        let mut crashes = 0;
        for crash_at in 0..=operations {
            for seed in 0..4 {
                let crashed = disk.after_kill();
                crashed.crash_at(crash_at);
                let _ = repair_log(&crashed.shared(), &log_dir(), ID, DO, &mut |_| {});
                let crashed = if seed == 0 { crashed.after_kill() } else { crashed.after_power_loss(seed) };
                let context = format!("{left:?}, crash at operation {crash_at} of {operations}, seed {seed}");
                let content = crashed.contents(&file("00000000000000000000.log")).expect("the segment is there");
                for bytes in &kept {
                    let is_there = content.windows(bytes.len()).any(|window| window == bytes);
                    assert!(is_there || is_kept(&crashed, bytes), "{context}: damaged bytes are gone");
                }
                // A start in between must not make anything worse.
                if seed == 2 {
                    let (log, _) =
                        open(&crashed.shared(), &log_dir()).unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert_eq!(log.log_end(), batches.last().expect("some").header.next_offset(), "{context}");
                    drop(log);
                }
                repair(&crashed, DO);
                check_repaired(&crashed, &batches, &lost, &context);
                crashes += 1;
            }
        }
        println!("{crashes} crashes");
    }
}
