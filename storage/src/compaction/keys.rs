//! Where the latest record of each key is, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use super::{RecordFormat, Unpacked, ValueKind};
use crate::{Batch, BatchHeader, Offset};

/// Producers that one pass remembers; batches of the others are kept.
const PRODUCERS_MAX: usize = 64 << 10;

/// The latest offset of each key, by 128 bits of two SipHashes under random keys: among `n` keys any two are taken for the
/// same with a probability below n² / 2¹²⁹, for 2 million keys 10⁻²⁶, whoever has chosen them.
#[derive(Debug)]
pub(super) struct Keys {
    hashers: [RandomState; 2],
    latest: HashMap<u128, Offset, BuildHasherDefault<Hashed>>,
    keys_max: usize,
    /// Base offset of the last batch of each producer.
    producers: HashMap<[u8; 16], Offset>,
}

/// Append times below which something may go, µs since the epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Horizon {
    pub(super) tombstones_before_us: i64,
    pub(super) producers_before_us: i64,
    pub(super) retries_before_us: i64,
}

/// What becomes of a batch of which no record stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Emptied {
    /// It tells what its producer has sent, and stays, without records.
    TellsOfProducer,
    /// Its offsets are all that is left of it.
    Offsets,
}

impl Keys {
    pub(super) fn new(keys_max: usize) -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            latest: HashMap::default(),
            keys_max,
            producers: HashMap::new(),
        }
    }

    /// Whether no further batch may be learnt.
    pub(super) fn is_full(&self) -> bool {
        self.latest.len() >= self.keys_max
    }

    /// Takes note of the keys of a batch that comes after all before.
    pub(super) fn learn(&mut self, batch: &Batch, records: &dyn RecordFormat) {
        self.learn_producer(&batch.header);
        let Some(unpacked) = unpack(batch, records) else { return };
        for (record, offset) in unpacked.iter().zip(offsets(&batch.header)) {
            if let Some(key) = &record.key {
                self.latest.insert(self.hash(key), offset);
            }
        }
    }

    pub(super) fn learn_producer(&mut self, header: &BatchHeader) {
        let Some(producer) = header.producer else { return };
        if self.producers.len() < PRODUCERS_MAX || self.producers.contains_key(&producer.id) {
            self.producers.insert(producer.id, header.base_offset);
        }
    }

    /// Whether a record stays.
    pub(super) fn keeps(&self, record: &Unpacked, offset: Offset, append_time_us: i64, horizon: &Horizon) -> bool {
        let Some(key) = &record.key else { return true };
        let is_latest = self.latest.get(&self.hash(key)).is_none_or(|latest| *latest <= offset);
        let is_expired = record.value == ValueKind::Absent && append_time_us < horizon.tombstones_before_us;
        is_latest && !is_expired
    }

    /// What becomes of a batch without records.
    pub(super) fn emptied(&self, header: &BatchHeader, horizon: &Horizon) -> Emptied {
        let Some(producer) = header.producer else { return Emptied::Offsets };
        let is_last = self.producers.get(&producer.id).is_none_or(|last| *last == header.base_offset);
        let is_recent = header.append_time_us >= horizon.retries_before_us;
        if is_recent || (is_last && header.append_time_us >= horizon.producers_before_us) {
            Emptied::TellsOfProducer
        } else {
            Emptied::Offsets
        }
    }

    fn hash(&self, key: &[u8]) -> u128 {
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(key)));
        high << 64 | low
    }
}

/// The records of `batch`, if all of it is understood.
pub(super) fn unpack(batch: &Batch, records: &dyn RecordFormat) -> Option<Vec<Unpacked>> {
    let header = &batch.header;
    // Bits of a newer version that must be understood: the records may not be what they seem.
    if header.record_count == 0 || header.attributes & 0xffff != 0 {
        return None;
    }
    let unpacked = records.unpack(batch)?;
    let has_offsets = header.offset_deltas.is_empty() || header.offset_deltas.len() == unpacked.len();
    (unpacked.len() == header.record_count as usize && has_offsets).then_some(unpacked)
}

/// The offsets of the records of a batch.
pub(super) fn offsets(header: &BatchHeader) -> impl Iterator<Item = Offset> + '_ {
    deltas(header).map(|delta| header.base_offset.saturating_add(u64::from(delta)))
}

/// The same, counted from the batch's base offset.
pub(super) fn deltas(header: &BatchHeader) -> impl Iterator<Item = u32> + '_ {
    let delta = |index: u32| match header.offset_deltas.is_empty() {
        true => index,
        false => header.offset_deltas.get(index as usize).copied().unwrap_or(u32::MAX),
    };
    (0..header.record_count).map(delta)
}

/// Takes what is hashed already as it is.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
}
