//! What a partition remembers of its producers, so that a retry is stored once. Pure: no clock, no disk.
//!
//! A producer numbers its records in a partition from 0. The table knows the last batches of each producer with their
//! offsets; a batch that is sent again is recognised and answered with the offset it has.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use aqueduct_storage::{BatchHeader, Offset, ProducerSequence};
use bytes::Bytes;
use prost::Message as _;

/// Batches of one producer that are remembered, and so the most that it may have in flight.
pub(crate) const BATCHES_REMEMBERED: usize = 64;

/// Producers that one partition remembers; the ones that were silent for longest are forgotten first.
const PRODUCERS_MAX: usize = 4096;

/// A producer that was silent for this long is forgotten.
const PRODUCER_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// A batch that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Of its first record.
    pub base_offset: Offset,
    /// Its records.
    pub record_count: u32,
    /// When it was stored.
    pub append_time_us: i64,
    /// The log's epoch then.
    pub epoch: u32,
    sequence: u64,
}

/// What to do with a sequenced batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It comes next: store it.
    Next,
    /// It has been stored.
    Duplicate(Stored),
    /// Batches before it are missing.
    Gap {
        /// What must come next.
        expected: u64,
    },
    /// It lies before everything that is remembered.
    TooOld,
    /// A newer instance of the producer exists.
    Fenced {
        /// Its epoch.
        current: u32,
    },
}

/// See the [module](self).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: HashMap<[u8; 16], Producer>,
    /// The broker's own, which is never forgotten.
    kept: Option<[u8; 16]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: u32,
    /// Ascending and contiguous in sequence.
    stored: VecDeque<Stored>,
}

impl Producer {
    fn next_sequence(&self) -> u64 {
        self.stored.back().map_or(0, |last| last.sequence + u64::from(last.record_count))
    }

    fn last_seen_us(&self) -> i64 {
        self.stored.back().map_or(i64::MIN, |last| last.append_time_us)
    }
}

impl Producers {
    /// Judges a batch of `record_count` records.
    pub(crate) fn judge(&self, producer: &ProducerSequence, record_count: u32) -> Verdict {
        let Some(known) = self.by_id.get(&producer.id) else { return next_or_gap(0, producer.sequence) };
        if producer.epoch < known.epoch {
            return Verdict::Fenced { current: known.epoch };
        }
        if producer.epoch > known.epoch {
            return next_or_gap(0, producer.sequence);
        }
        let expected = known.next_sequence();
        if producer.sequence >= expected {
            return next_or_gap(expected, producer.sequence);
        }
        let same = |stored: &&Stored| stored.sequence == producer.sequence && stored.record_count == record_count;
        known.stored.iter().find(same).map_or(Verdict::TooOld, |stored| Verdict::Duplicate(*stored))
    }

