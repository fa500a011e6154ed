//! `partition.state`: the few facts about a log that its segments cannot tell, in two checksummed slots.
//!
//! Invariant: a write never touches the slot that was last *synced*, so that a torn write costs at most a hint.
//! Facts (epoch, log start, clean stop) are synced before anybody acts on them; the place from which recovery may
//! begin to scan is written without a sync, after the data below it is durable.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::age_clock::AgeClock;
use crate::batch::LogId;
use crate::disk::{Access, BootTime, Disk, DiskFile};
use crate::wire::{Fields, put};
use crate::{Offset, StorageError};

/// Name of the file.
pub(crate) const FILE_NAME: &str = "partition.state";
/// Name under which it is first written.
pub(crate) const NEW_FILE_NAME: &str = "partition.state.new";

const MAGIC: [u8; 4] = *b"AQPS";
const VERSION: u16 = 1;
const SLOT_BYTES: usize = 192;
/// One page apart: no write of one slot can tear the other.
const SLOT_POSITIONS: [u64; 2] = [0, 4096];
const CRC_AT: usize = 8;

/// How the log was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// In use, or killed.
    Running,
    /// Closed: everything is durable, and nothing lies beyond the durable end.
    Clean,
}

/// The place in the last segment up to which everything is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastSegment {
    pub(crate) base: Offset,
    /// Byte position of the batch at the durable end; in a sealed segment, the length of the file.
    pub(crate) position: u64,
    pub(crate) kind: SegmentKind,
}

/// Whether anything can be appended to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentKind {
    Active,
    Sealed,
}

/// The facts of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) epoch: u32,
    /// First readable offset.
    pub(crate) log_start: Offset,
    /// Everything below was durable when this was written.
    pub(crate) durable_end: Offset,
    /// Where `durable_end` is on disk; `None` while there is no segment.
    pub(crate) last_segment: Option<LastSegment>,
    /// Checksum over the base offsets of all segments; proof, at a clean stop, that none is missing.
    pub(crate) segments_crc: u32,
    pub(crate) stop: Stop,
    /// Append time of the last batch below `durable_end`, µs since the epoch.
    pub(crate) last_append_time_us: Option<i64>,
    pub(crate) age: AgeClock,
}

/// The file, and which slot may be overwritten.
#[derive(Debug)]
pub(crate) struct StateFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    id: LogId,
    generation: u64,
    /// The slot that was last synced: never overwritten by the next write.
    synced_slot: usize,
    proof: Proof,
}

/// What is known of the slot that is taken to be synced.
#[derive(Debug)]
enum Proof {
    /// This process synced it.
    Synced,
    /// It was read: it may be a hint, or the victim of a failed sync, that lies only in the page cache. It must be
    /// written once more *in place* and synced before the other slot, maybe the only durable one, is touched.
    Read(Box<[u8; SLOT_BYTES]>),
}

/// What was found of the file.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// At least one slot is intact: the newest.
    State(StateFile, State),
    /// The file is there, and no slot is intact.
    Damaged,
    /// There is no file.
    Missing,
    /// The file belongs to another log.
    OtherLog(LogId),
}

