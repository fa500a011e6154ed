//! Files that were edited, lost or left over: damage is reported where it is, never cut, and never spreads.

mod support;

use std::path::PathBuf;

use aqueduct_storage::sim::{Fault, Injection, OpKind, SimDisk, SyncLoss};
use aqueduct_storage::{Batch, LastStop, LogId, Offset, OpenError, PartitionLog, ReadError, payload_crc};
use support::{
    ID, append, assert_same, log_dir, lying_index, open, plain, read_all, read_around_damage, read_from, small_options,
};

fn segment(base: Offset) -> PathBuf {
    log_dir().join(format!("{base:020}.log"))
}

fn index(base: Offset) -> PathBuf {
    log_dir().join(format!("{base:020}.index"))
}

/// A log of one-batch groups with payloads of these sizes, and where each batch lies if it is in the first segment.
fn written(sizes: &[usize]) -> (SimDisk, PartitionLog, Vec<Batch>) {
    let disk = SimDisk::new();
    let mut log = PartitionLog::create(disk.shared(), &log_dir(), ID, small_options()).expect("create");
    let batches = sizes.iter().flat_map(|bytes| append(&mut log, &[*bytes]).expect("append")).collect();
    (disk, log, batches)
}

/// Byte position of batch `at` in the first segment.
fn position(batches: &[Batch], at: usize) -> u64 {
    64 + batches[..at].iter().map(Batch::stored_bytes).sum::<u64>()
}

#[test]
fn a_flipped_bit_anywhere_in_a_sealed_segment_names_its_offsets_and_spares_the_rest() {
    let (disk, log, batches) = written(&[700, 600, 500, 400, 300, 900, 900, 900]);
    assert!(log.reader().segment_count() >= 2);
    log.close().expect("close");
    let in_first = position(&batches, 5) - 64; // bytes of batches that surely lie in the first segment
    for byte in (64..64 + in_first).step_by(7) {
        let disk = disk.after_kill();
        disk.flip_bit(&segment(0), byte, 3).expect("flip");
        let hit = (0..batches.len()).find(|at| position(&batches, at + 1) > byte).expect("in a batch");
        let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
        assert_eq!(report.stop, LastStop::Clean);
        let (found, damaged) = read_around_damage(&log);
        let header = &batches[hit].header;
        assert_eq!(damaged, [(header.base_offset, header.next_offset())], "byte {byte}");
        let mut expected = batches.clone();
        expected.remove(hit);
        assert_same(&found, &expected, &format!("byte {byte}"));
        let length = disk.contents(&segment(0)).expect("still there").len() as u64;
        assert!(length > position(&batches, 5), "nothing is cut");
    }
}

#[test]
fn damage_below_a_later_proof_of_durability_is_reported_and_never_cut() {
    let (disk, log, batches) = written(&[100, 200, 300, 400, 500]);
    drop(log);
    // The file goes on with zeros, which may be cut and written over.
    let batches_end = usize::try_from(position(&batches, batches.len())).expect("small");
    // Every batch but the last, which alone is not proven.
    for hit in 0..batches.len() - 1 {
        for (what, byte) in [("header", 20), ("payload", 80)] {
            let disk = disk.after_kill();
            disk.flip_bit(&segment(0), position(&batches, hit) + byte, 0).expect("flip");
            let damaged_file = disk.contents(&segment(0)).expect("segment")[..batches_end].to_vec();
            let (mut log, report) = open(&disk.shared(), &log_dir()).expect("open");
            let context = format!("{what} of batch {hit}");
            assert_eq!(report.cut_bytes, 0, "{context}");
            if what == "header" {
                let (from, to) = (batches[hit].header.base_offset, batches[hit].header.next_offset());
                assert_eq!((report.damage[0].from, report.damage[0].to), (from, to), "{context}");
            }
            let (found, damaged) = read_around_damage(&log);
            assert_eq!(damaged.len(), 1, "{context}");
            assert_eq!(found.len(), batches.len() - 1, "{context}");
            assert!(
                disk.contents(&segment(0)).expect("segment").starts_with(&damaged_file),
                "{context}: left as it is"
            );
            append(&mut log, &[50]).expect("appends go on");
            assert!(disk.contents(&segment(0)).expect("segment").starts_with(&damaged_file), "{context}");
        }
    }
}

