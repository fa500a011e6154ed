//! Everything that a log holds, damage included.

use aqueduct_storage::{Batch, Offset, PartitionLog, ReadError, Window, payload_crc};

/// More steps than there can be batches and damaged places in a small log.
const STEPS_MAX: usize = 10_000;

/// What a read has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Batch {
        from: Offset,
        to: Offset,
        epoch: u32,
        payload_crc: u32,
    },
    Damage {
        from: Offset,
        to: Offset,
    },
    /// Reading cannot go on behind it.
    Refused(String),
}

impl Found {
    pub(crate) fn of(batch: &Batch) -> Self {
        let (from, to) = (batch.header.base_offset, batch.header.next_offset());
        Self::Batch { from, to, epoch: batch.header.epoch, payload_crc: batch.header.payload_crc }
    }
}

/// Reads `log` from its start to its high watermark.
pub(crate) fn everything(log: &PartitionLog) -> Vec<Found> {
    let Window { log_start, high_watermark } = log.window();
    let reader = log.reader();
    let (mut found, mut at) = (Vec::new(), log_start);
    while at < high_watermark {
        assert!(found.len() < STEPS_MAX, "reading does not end");
        let before = at;
        match reader.read(at, 700) {
            Ok(batches) => {
                for batch in batches {
                    assert_eq!(payload_crc(&batch.payload), batch.header.payload_crc, "damage was delivered");
                    at = batch.header.next_offset();
                    found.push(Found::of(&batch));
                }
            }
            Err(ReadError::Corrupt(damage)) => {
                at = damage.to;
                found.push(Found::Damage { from: damage.from, to: damage.to });
            }
            // What a repair has taken out.
            Err(ReadError::Lost { from, to }) => {
                at = to;
                found.push(Found::Damage { from, to });
            }
            Err(error @ ReadError::OffsetOutOfRange { .. }) => panic!("{error}"),
            Err(ReadError::Storage(error)) => {
                found.push(Found::Refused(error.to_string()));
                return found;
            }
        }
        assert!(at > before, "a read makes progress");
    }
    found
}

/// What was read follows without a gap, and reaches from one end of the window to the other.
pub(crate) fn assert_sound(found: &[Found], window: Window) {
    assert!(window.log_start <= window.high_watermark, "{window:?}");
    let mut at = window.log_start;
    for (number, item) in found.iter().enumerate() {
        match item {
            // The log may start in the middle of a batch, and damage may end in one.
            Found::Batch { from, to, .. } | Found::Damage { from, to } => {
                assert!(*from == at || (*from < at && *to > at), "a gap at {at}: item {number} of {found:?}");
                at = *to;
            }
            Found::Refused(_) => return,
        }
    }
    assert!(at >= window.high_watermark, "nothing is said of what lies from {at} on, in {window:?}");
}

/// What a log answers to questions that an index makes faster.
pub(crate) fn lookups(log: &PartitionLog) -> Vec<String> {
    let reader = log.reader();
    let Window { log_start, high_watermark } = log.window();
    let mut answers = Vec::new();
    for offset in (log_start..=high_watermark).step_by(3) {
        answers.push(format!("headers at {offset}: {:?}", reader.headers(offset, 3)));
        answers.push(format!("time at {offset}: {:?}", reader.append_time_at(offset)));
        let time_us = i64::try_from(offset * 10).unwrap_or(i64::MAX) - 5;
        answers.push(format!("offset at {time_us}: {:?}", reader.offset_for_time(time_us)));
        // An estimate: it may differ, but must not fail.
        reader.bytes_between(log_start, offset).expect("an estimate");
        reader.bytes_between(offset, high_watermark).expect("an estimate");
    }
    answers
}