impl StateFile {
    /// Writes a new file for a log whose directory may hold none, and makes its content durable but not its entry: the
    /// caller syncs the directory.
    pub(crate) fn create(disk: Arc<dyn Disk>, dir: &Path, id: LogId, state: &State) -> Result<Self, StorageError> {
        let path = dir.join(FILE_NAME);
        let new_path = dir.join(NEW_FILE_NAME);
        match disk.remove_file(&new_path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StorageError::io("remove", &new_path, error)),
        }
        let at = |error| StorageError::io("write", &new_path, error);
        let file = disk.create(&new_path).map_err(at)?;
        let slot = encode(id, 1, state);
        // Both slots from the start: the file never grows again, and so never needs room on a full disk.
        let gap = vec![0; 4096 - SLOT_BYTES];
        file.write_at(0, &mut [IoSlice::new(&slot), IoSlice::new(&gap), IoSlice::new(&slot)]).map_err(at)?;
        file.sync_data().map_err(|error| StorageError::io("sync", &new_path, error))?;
        disk.rename(&new_path, &path).map_err(|error| StorageError::io("rename", &new_path, error))?;
        Ok(Self { disk, path, id, generation: 1, synced_slot: 0, proof: Proof::Synced })
    }

    /// Reads the newest intact slot.
    ///
    /// # Errors
    /// The disk's, and [`StorageError::Unsupported`] for an intact slot of a newer version.
    pub(crate) fn load(disk: Arc<dyn Disk>, dir: &Path, id: LogId) -> Result<Loaded, StorageError> {
        let path = dir.join(FILE_NAME);
        let Some(slots) = read_slots(&*disk, dir)? else { return Ok(Loaded::Missing) };
        let mut newest: Option<(usize, Slot)> = None;
        let mut other_log = None;
        for (at, slot) in slots.into_iter().enumerate() {
            match slot {
                Ok(slot) if slot.id != id => other_log = Some(slot.id),
                Ok(slot) if newest.is_none_or(|(_, known)| slot.generation > known.generation) => {
                    newest = Some((at, slot));
                }
                Ok(_) | Err(SlotFault::Damaged) => {}
                Err(SlotFault::Unsupported(version)) => {
                    return Err(StorageError::Unsupported { path, what: format!("state version {version}") });
                }
            }
        }
        Ok(match (newest, other_log) {
            (Some((synced_slot, Slot { generation, state, .. })), _) => {
                let proof = Proof::Read(Box::new(encode(id, generation, &state)));
                Loaded::State(Self { disk, path, id, generation, synced_slot, proof }, state)
            }
            (None, Some(found)) => Loaded::OtherLog(found),
            (None, None) => Loaded::Damaged,
        })
    }

    /// Writes `state` and makes it durable. One write and one sync; twice that the first time after a load.
    pub(crate) fn write_synced(&mut self, state: &State) -> Result<(), StorageError> {
        let file = self.open()?;
        self.prove(&file)?;
        let slot = 1 - self.synced_slot;
        self.write(&file, slot, state)?;
        file.sync_data().map_err(|error| StorageError::io("sync", &self.path, error))?;
        self.synced_slot = slot;
        Ok(())
    }

    /// Writes `state` for whoever opens the log after a kill; it may be lost with the power. One write.
    pub(crate) fn write_hint(&mut self, state: &State) -> Result<(), StorageError> {
        let file = self.open()?;
        self.prove(&file)?;
        self.write(&file, 1 - self.synced_slot, state)
    }

    fn open(&self) -> Result<Arc<dyn DiskFile>, StorageError> {
        self.disk.open(&self.path, Access::ReadWrite).map_err(|error| StorageError::io("open", &self.path, error))
    }

    fn prove(&mut self, file: &Arc<dyn DiskFile>) -> Result<(), StorageError> {
        if let Proof::Read(bytes) = &self.proof {
            let position = SLOT_POSITIONS[self.synced_slot];
            file.write_at(position, &mut [IoSlice::new(bytes.as_slice())])
                .map_err(|error| StorageError::io("write", &self.path, error))?;
            file.sync_data().map_err(|error| StorageError::io("sync", &self.path, error))?;
            self.proof = Proof::Synced;
        }
        Ok(())
    }

    fn write(&mut self, file: &Arc<dyn DiskFile>, slot: usize, state: &State) -> Result<(), StorageError> {
        self.generation += 1;
        let bytes = encode(self.id, self.generation, state);
        file.write_at(SLOT_POSITIONS[slot], &mut [IoSlice::new(&bytes)])
            .map_err(|error| StorageError::io("write", &self.path, error))
    }
}

/// An intact slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// The log that it says it belongs to.
    pub(crate) id: LogId,
    /// The higher one of two counts.
    pub(crate) generation: u64,
    pub(crate) state: State,
}

/// Why a slot does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotFault {
    Damaged,
    Unsupported(u16),
}

/// Byte positions of a slot in the file.
pub(crate) fn slot_bytes(slot: usize) -> std::ops::Range<u64> {
    SLOT_POSITIONS[slot]..SLOT_POSITIONS[slot] + SLOT_BYTES as u64
}

