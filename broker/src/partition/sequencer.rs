//! Decides the place of every batch in a partition. Pure: the owner brings the time and does the writing.

use aqueduct_storage::{Batch, BatchHeader, Offset};

use super::producers::{BATCHES_REMEMBERED, Producers, Stored, Verdict};
use crate::{engine::Lease, error::PublishError};

/// The next offset, the next time, and what is known of producers.
///
/// Invariant: `next_offset` is the log end once everything in flight has been written.
#[derive(Debug)]
pub(super) struct Sequencer {
    lease: Lease,
    next_offset: Offset,
    last_append_time_us: i64,
    producers: Producers,
}

/// What time it is, and until when a batch may be admitted, by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct When {
    pub(super) now_us: i64,
    pub(super) latest_us: i64,
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Stamped; to be written next.
    Append(Batch),
    /// Written, or on its way, under an earlier offset.
    Duplicate(Stored),
}

impl Sequencer {
    pub(super) fn new(lease: Lease, producers: Producers) -> Self {
        let last_append_time_us = lease.last_append_time_us.unwrap_or(i64::MIN);
        Self { lease, next_offset: lease.tail, last_append_time_us, producers }
    }

    pub(super) fn lease(&self) -> Lease {
        self.lease
    }

    pub(super) fn producers(&self) -> &Producers {
        &self.producers
    }

    /// Gives `batch` its offsets, its time and its epoch, unless its producer sequence says otherwise.
    ///
    /// # Errors
    /// Those about sequences, and [`PublishError::NotInTime`]; the batch must not be written.
    pub(super) fn admit(&mut self, mut batch: Batch, when: When) -> Result<Admission, PublishError> {
        if let Some(producer) = batch.header.producer {
            match self.producers.judge(&producer, batch.header.record_count) {
                Verdict::Next => {}
                Verdict::Duplicate(stored) => return Ok(Admission::Duplicate(stored)),
                Verdict::Gap { expected } => {
                    return Err(PublishError::SequenceGap { expected, actual: producer.sequence });
                }
                Verdict::TooOld => {
                    let remembered = BATCHES_REMEMBERED;
                    return Err(PublishError::SequenceTooOld { actual: producer.sequence, remembered });
                }
                Verdict::Fenced { current } => {
                    return Err(PublishError::ProducerFenced { actual: producer.epoch, current });
                }
            }
        }
        let append_time_us = self.last_append_time_us.max(when.now_us);
        if append_time_us > when.latest_us {
            return Err(PublishError::NotInTime { append_time_us, latest_us: when.latest_us });
        }
        self.last_append_time_us = append_time_us;
        batch.header =
            BatchHeader { base_offset: self.next_offset, append_time_us, epoch: self.lease.epoch, ..batch.header };
        self.next_offset = batch.header.next_offset();
        self.producers.remember(&batch.header);
        Ok(Admission::Append(batch))
    }

    /// Nothing at or above `log_end` has been written after all.
    pub(super) fn roll_back(&mut self, log_end: Offset) {
        self.next_offset = log_end;
        self.producers.roll_back(log_end);
    }

    /// Goes on under a new lease, at its tail.
    pub(super) fn renew(&mut self, lease: Lease) {
        self.lease = lease;
        self.roll_back(lease.tail);
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_storage::ProducerSequence;
    use bytes::Bytes;

    use super::*;

    fn batch(record_count: u32, sequence: Option<u64>) -> Batch {
        let producer = sequence.map(|sequence| ProducerSequence { id: [1; 16], epoch: 0, sequence });
        Batch { header: BatchHeader { record_count, producer, ..BatchHeader::default() }, payload: Bytes::new() }
    }

    fn admit(sequencer: &mut Sequencer, batch: Batch, now_us: i64) -> BatchHeader {
        match sequencer.admit(batch, When { now_us, latest_us: i64::MAX }).unwrap() {
            Admission::Append(batch) => batch.header,
            Admission::Duplicate(stored) => panic!("taken for the duplicate of {stored:?}"),
        }
    }

    fn sequencer() -> Sequencer {
        Sequencer::new(Lease { epoch: 3, tail: 10, last_append_time_us: Some(1_000) }, Producers::default())
    }

    #[test]
    fn offsets_are_contiguous_and_times_never_go_back() {
        let mut sequencer = sequencer();
        let first = admit(&mut sequencer, batch(5, None), 2_000);
        let second = admit(&mut sequencer, batch(1, None), 1_500);
        assert_eq!((first.base_offset, first.append_time_us, first.epoch), (10, 2_000, 3));
        assert_eq!((second.base_offset, second.append_time_us, second.epoch), (15, 2_000, 3));
    }

    #[test]
    fn a_batch_that_was_refused_by_the_disk_keeps_its_sequence_for_the_retry() {
        let mut sequencer = sequencer();
        admit(&mut sequencer, batch(5, Some(0)), 0);
        admit(&mut sequencer, batch(5, Some(5)), 0);
        sequencer.roll_back(15);
        let retried = admit(&mut sequencer, batch(5, Some(5)), 0);
        assert_eq!(retried.base_offset, 15);
    }

    #[test]
    fn a_new_lease_goes_on_at_its_tail() {
        let mut sequencer = sequencer();
        admit(&mut sequencer, batch(5, Some(0)), 0);
        sequencer.renew(Lease { epoch: 4, tail: 10, last_append_time_us: None });
        let again = admit(&mut sequencer, batch(5, Some(0)), 0);
        assert_eq!((again.base_offset, again.epoch), (10, 4));
    }

    #[test]
    fn a_batch_that_would_come_too_late_is_not_appended_but_a_retry_of_it_is_recognised() {
        let mut sequencer = sequencer();
        let first = admit(&mut sequencer, batch(5, Some(0)), 100);
        let late = When { now_us: 50, latest_us: 999 };
        let refused = sequencer.admit(batch(5, Some(5)), late).unwrap_err();
        assert_eq!(refused, PublishError::NotInTime { append_time_us: 1000, latest_us: 999 });
        assert!(matches!(sequencer.admit(batch(5, Some(0)), late), Ok(Admission::Duplicate(_))));
        assert_eq!(admit(&mut sequencer, batch(5, Some(5)), 100).base_offset, first.next_offset());
    }
}