    /// Remembers a batch that follows the producer's last one, as it is about to be stored.
    pub(crate) fn remember(&mut self, header: &BatchHeader) {
        let Some(sequence) = header.producer else { return };
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&sequence.id) {
            self.forget_silent(header.append_time_us);
        }
        let producer = self
            .by_id
            .entry(sequence.id)
            .or_insert_with(|| Producer { epoch: sequence.epoch, stored: VecDeque::new() });
        if producer.epoch != sequence.epoch {
            producer.epoch = sequence.epoch;
            producer.stored.clear();
        }
        // Twice as many as promised: half of them may be in flight and be rolled back.
        if producer.stored.len() >= 2 * BATCHES_REMEMBERED {
            producer.stored.pop_front();
        }
        producer.stored.push_back(Stored {
            base_offset: header.base_offset,
            // As it was published: compaction may have taken records out since.
            record_count: header.span(),
            append_time_us: header.append_time_us,
            epoch: header.epoch,
            sequence: sequence.sequence,
        });
    }

    /// Forgets batches at or above `log_end`: they have not been stored after all.
    pub(crate) fn roll_back(&mut self, log_end: Offset) {
        self.by_id.retain(|_, producer| {
            while producer.stored.back().is_some_and(|last| last.base_offset >= log_end) {
                producer.stored.pop_back();
            }
            !producer.stored.is_empty()
        });
    }

    /// Never forgets this producer.
    pub(crate) fn keep(&mut self, id: [u8; 16]) {
        self.kept = Some(id);
    }

    /// Whether there is anything to remember.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Drops producers beyond their time, and if that is not enough an eighth of all, the longest silent first.
    fn forget_silent(&mut self, now_us: i64) {
        let retention_us = i64::try_from(PRODUCER_RETENTION.as_micros()).unwrap_or(i64::MAX);
        let kept = self.kept;
        self.by_id
            .retain(|id, producer| Some(*id) == kept || now_us.saturating_sub(producer.last_seen_us()) < retention_us);
        if self.by_id.len() < PRODUCERS_MAX {
            return;
        }
        let mut seen: Vec<(i64, [u8; 16])> =
            self.by_id.iter().filter(|(id, _)| Some(**id) != kept).map(|(id, p)| (p.last_seen_us(), *id)).collect();
        let (silent, _, _) = seen.select_nth_unstable(PRODUCERS_MAX / 8);
        for (_, id) in silent {
            self.by_id.remove(id);
        }
    }

    /// Encodes what lies below `high_watermark`, which is durable, with a checksum.
    pub(crate) fn checkpoint(&self, high_watermark: Offset) -> Bytes {
        let producers = self
            .by_id
            .iter()
            .map(|(id, producer)| ProducerState {
                id: id.to_vec(),
                epoch: producer.epoch,
                stored: producer
                    .stored
                    .iter()
                    .filter(|s| s.base_offset < high_watermark)
                    .map(StoredState::from)
                    .collect(),
            })
            .filter(|producer| !producer.stored.is_empty())
            .collect();
        let state = Checkpoint { version: 1, as_of: high_watermark, producers };
        let mut bytes = state.encode_to_vec();
        let checksum = aqueduct_storage::payload_crc(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.into()
    }

    /// Decodes a checkpoint: the table, and the offset from which the log's headers complete it. `None` if it is
    /// damaged or of another version: the log then tells everything.
    pub(crate) fn from_checkpoint(bytes: &[u8]) -> Option<(Self, Offset)> {
        let (state, checksum) = bytes.split_last_chunk::<4>()?;
        if aqueduct_storage::payload_crc(state) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let state = Checkpoint::decode(state).ok().filter(|state| state.version == 1)?;
        let by_id = state
            .producers
            .into_iter()
            .map(|producer| {
                let stored = producer.stored.iter().map(Stored::from).collect();
                Some((producer.id.try_into().ok()?, Producer { epoch: producer.epoch, stored }))
            })
            .collect::<Option<_>>()?;
        Some((Self { by_id, kept: None }, state.as_of))
    }
}