/// Both slots of the file in `dir`, each by itself, of whatever log; `None` if there is no file.
pub(crate) fn read_slots(disk: &dyn Disk, dir: &Path) -> Result<Option<[Result<Slot, SlotFault>; 2]>, StorageError> {
    let path = dir.join(FILE_NAME);
    let file = match disk.open(&path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io("open", &path, error)),
    };
    let read = |position| file.read_at(position, SLOT_BYTES).map_err(|error| StorageError::io("read", &path, error));
    let [first, second] = SLOT_POSITIONS;
    Ok(Some([decode(&read(first)?), decode(&read(second)?)]))
}

fn encode(id: LogId, generation: u64, state: &State) -> [u8; SLOT_BYTES] {
    let mut out = Vec::with_capacity(SLOT_BYTES);
    put(&mut out, MAGIC);
    put(&mut out, VERSION.to_le_bytes());
    put(&mut out, 192_u16.to_le_bytes());
    put(&mut out, [0; 4]);
    put(&mut out, state.epoch.to_le_bytes());
    put(&mut out, generation.to_le_bytes());
    put(&mut out, id.0);
    put(&mut out, state.log_start.to_le_bytes());
    put(&mut out, state.durable_end.to_le_bytes());
    put(&mut out, state.last_segment.map_or(0, |last| last.base).to_le_bytes());
    put(&mut out, state.last_segment.map_or(0, |last| last.position).to_le_bytes());
    put(&mut out, state.segments_crc.to_le_bytes());
    put(&mut out, flags_of(state).to_le_bytes());
    put(&mut out, state.last_append_time_us.unwrap_or_default().to_le_bytes());
    put(&mut out, state.age.age_us.to_le_bytes());
    put(&mut out, state.age.boot.boot_id);
    put(&mut out, state.age.boot.since_boot_us.to_le_bytes());
    put(&mut out, state.age.wall_us.unwrap_or_default().to_le_bytes());
    let mut slot = [0; SLOT_BYTES];
    slot[..out.len()].copy_from_slice(&out);
    let crc = crc_of(&slot);
    slot[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    slot
}

const FLAG_CLEAN: u32 = 1;
const FLAG_HAS_SEGMENT: u32 = 2;
const FLAG_HAS_APPEND_TIME: u32 = 4;
const FLAG_HAS_WALL: u32 = 8;
const FLAG_SEALED: u32 = 16;

fn flags_of(state: &State) -> u32 {
    let flag = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    flag(state.stop == Stop::Clean, FLAG_CLEAN)
        | flag(state.last_segment.is_some(), FLAG_HAS_SEGMENT)
        | flag(state.last_append_time_us.is_some(), FLAG_HAS_APPEND_TIME)
        | flag(state.age.wall_us.is_some(), FLAG_HAS_WALL)
        | flag(state.last_segment.is_some_and(|last| last.kind == SegmentKind::Sealed), FLAG_SEALED)
}

fn decode(bytes: &[u8]) -> Result<Slot, SlotFault> {
    if bytes.len() < SLOT_BYTES {
        return Err(SlotFault::Damaged);
    }
    let mut fields = Fields::new(bytes);
    let (magic, version, length, crc) = (fields.bytes::<4>(), fields.u16(), fields.u16(), fields.u32());
    if magic != MAGIC || usize::from(length) != SLOT_BYTES || crc != crc_of(bytes) {
        return Err(SlotFault::Damaged);
    }
    if version != VERSION {
        return Err(SlotFault::Unsupported(version));
    }
    let (epoch, generation) = (fields.u32(), fields.u64());
    let id = LogId(fields.bytes());
    let (log_start, durable_end) = (fields.u64(), fields.u64());
    let (base, position) = (fields.u64(), fields.u64());
    let (segments_crc, flags) = (fields.u32(), fields.u32());
    let has = |bit: u32| flags & bit != 0;
    let last_append_time_us = Some(fields.i64()).filter(|_| has(FLAG_HAS_APPEND_TIME));
    let age_us = fields.u64();
    let boot = BootTime { boot_id: fields.bytes(), since_boot_us: fields.u64() };
    let wall_us = Some(fields.i64()).filter(|_| has(FLAG_HAS_WALL));
    let kind = if has(FLAG_SEALED) { SegmentKind::Sealed } else { SegmentKind::Active };
    if log_start > durable_end || (has(FLAG_HAS_SEGMENT) && base > durable_end) {
        // Facts that contradict each other: appending on their word would use offsets twice.
        return Err(SlotFault::Damaged);
    }
    let state = State {
        epoch,
        log_start,
        durable_end,
        last_segment: has(FLAG_HAS_SEGMENT).then_some(LastSegment { base, position, kind }),
        segments_crc,
        stop: if has(FLAG_CLEAN) { Stop::Clean } else { Stop::Running },
        last_append_time_us,
        age: AgeClock { age_us, boot, wall_us },
    };
    Ok(Slot { id, generation, state })
}

/// Not bound to the log id: the slot names it, so that a file of another log is told from damage.
fn crc_of(slot: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot[..CRC_AT]);
    hasher.update(&slot[CRC_AT + 4..SLOT_BYTES]);
    hasher.finalize()
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    const ID: LogId = LogId([5; 16]);

    fn state(epoch: u32, durable_end: Offset) -> State {
        let boot = BootTime { boot_id: [1; 16], since_boot_us: 7 };
        let last = LastSegment { base: durable_end.min(3), position: 64, kind: SegmentKind::Active };
        State {
            epoch,
            log_start: durable_end.min(2),
            durable_end,
            last_segment: Some(last),
            segments_crc: 9,
            stop: Stop::Running,
            last_append_time_us: Some(-1),
            age: AgeClock { age_us: 8, boot, wall_us: None },
        }
    }

    fn load(disk: &SimDisk) -> (StateFile, State) {
        match StateFile::load(disk.shared(), Path::new("/"), ID).expect("load") {
            Loaded::State(file, state) => (file, state),
            other => panic!("{other:?}"),
        }
    }

    fn created() -> (SimDisk, StateFile) {
        let disk = SimDisk::new();
        let file = StateFile::create(disk.shared(), Path::new("/"), ID, &state(1, 0)).expect("create");
        disk.shared().sync_dir(Path::new("/")).expect("sync");
        (disk, file)
    }

    #[test]
    fn the_newest_state_is_loaded_as_it_was_written() {
        let (disk, mut file) = created();
        for epoch in 2..6 {
            file.write_synced(&state(epoch, 10)).expect("write");
            assert_eq!(load(&disk).1, state(epoch, 10));
            file.write_hint(&state(epoch, 20)).expect("write");
            assert_eq!(load(&disk).1, state(epoch, 20));
        }
    }

    #[test]
    fn a_torn_write_after_hints_and_kills_never_costs_a_synced_fact() {
        for operations in 0..6 {
            let (disk, mut file) = created();
            file.write_synced(&state(2, 10)).expect("write");
            file.write_hint(&state(2, 20)).expect("write");
            file.write_hint(&state(2, 30)).expect("write");
            let disk = disk.after_kill();
            let (mut file, found) = load(&disk);
            assert_eq!(found, state(2, 30));
            disk.crash_at(disk.operation_count() + operations);
            let epoch_min = if file.write_synced(&state(3, 40)).is_ok() { 3 } else { 2 };
            for seed in 0..3000 {
                let (_, found) = load(&disk.after_power_loss(seed));
                assert!(found.epoch >= epoch_min, "crash after {operations} operations, seed {seed}: {found:?}");
            }
        }
    }

    #[test]
    fn a_slot_whose_facts_contradict_each_other_does_not_count() {
        let (disk, mut file) = created();
        let last = LastSegment { base: 11, position: 64, kind: SegmentKind::Active };
        for wrong in [State { log_start: 11, ..state(2, 10) }, State { last_segment: Some(last), ..state(2, 10) }] {
            file.write_synced(&state(2, 10)).expect("write");
            file.write_hint(&wrong).expect("write");
            assert_eq!(load(&disk).1, state(2, 10));
        }
    }

    #[test]
    fn a_file_of_another_log_is_told_from_damage() {
        let (disk, _) = created();
        let other = StateFile::load(disk.shared(), Path::new("/"), LogId([6; 16])).expect("load");
        assert!(matches!(other, Loaded::OtherLog(ID)), "{other:?}");
        disk.overwrite(Path::new("/partition.state"), &[0; 100]).expect("overwrite");
        let damaged = StateFile::load(disk.shared(), Path::new("/"), ID).expect("load");
        assert!(matches!(damaged, Loaded::Damaged), "{damaged:?}");
    }
}