#[test]
fn acknowledged_records_that_are_gone_at_the_end_are_reported_and_their_offsets_not_used_again() {
    let (disk, log, batches) = written(&[100, 200, 300, 400, 500]);
    let end = log.log_end();
    log.close().expect("close"); // proves everything in partition.state
    for kept in [0, 64, 100, position(&batches, 2), position(&batches, 4) + 10] {
        for filler in [None, Some(0)] {
            let disk = disk.after_kill();
            let whole = disk.contents(&segment(0)).expect("segment");
            let mut content = whole[..usize::try_from(kept).expect("small")].to_vec();
            if let Some(filler) = filler {
                content.resize(whole.len(), filler);
            }
            disk.overwrite(&segment(0), &content).expect("cut");
            let context = format!("{kept} bytes left, filled with {filler:?}");
            let Ok((mut log, report)) = open(&disk.shared(), &log_dir()) else { panic!("{context}") };
            if report.stop == LastStop::Unclean {
                assert_eq!(report.damage.last().map(|damage| damage.to), Some(end), "{context}: {report:?}");
            }
            assert_eq!(log.log_end(), end, "{context}: no offset is used twice");
            assert_eq!(disk.contents(&segment(0)).expect("segment"), content, "{context}: left as it is");
            let appended = append(&mut log, &[10]).expect("append");
            let (found, damaged) = read_around_damage(&log);
            assert_eq!(damaged.last().map(|(_, to)| *to), Some(end), "{context}");
            assert_same(&found[found.len() - 1..], &appended, &context);
            assert_same(&found[..found.len() - 1], &batches[..found.len() - 1], &context);
            drop(log);
            let (log, _) = open(&disk.shared(), &log_dir()).expect("open again");
            assert_eq!(read_around_damage(&log).0.len(), found.len(), "{context}: again");
        }
    }
}

#[test]
fn a_torn_tail_is_kept_up_to_its_first_damage_whatever_follows() {
    let (disk, mut log, acked) = written(&[100, 200]);
    let group = append(&mut log, &[300, 400, 500]).expect("append");
    drop(log);
    let whole = disk.contents(&segment(0)).expect("segment");
    let tail = position(&acked, acked.len());
    let at = |batch: usize| tail + group[..batch].iter().map(Batch::stored_bytes).sum::<u64>();
    let other = written(&[3000]).0.contents(&segment(0)).expect("other");
    for hit in 0..3 {
        let (start, end) = (at(hit), at(hit + 1));
        let (begin, stop) = (usize::try_from(start).expect("small"), usize::try_from(end).expect("small"));
        let mut torn: Vec<(&str, Vec<u8>)> = Vec::new();
        torn.push(("short", whole[..stop - 1].to_vec()));
        torn.push(("short by a header", whole[..begin + 10].to_vec()));
        let mut zeros = whole.clone();
        zeros[begin..stop].fill(0);
        torn.push(("zeros in the middle of the group", zeros));
        let mut stale = whole.clone();
        stale[begin..stop].copy_from_slice(&other[64..64 + stop - begin]);
        torn.push(("stale bytes of an older file", stale));
        let mut payload = whole.clone();
        payload[stop - 1] ^= 1;
        torn.push(("a payload that is not whole", payload));
        for (what, content) in torn {
            let disk = disk.after_kill();
            disk.overwrite(&segment(0), &content).expect("tear");
            let context = format!("{what}, batch {hit}");
            let (mut log, report) = open(&disk.shared(), &log_dir()).expect("open");
            assert!(report.damage.is_empty(), "{context}: {report:?}");
            let mut expected = acked.clone();
            expected.extend(group[..hit].iter().cloned());
            assert_same(&read_all(&log.reader()), &expected, &context);
            expected.extend(append(&mut log, &[600, 50]).expect("append"));
            for seed in 0..3 {
                let (log, _) = open(&disk.after_power_loss(seed).shared(), &log_dir()).expect("open");
                assert_same(&read_all(&log.reader()), &expected, &context);
            }
        }
    }
}

