//! Harm to what is durable: damaged batches must be named and cost nothing else, bad indexes must cost nothing.

use std::path::{Path, PathBuf};

use aqueduct_storage::{Batch, Disk as _, Durability, EntryKind, Offset};
use fastrand::Rng;

use crate::known::{LogName, log_id};
use crate::support::model::Model;
use crate::support::{append, assert_same, lying_index, read_around_damage};
use crate::world::{End, World};

/// Where a segment's first batch lies.
const SEGMENT_HEADER_BYTES: u64 = 64;

/// A batch that was acknowledged, of which something later on the disk says so.
struct Proven {
    batch: Batch,
    segment: PathBuf,
    position: u64,
}

/// Damages a batch and demands that exactly its offsets are named, that nothing is cut, and that the log goes on.
pub(crate) fn harm_a_batch(world: &mut World, rng: &mut Rng) {
    let mut logs = world.logs_with_batches();
    // Where a compaction has left a batch, and what of it, is not known here.
    let is_as_written = |model: &Model| model.durability == Durability::Fsync && model.keyed.is_none();
    logs.retain(|name| is_as_written(&world.known.logs[name]));
    if logs.is_empty() {
        return;
    }
    let name = logs[rng.usize(..logs.len())];
    // Recovery looks at what was appended since the last one: each group proves those before it.
    for _ in 0..rng.usize(1..7) {
        world.append_one(name, rng.usize(..500));
    }
    world.end([End::Clean, End::Kill, End::PowerLoss(rng.u64(..))][rng.usize(..3)]);
    let model = world.known.logs[&name].clone();
    let proven = proven_batches(world, &model);
    if proven.is_empty() {
        return;
    }
    let Proven { batch, segment, position } = &proven[rng.usize(..proven.len())];
    let context = format!("{}, {name:?}, batch {}", world.context, batch.header.base_offset);
    spoil(world, segment, *position, batch.stored_bytes(), rng);
    world.met.damaged_batches += 1;
    let end = *position + batch.stored_bytes();
    let damaged = world.disk.contents(segment).expect("there")[..usize::try_from(end).expect("small")].to_vec();
    let offsets = (batch.header.base_offset, batch.header.next_offset());
    let mut expected = model.readable().to_vec();
    expected.retain(|other| other.header.base_offset != batch.header.base_offset);
    for again in 0..2 {
        let context = format!("{context}, opened {again} times before");
        let (mut log, report) = model.open(&world.disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(report.damage.iter().all(|damage| (damage.from, damage.to) == offsets), "{context}: {report:?}");
        let (found, named) = read_around_damage(&log);
        assert_eq!(named, [offsets], "{context}");
        assert_same(&found, &expected, &context);
        if name != LogName::Journal {
            expected.extend(append(&mut log, &[300, 20]).expect("appends go on"));
        }
        drop(log);
        assert!(world.disk.contents(segment).expect("there").starts_with(&damaged), "{context}: left as it is");
        world.end(if rng.bool() { End::Kill } else { End::PowerLoss(rng.u64(..)) });
    }
}

/// The readable batches of a log, whose last group was a single batch, that cannot be taken for a torn tail.
fn proven_batches(world: &World, model: &Model) -> Vec<Proven> {
    let bases = segments(world, &model.dir);
    let mut proven = Vec::new();
    for (at, base) in bases.iter().enumerate() {
        let end = bases.get(at + 1).copied().unwrap_or(Offset::MAX);
        let inside = |batch: &&Batch| (*base..end).contains(&batch.header.base_offset);
        let batches: Vec<&Batch> = model.certain.iter().filter(inside).collect();
        let mut position = SEGMENT_HEADER_BYTES;
        let last = batches.last().map_or(0, |last| last.header.base_offset);
        for batch in batches {
            let is_sealed = at + 1 < bases.len();
            let is_proven = is_sealed || batch.header.next_offset() <= last;
            if is_proven && batch.header.base_offset >= model.log_start {
                let segment = model.dir.join(format!("{base:020}.log"));
                proven.push(Proven { batch: batch.clone(), segment, position });
            }
            position += batch.stored_bytes();
        }
    }
    proven
}

fn files(world: &World, dir: &Path, extension: &str) -> Vec<String> {
    let entries = world.disk.list(dir).unwrap_or_default();
    let files = entries.into_iter().filter(|entry| matches!(entry.kind, EntryKind::File { .. }));
    files.map(|entry| entry.name).filter(|name| name.ends_with(extension)).collect()
}

fn segments(world: &World, dir: &Path) -> Vec<Offset> {
    let base = |name: &String| name.strip_suffix(".log").and_then(|base| base.parse().ok());
    files(world, dir, ".log").iter().filter_map(base).collect()
}

/// Flips a bit, or overwrites some bytes by zeros or by others, between `position` and `bytes` behind it.
fn spoil(world: &World, path: &Path, position: u64, bytes: u64, rng: &mut Rng) {
    let before = world.disk.contents(path).expect("there");
    let mut content = before.clone();
    let small = |value: u64| usize::try_from(value).expect("small");
    let from = small(position + rng.u64(..bytes));
    let to = (from + rng.usize(1..600)).min(small(position + bytes));
    match rng.u32(..3) {
        0 => content[from..to].fill(0),
        1 => content[from..to].iter_mut().for_each(|byte| *byte = rng.u8(..)),
        _ => {}
    }
    if content == before {
        content[from] ^= 1 << rng.u32(..8);
    }
    world.disk.overwrite(path, &content).expect("there");
}

/// Before a start, now and then, an index says something else than it should.
pub(crate) fn spoil_an_index(world: &mut World, rng: &mut Rng) {
    if rng.u32(..3) > 0 {
        return;
    }
    let mut indexes = Vec::new();
    for (name, model) in &world.known.logs {
        indexes.extend(files(world, &model.dir, ".index").into_iter().map(|file| (*name, model.dir.join(file))));
    }
    if indexes.is_empty() {
        return;
    }
    let (name, path) = indexes[rng.usize(..indexes.len())].clone();
    let good = world.disk.contents(&path).expect("there");
    let content = match rng.u32(..5) {
        0 => Vec::new(),
        1 => vec![0; good.len()],
        2 => good[..rng.usize(..=good.len())].to_vec(),
        3 => world.disk.contents(&indexes[rng.usize(..indexes.len())].1).expect("there"),
        _ => lying_index(&good, log_id(name)),
    };
    world.disk.overwrite(&path, &content).expect("there");
    world.met.bad_indexes += 1;
}
