//! Deliveries that have arrived and not been handed out yet. Pure. Credit bounds it.

use std::{collections::VecDeque, ops::Range};

use aqueduct_proto::v1;
use bytes::Bytes;

use super::settlements::Claim;
use crate::{
    codec::{DecodeError, EventsAt},
    dead_letters::{Death, Retry},
    error::ConsumeError,
    record::Event,
    types::{Gap, Offset},
};

/// Notes (gaps, assignments, failures) that wait for the reader. Beyond it new ones are dropped: counters have them.
const NOTES_MAX: usize = 1024;

/// The number under which the broker delivers what a group tries again, or has had redriven.
const REDRIVEN: u32 = u32::MAX;

#[derive(Debug)]
pub(super) enum Entry {
    Batch(Box<Delivered>),
    Note(Note),
}

/// Everything that is not an event.
#[derive(Debug)]
pub(super) enum Note {
    Gap(Gap),
    Assignment { assigned: Vec<u32>, revoked: Vec<u32> },
    Error(ConsumeError),
}

/// One delivery message, handed out event by event.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) claim: Claim,
    pub(super) attempt: u32,
    /// Those of its batch that are delivered, as far as they have not been handed out.
    pub(super) events: EventsAt,
    /// What comes back when it is used up.
    pub(super) credit: v1::Credit,
    /// Records that have failed, whose followers of the same key come again behind them.
    pub(super) failed: Vec<FailedKey>,
}

/// A record that was given back, where records of one key are kept in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailedKey {
    pub(super) key: Bytes,
    /// In the log that it was delivered from.
    pub(super) offset: Offset,
}

/// One event on its way out.
#[derive(Debug)]
pub(super) struct HandedOut {
    pub(super) event: Event,
    /// Its offset in the log that it was delivered from, by which it is settled.
    pub(super) position: Offset,
    /// How it had failed before it was redriven.
    pub(super) death: Option<Box<Death>>,
    pub(super) claim: Claim,
    pub(super) attempt: u32,
}

impl Delivered {
    fn next_event(&mut self) -> Option<Result<Box<HandedOut>, DecodeError>> {
        loop {
            let event = match self.events.next()? {
                Ok(event) => event,
                Err(error) => return Some(Err(error)),
            };
            let follows =
                |failed: &FailedKey| event.offset > failed.offset && event.record.key.as_ref() == Some(&failed.key);
            if !self.failed.iter().any(follows) {
                return Some(Ok(self.hand_out(event)));
            }
        }
    }

    /// A record that has failed before is shown where it was published.
    fn hand_out(&self, event: Event) -> Box<HandedOut> {
        let (claim, attempt, position) = (self.claim, self.attempt, event.offset);
        let retry = (claim.partition == REDRIVEN).then(|| Retry::from_event(event.clone())).flatten();
        let Some(Retry { event: published, death, tried, .. }) = retry else {
            return Box::new(HandedOut { event, position, death: None, claim, attempt });
        };
        let topic = death.topic.as_str().into();
        let event = Event { topic, partition: death.partition, offset: death.offset, ..published };
        let death = (death.redriven > 0).then(|| Box::new(death));
        Box::new(HandedOut { event, position, death, claim, attempt: attempt.saturating_add(tried) })
    }

    /// What nobody has seen of it.
    fn rest(&self) -> Vec<v1::OffsetRange> {
        self.events.rest().map(|Range { start, end }| v1::OffsetRange { from: start, to: end }).collect()
    }
}

/// What the reader gets.
#[derive(Debug)]
pub(super) enum Taken {
    Event(Box<HandedOut>),
    Note(Note),
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    entries: VecDeque<Entry>,
    notes: usize,
}

impl Inbox {
    pub(super) fn deliver(&mut self, delivered: Delivered) {
        self.entries.push_back(Entry::Batch(Box::new(delivered)));
    }

    pub(super) fn note(&mut self, note: Note) {
        if self.notes < NOTES_MAX {
            self.notes += 1;
            self.entries.push_back(Entry::Note(note));
        }
    }

    /// The next event of what is `ready`, or note. `used_up` gets the credit of batches that are finished.
    pub(super) fn take(&mut self, used_up: &mut v1::Credit, ready: impl Fn(Claim) -> bool) -> Option<Taken> {
        let mut at = 0;
        loop {
            match self.entries.get_mut(at)? {
                Entry::Batch(delivered) if !ready(delivered.claim) => at += 1,
                Entry::Batch(delivered) => {
                    let item = delivered.next_event();
                    if item.is_none() {
                        used_up.bytes += delivered.credit.bytes;
                        used_up.records += delivered.credit.records;
                        self.entries.remove(at);
                    }
                    match item {
                        None => {}
                        Some(Ok(event)) => return Some(Taken::Event(event)),
                        Some(Err(error)) => return Some(Taken::Note(Note::Error(error.into()))),
                    }
                }
                Entry::Note(_) => {
                    self.notes -= 1;
                    if let Some(Entry::Note(note)) = self.entries.remove(at) {
                        return Some(Taken::Note(note));
                    }
                }
            }
        }
    }

    /// What follows of a key in deliveries of `claim` is not handed out: it comes again.
    pub(super) fn fail_key(&mut self, claim: Claim, failed: &FailedKey) {
        for entry in &mut self.entries {
            match entry {
                Entry::Batch(delivered) if delivered.claim == claim => delivered.failed.push(failed.clone()),
                Entry::Batch(_) | Entry::Note(_) => {}
            }
        }
    }