#[test]
fn stale_bytes_of_another_log_or_of_an_earlier_epoch_are_not_taken_for_a_tail() {
    let sizes = [100, 200, 300];
    let (_, _, old) = written(&sizes);
    let (from, to) = (position(&old, 2), position(&old, 3));
    let place = usize::try_from(from).expect("small")..usize::try_from(to).expect("small");

    let foreign = SimDisk::new();
    let mut log = PartitionLog::create(foreign.shared(), &log_dir(), LogId([7; 16]), small_options()).expect("create");
    log.raise_epoch().expect("raise");
    sizes.iter().for_each(|bytes| drop(append(&mut log, &[*bytes]).expect("append")));
    let earlier = written(&sizes).0;

    for (what, stale) in [("another log", foreign), ("an earlier epoch", earlier)] {
        let (disk, mut log, mut batches) = written(&sizes[..1]);
        log.raise_epoch().expect("raise");
        batches.extend(append(&mut log, &sizes[1..2]).expect("append"));
        drop(log);
        let mut content = disk.contents(&segment(0)).expect("segment");
        content.resize(place.end, 0);
        content[place.clone()].copy_from_slice(&stale.contents(&segment(0)).expect("stale")[place.clone()]);
        disk.overwrite(&segment(0), &content).expect("overwrite");
        let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
        assert!(report.damage.is_empty(), "{what}: {report:?}");
        assert_same(&read_all(&log.reader()), &batches, what);
    }
}

#[test]
fn old_blocks_with_batches_of_an_earlier_epoch_are_no_part_of_the_tail() {
    let (disk, mut log, mut expected) = written(&[100, 200]);
    let before = disk.after_kill();
    let cut = append(&mut log, &[300, 400]).expect("append");
    let old = disk.contents(&segment(0)).expect("segment");
    // The same place in another life: a batch of the same size, behind which the blocks still hold what was there.
    let (mut log, _) = open(&before.shared(), &log_dir()).expect("open");
    expected.extend(append(&mut log, &[300]).expect("append"));
    assert!(log.epoch() > cut[1].header.epoch && log.log_end() == cut[1].header.base_offset);
    let end = usize::try_from(position(&expected, expected.len())).expect("small");
    let mut content = before.contents(&segment(0)).expect("segment")[..end].to_vec();
    content.extend(&old[end..]);
    before.overwrite(&segment(0), &content).expect("overwrite");
    let (log, report) = open(&before.after_kill().shared(), &log_dir()).expect("open");
    assert!(report.damage.is_empty(), "{report:?}");
    assert_same(&read_all(&log.reader()), &expected, "old blocks");
}

#[test]
fn a_tail_of_zeros_however_long_is_no_damage() {
    for (sizes, closed) in [(vec![100, 200], false), (vec![100, 200], true), (vec![], false)] {
        let (disk, log, batches) = written(&sizes);
        if closed {
            log.close().expect("close");
        }
        if !batches.is_empty() {
            let mut content = disk.contents(&segment(0)).expect("segment");
            content.resize(content.len() + (3 << 20), 0);
            disk.overwrite(&segment(0), &content).expect("grow");
        }
        let (mut log, report) = open(&disk.shared(), &log_dir()).expect("open");
        assert!(report.damage.is_empty(), "{report:?}");
        let mut expected = batches;
        expected.extend(append(&mut log, &[5]).expect("append"));
        assert_same(&read_all(&log.reader()), &expected, "zeros");
    }
}

#[test]
fn an_index_that_is_missing_empty_stale_zeroed_or_wrong_is_built_again() {
    let (disk, log, batches) = written(&[700, 600, 500, 400, 300, 900, 900, 900]);
    log.close().expect("close");
    let good = disk.contents(&index(0)).expect("sealed segments have an index");
    let foreign = written(&[3000, 3000]).0.contents(&index(0)).expect("index");
    let mut flipped = good.clone();
    flipped[70] ^= 1;
    for (what, content) in [
        ("empty", Some(Vec::new())),
        ("cut", Some(good[..good.len() - 5].to_vec())),
        ("zeroed", Some(vec![0; good.len()])),
        ("flipped", Some(flipped)),
        ("stale", Some(foreign)),
        ("missing", None),
    ] {
        let disk = disk.after_kill();
        match content {
            Some(content) => disk.overwrite(&index(0), &content).expect("overwrite"),
            None => disk.lose(&index(0)).expect("lose"),
        }
        let (log, _) = open(&disk.shared(), &log_dir()).expect("open");
        assert_same(&read_all(&log.reader()), &batches, what);
        for batch in &batches {
            let read = log.reader().read(batch.header.base_offset + 1, 1).expect("read");
            assert_same(&read, std::slice::from_ref(batch), what);
        }
        assert_eq!(disk.contents(&index(0)).expect("index"), good, "{what}: built again");
    }
}