fn next_or_gap(expected: u64, sequence: u64) -> Verdict {
    if sequence == expected { Verdict::Next } else { Verdict::Gap { expected } }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Checkpoint {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    as_of: u64,
    #[prost(message, repeated, tag = "3")]
    producers: Vec<ProducerState>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProducerState {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(message, repeated, tag = "3")]
    stored: Vec<StoredState>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredState {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    base_offset: u64,
    #[prost(uint32, tag = "3")]
    record_count: u32,
    #[prost(int64, tag = "4")]
    append_time_us: i64,
    #[prost(uint32, tag = "5")]
    epoch: u32,
}

impl From<&Stored> for StoredState {
    fn from(stored: &Stored) -> Self {
        let Stored { base_offset, record_count, append_time_us, epoch, sequence } = *stored;
        Self { sequence, base_offset, record_count, append_time_us, epoch }
    }
}

impl From<&StoredState> for Stored {
    fn from(state: &StoredState) -> Self {
        let StoredState { sequence, base_offset, record_count, append_time_us, epoch } = *state;
        Self { base_offset, record_count, append_time_us, epoch, sequence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(id: u8, epoch: u32, sequence: u64) -> ProducerSequence {
        ProducerSequence { id: [id; 16], epoch, sequence }
    }

    fn header(producer: ProducerSequence, base_offset: Offset, record_count: u32) -> BatchHeader {
        let append_time_us = i64::try_from(base_offset).unwrap();
        BatchHeader { base_offset, record_count, append_time_us, producer: Some(producer), ..BatchHeader::default() }
    }

    #[test]
    fn a_retry_is_answered_with_its_first_offset() {
        let mut producers = Producers::default();
        assert_eq!(producers.judge(&sequence(1, 0, 0), 3), Verdict::Next);
        producers.remember(&header(sequence(1, 0, 0), 100, 3));
        producers.remember(&header(sequence(1, 0, 3), 103, 2));
        let Verdict::Duplicate(stored) = producers.judge(&sequence(1, 0, 0), 3) else { panic!("not a duplicate") };
        assert_eq!(stored.base_offset, 100);
        assert_eq!(producers.judge(&sequence(1, 0, 5), 1), Verdict::Next);
    }

    #[test]
    fn gaps_old_epochs_and_forgotten_sequences_are_told_apart() {
        let mut producers = Producers::default();
        assert_eq!(producers.judge(&sequence(1, 0, 4), 1), Verdict::Gap { expected: 0 });
        for batch in 0..200 {
            producers.remember(&header(sequence(1, 7, batch), 10 + batch, 1));
        }
        assert_eq!(producers.judge(&sequence(1, 7, 201), 1), Verdict::Gap { expected: 200 });
        assert_eq!(producers.judge(&sequence(1, 6, 200), 1), Verdict::Fenced { current: 7 });
        assert_eq!(producers.judge(&sequence(1, 7, 3), 1), Verdict::TooOld);
        assert_eq!(producers.judge(&sequence(1, 8, 0), 1), Verdict::Next);
        assert_eq!(producers.judge(&sequence(1, 8, 1), 1), Verdict::Gap { expected: 0 });
    }

    #[test]
    fn a_batch_that_was_not_stored_can_be_sent_again() {
        let mut producers = Producers::default();
        producers.remember(&header(sequence(1, 0, 0), 0, 1));
        producers.remember(&header(sequence(1, 0, 1), 1, 1));
        producers.remember(&header(sequence(2, 0, 0), 2, 1));
        producers.roll_back(1);
        assert_eq!(producers.judge(&sequence(1, 0, 1), 1), Verdict::Next);
        assert_eq!(producers.judge(&sequence(2, 0, 0), 1), Verdict::Next);
    }

    #[test]
    fn a_checkpoint_holds_what_is_durable_and_notices_damage() {
        let mut producers = Producers::default();
        producers.remember(&header(sequence(1, 0, 0), 0, 5));
        producers.remember(&header(sequence(1, 0, 5), 5, 5));
        let mut bytes = producers.checkpoint(5).to_vec();
        let (restored, as_of) = Producers::from_checkpoint(&bytes).unwrap();
        assert_eq!(as_of, 5);
        producers.roll_back(5);
        assert_eq!(restored, producers);
        bytes[3] ^= 1;
        assert_eq!(Producers::from_checkpoint(&bytes), None);
    }

    #[test]
    fn the_number_of_producers_is_bounded_and_the_silent_ones_go_first() {
        let mut producers = Producers::default();
        for n in 0..3 * PRODUCERS_MAX as u64 {
            let id = u128::from(n).to_be_bytes();
            producers.remember(&header(ProducerSequence { id, epoch: 0, sequence: 0 }, n, 1));
        }
        assert!(producers.by_id.len() <= PRODUCERS_MAX);
        let last = u128::from(3 * PRODUCERS_MAX as u64 - 1).to_be_bytes();
        assert!(producers.by_id.contains_key(&last));
    }
}