    /// What nobody has seen, by whom it belongs to.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Claim, Vec<v1::OffsetRange>)> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Batch(delivered) => Some((delivered.claim, delivered.rest())),
            Entry::Note(_) => None,
        })
    }

    /// Takes out what `gone` says; gives what nobody has seen, and its credit.
    pub(super) fn remove(&mut self, gone: impl Fn(Claim) -> bool) -> Vec<Removed> {
        let mut removed = Vec::new();
        self.entries.retain(|entry| match entry {
            Entry::Batch(delivered) if gone(delivered.claim) => {
                removed.push(Removed { claim: delivered.claim, ranges: delivered.rest(), credit: delivered.credit });
                false
            }
            Entry::Batch(_) | Entry::Note(_) => true,
        });
        removed
    }
}

/// A delivery that goes back unseen.
#[derive(Debug, PartialEq)]
pub(super) struct Removed {
    pub(super) claim: Claim,
    pub(super) ranges: Vec<v1::OffsetRange>,
    pub(super) credit: v1::Credit,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::{decode_batch, encode_batch},
        record::Record,
        types::Codec,
    };

    const CREDIT: v1::Credit = v1::Credit { bytes: 100, records: 3 };

    fn events_at(partition: u32, batch: v1::Batch, ranges: &[(Offset, Offset)]) -> EventsAt {
        let batch = decode_batch(&"orders".into(), partition, batch).expect("decodes");
        batch.events_at(ranges.iter().map(|(from, to)| *from..*to))
    }

    fn delivered(partition: u32, ranges: &[(Offset, Offset)]) -> Delivered {
        let records: Vec<_> = (0..5).map(|value| Record::new(vec![value])).collect();
        let batch = v1::Batch { base_offset: 10, ..encode_batch(&records, Codec::None).expect("encodes") };
        Delivered {
            claim: Claim { partition, generation: 1 },
            attempt: 1,
            events: events_at(partition, batch, ranges),
            credit: CREDIT,
            failed: Vec::new(),
        }
    }

    fn offset(taken: Option<Taken>) -> Option<Offset> {
        match taken {
            Some(Taken::Event(event)) => Some(event.event.offset),
            Some(Taken::Note(_)) | None => None,
        }
    }

    #[test]
    fn only_offsets_in_the_ranges_come_out_and_credit_comes_back_once() {
        let mut inbox = Inbox::default();
        inbox.deliver(delivered(0, &[(10, 12), (14, 15)]));
        let mut credit = v1::Credit::default();
        let offsets: Vec<_> = std::iter::from_fn(|| offset(inbox.take(&mut credit, |_| true))).collect();
        assert_eq!((offsets, credit), (vec![10, 11, 14], CREDIT));
        assert!(inbox.take(&mut credit, |_| true).is_none());
        assert_eq!(credit, CREDIT);
    }

    #[test]
    fn what_follows_a_failed_record_of_its_key_is_not_handed_out() {
        let records: Vec<_> = ["a", "b", "a", "b", "a"].map(|key| Record::new("x").key(key)).into();
        let batch = v1::Batch { base_offset: 10, ..encode_batch(&records, Codec::None).expect("encodes") };
        let events = events_at(0, batch, &[(10, 15)]);
        let mut inbox = Inbox::default();
        inbox.deliver(Delivered { events, ..delivered(0, &[(10, 15)]) });
        let claim = Claim { partition: 0, generation: 1 };
        inbox.fail_key(claim, &FailedKey { key: "a".into(), offset: 11 });
        inbox.fail_key(Claim { generation: 2, ..claim }, &FailedKey { key: "b".into(), offset: 0 });
        let mut credit = v1::Credit::default();
        let left: Vec<_> = std::iter::from_fn(|| offset(inbox.take(&mut credit, |_| true))).collect();
        assert_eq!((left, credit), (vec![10, 11, 13], CREDIT));
    }

    #[test]
    fn a_revocation_gives_back_only_what_nobody_has_seen() {
        let mut inbox = Inbox::default();
        inbox.deliver(delivered(0, &[(10, 12), (13, 15)]));
        inbox.deliver(delivered(1, &[(10, 15)]));
        let mut credit = v1::Credit::default();
        assert_eq!(offset(inbox.take(&mut credit, |_| true)), Some(10));
        let removed = inbox.remove(|claim| claim.partition == 0);
        let ranges = vec![v1::OffsetRange { from: 11, to: 12 }, v1::OffsetRange { from: 13, to: 15 }];
        let claim = Claim { partition: 0, generation: 1 };
        assert_eq!(removed, [Removed { claim, ranges, credit: CREDIT }]);
        let left: Vec<_> = std::iter::from_fn(|| offset(inbox.take(&mut credit, |_| true))).collect();
        assert_eq!(left, [10, 11, 12, 13, 14]);
    }

    #[test]
    fn what_is_not_ready_is_passed_over_and_notes_are_always_ready() {
        let mut inbox = Inbox::default();
        inbox.deliver(delivered(0, &[(10, 12)]));
        inbox.deliver(delivered(1, &[(10, 11)]));
        inbox.note(Note::Assignment { assigned: vec![7], revoked: vec![] });
        let mut credit = v1::Credit::default();
        assert_eq!(offset(inbox.take(&mut credit, |claim| claim.partition == 0)), Some(10));
        assert_eq!(offset(inbox.take(&mut credit, |claim| claim.partition == 1)), Some(10));
        let note = inbox.take(&mut credit, |_| false);
        assert!(matches!(note, Some(Taken::Note(Note::Assignment { .. }))));
        assert!(inbox.take(&mut credit, |_| false).is_none() && credit == v1::Credit::default());
        let waiting: Vec<_> = inbox.waiting().map(|(claim, ranges)| (claim.partition, ranges)).collect();
        assert_eq!(waiting, [(0, vec![v1::OffsetRange { from: 11, to: 12 }]), (1, vec![])]);
        assert_eq!(offset(inbox.take(&mut credit, |_| true)), Some(11));
    }
}