#[test]
fn an_index_that_is_intact_and_lies_is_not_believed() {
    let (disk, log, batches) = written(&[700, 600, 500, 400, 300, 900, 900, 900]);
    log.close().expect("close");
    let lie = lying_index(&disk.contents(&index(0)).expect("index"), ID);
    disk.overwrite(&index(0), &lie).expect("overwrite");
    let (log, _) = open(&disk.shared(), &log_dir()).expect("open");
    for batch in &batches {
        let read = log.reader().read(batch.header.base_offset, 1).expect("read");
        assert_same(&read, std::slice::from_ref(batch), "in spite of the index");
    }
}

#[test]
fn a_missing_segment_is_refused_by_naming_the_gap() {
    let (disk, log, _) = written(&[3000, 3000, 3000, 3000]);
    assert_eq!(log.reader().segment_count(), 4);
    let bases = [0, 2, 4, 6];
    for clean in [false, true] {
        let disk = disk.after_kill();
        if clean {
            open(&disk.shared(), &log_dir()).expect("open").0.close().expect("close");
        }
        for (lost, gap) in [(0, (0, 2)), (1, (2, 4)), (2, (4, 6)), (3, (6, 8))] {
            let disk = disk.after_kill();
            disk.lose(&segment(bases[lost])).expect("lose");
            let error = open(&disk.shared(), &log_dir()).expect_err("refused");
            let OpenError::MissingSegment { from, to, .. } = error else { panic!("{error}") };
            if lost < 3 || clean {
                assert_eq!((from, to), gap, "segment {lost}, clean {clean}");
            }
        }
    }
    drop(log);
}

#[test]
fn a_last_segment_without_a_byte_is_tolerated() {
    let (disk, log, batches) = written(&[3000, 3000]);
    log.close().expect("close");
    // As a kill between the creation of a file and the first write to it leaves it.
    let (mut log, _) = open(&disk.shared(), &log_dir()).expect("open");
    let more = append(&mut log, &[3000]).expect("rolls");
    drop(log);
    disk.overwrite(&segment(4), &[]).expect("empty");
    let (mut log, report) = open(&disk.shared(), &log_dir()).expect("open");
    assert!(report.damage.is_empty(), "{report:?}");
    assert_same(&read_all(&log.reader()), &batches, "the un-proven last group is gone");
    let again = append(&mut log, &[3000]).expect("append");
    assert_eq!(plain(&again[0]).header.base_offset, more[0].header.base_offset);
}

#[test]
fn a_damaged_trailer_costs_nothing() {
    let (disk, log, batches) = written(&[3000, 3000, 100]);
    drop(log);
    let bytes = disk.contents(&segment(0)).expect("segment").len() as u64;
    disk.flip_bit(&segment(0), bytes - 20, 1).expect("flip");
    let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
    assert!(report.damage.iter().all(|damage| damage.from == damage.to), "{report:?}");
    assert_same(&read_all(&log.reader()), &batches, "all batches");
}

#[test]
fn one_slot_of_the_state_may_be_damaged_and_with_both_gone_the_segments_still_tell() {
    let (disk, mut log, batches) = written(&[100, 3000, 3000, 100]);
    let epoch = log.raise_epoch().expect("raise");
    drop(log);
    let state = log_dir().join("partition.state");
    for (what, bytes) in [("first", vec![20]), ("second", vec![4096 + 20]), ("both", vec![20, 4096 + 20])] {
        let disk = disk.after_kill();
        for byte in &bytes {
            disk.flip_bit(&state, *byte, 1).expect("flip");
        }
        let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
        assert_same(&read_all(&log.reader()), &batches, what);
        assert_eq!(report.notes.is_empty(), bytes.len() == 1, "{report:?}");
        assert!(log.epoch() >= epoch.min(2), "{what}");
    }
    disk.lose(&state).expect("lose");
    let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
    assert_eq!(report.notes.len(), 1);
    assert_same(&read_all(&log.reader()), &batches, "without a state");
}

#[test]
fn a_segment_a_batch_or_a_state_of_a_newer_version_is_refused_and_left_untouched() {
    let (disk, log, batches) = written(&[100, 200]);
    drop(log);
    let seal = |content: &mut [u8], block: std::ops::Range<usize>, crc_at: usize, with_id: bool| {
        let mut hasher = crc32fast::Hasher::new();
        if with_id {
            hasher.update(&ID.0);
        }
        hasher.update(&content[block.start..block.start + crc_at]);
        hasher.update(&content[block.start + crc_at + 4..block.end]);
        let crc = hasher.finalize().to_le_bytes();
        content[block.start + crc_at..block.start + crc_at + 4].copy_from_slice(&crc);
    };
    let second = usize::try_from(position(&batches, 1)).expect("small");
    for (what, path, version_at, block, crc_at, with_id) in [
        ("segment", segment(0), 4, 0..64, 8, true),
        ("batch", segment(0), second + 4, second..second + 72, 12, true),
        ("state", log_dir().join("partition.state"), 4, 0..192, 8, false),
    ] {
        let disk = disk.after_kill();
        let mut content = disk.contents(&path).expect("content");
        content[version_at] = 9;
        seal(&mut content, block, crc_at, with_id);
        disk.overwrite(&path, &content).expect("overwrite");
        let refused = open(&disk.shared(), &log_dir());
        assert!(matches!(refused, Err(OpenError::Unsupported { .. })), "{what}: {refused:?}");
        assert_eq!(disk.contents(&path).expect("content"), content, "{what}");
    }
}

#[test]
fn a_batch_written_to_the_wrong_place_is_not_served_from_there() {
    let (disk, mut log, mut batches) = written(&[100, 200]);
    let path_contains = ".log".to_owned();
    disk.inject(Injection { op: Some(OpKind::Write), path_contains, after: 0, fault: Fault::Misdirected(40) });
    let astray = append(&mut log, &[300]).expect("the disk claims success");
    let error = read_from(&log.reader(), astray[0].header.base_offset).expect_err("not where it should be");
    let ReadError::Corrupt(damage) = error else { panic!("{error}") };
    assert_eq!((damage.from, damage.to), (4, 6));
    batches.extend(append(&mut log, &[400]).expect("append"));
    let (found, damaged) = read_around_damage(&log);
    assert_eq!(damaged, [(4, 6)]);
    assert_same(&found, &batches, "the rest");
    assert!(found.iter().all(|batch| payload_crc(&batch.payload) == batch.header.payload_crc));
}

#[test]
fn what_an_interrupted_creation_or_removal_has_left_is_cleaned_up() {
    let (disk, log, batches) = written(&[3000, 3000, 100]);
    drop(log);
    for name in ["00000000000000000009.log.new", "partition.state.new", "00000000000000000077.index"] {
        let path = log_dir().join(name);
        disk.shared().create(&path).expect("create");
    }
    let (log, _) = open(&disk.shared(), &log_dir()).expect("open");
    assert_same(&read_all(&log.reader()), &batches, "strays are nobody's");
    let left = disk.shared().list(&log_dir()).expect("list");
    assert!(left.iter().all(|entry| !entry.name.ends_with(".new") && !entry.name.contains("77")), "{left:?}");
}

#[test]
fn a_failed_tail_stays_cut_when_the_segment_that_superseded_it_is_lost() {
    let (disk, mut log, batches) = written(&[100, 100]);
    disk.inject(Injection {
        op: Some(OpKind::SyncData),
        path_contains: ".log".to_owned(),
        after: 0,
        fault: Fault::SyncFails(SyncLoss::CachedOnly),
    });
    append(&mut log, &[300]).expect_err("the sync fails");
    log.recover_from_failure().expect("a fresh segment");
    drop(log);
    for content in [vec![], vec![0; 64], vec![7; 100]] {
        let disk = disk.after_kill();
        disk.overwrite(&segment(4), &content).expect("damage");
        for _ in 0..3 {
            let (log, _) = open(&disk.shared(), &log_dir()).expect("open");
            assert_same(&read_all(&log.reader()), &batches, "what was not acknowledged is not read");
        }
    }
}
