//! What waits for one target, and the one transfer to it that is under way. Pure.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{
    entry::Entry,
    state::{Intent, Target},
};
use crate::topics::Topic;

/// Records of one transfer.
const RECORDS_MAX: usize = 1024;
/// Bytes of their records, unless a single one is larger.
const BYTES_MAX: usize = 256 << 10;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long what is due waits for a target in trouble before it goes back into a tier.
const PATIENCE: Duration = Duration::from_secs(5);

/// A record that is to go.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    /// The tier in which it lies, and where.
    pub(super) from: u8,
    pub(super) offset: Offset,
    pub(super) bytes: usize,
    pub(super) cached: Option<Entry>,
}

/// What the lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    /// Its next intent is on its way into the journal.
    Deciding,
    /// Its first intent is being carried out.
    Moving,
    /// Its first intent is carried out again then.
    Resting {
        until: Instant,
    },
}

/// A target that has failed and has not worked since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trouble {
    since: Instant,
    attempts: u32,
}

/// See the [module](self).
pub(super) struct Lane {
    pub(super) phase: Phase,
    queue: VecDeque<Ready>,
    /// Decided, in order. More than one only after a start.
    intents: VecDeque<Intent>,
    /// The records of the first intent, if all of them are in memory.
    pub(super) cached: Option<Vec<Entry>>,
    /// Of its intents of this life, unless the target knows a later one.
    epoch: u32,
    /// Of the next of those.
    next_sequence: u64,
    trouble: Option<Trouble>,
    /// Whether it is in the mover's round of lanes that have work.
    pub(super) is_active: bool,
    pub(super) topic: Option<Arc<Topic>>,
    /// There is no such partition any more, and somebody has been told.
    pub(super) is_gone: bool,
}

impl Lane {
    /// In a life of the store with that epoch.
    pub(super) fn new(epoch: u32) -> Self {
        Self {
            phase: Phase::Idle,
            queue: VecDeque::new(),
            intents: VecDeque::new(),
            cached: None,
            epoch,
            next_sequence: 0,
            trouble: None,
            is_active: false,
            topic: None,
            is_gone: false,
        }
    }

    /// Adds an intent of an earlier life.
    pub(super) fn resume(&mut self, intent: Intent) {
        self.intents.push_back(intent);
    }

    pub(super) fn push(&mut self, ready: Ready) {
        self.queue.push_back(ready);
    }

    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.intents.is_empty()
    }

    /// The intent that comes next, if it has been decided.
    pub(super) fn intent(&self) -> Option<&Intent> {
        self.intents.front()
    }

    /// Decides what goes next: the first records of the queue that lie in one tier.
    pub(super) fn decide(&mut self, id: u64, to: Target) -> Option<Intent> {
        let from = self.queue.front()?.from;
        let (mut offsets, mut cached, mut bytes) = (Vec::new(), Some(Vec::new()), 0);
        while let Some(ready) = self.queue.front()
            && ready.from == from
            && offsets.len() < RECORDS_MAX
            && (offsets.is_empty() || bytes + ready.bytes <= BYTES_MAX)
        {
            bytes += ready.bytes;
            offsets.push(ready.offset);
            let entry = self.queue.pop_front().and_then(|ready| ready.cached);
            cached = cached.zip(entry).map(|(mut entries, entry)| {
                entries.push(entry);
                entries
            });
        }
        let intent = Intent { id, from, to, epoch: self.epoch, sequence: self.next_sequence, offsets };
        self.next_sequence += intent.offsets.len() as u64;
        self.intents.push_back(intent.clone());
        self.cached = cached;
        self.phase = Phase::Deciding;
        Some(intent)
    }

    /// The first intent has been carried out.
    pub(super) fn made(&mut self) -> Option<Intent> {
        self.phase = Phase::Idle;
        self.trouble = None;
        self.intents.pop_front()
    }

    /// The first intent is not carried out, and nothing of it was.
    pub(super) fn withdraw(&mut self) -> Option<Intent> {
        let intent = self.made()?;
        if intent.epoch == self.epoch {
            self.next_sequence = intent.sequence;
        }
        Some(intent)
    }

    /// The target misses numbers before the first intent's, so nothing of that is there: it is decided anew.
    pub(super) fn renumber(&mut self, expected: u64) -> Option<Intent> {
        let intent = self.intents.front_mut()?;
        let sequence = if intent.epoch == self.epoch { expected } else { self.next_sequence };
        (intent.epoch, intent.sequence) = (self.epoch, sequence);
        self.next_sequence = sequence + intent.offsets.len() as u64;
        self.phase = Phase::Deciding;
        Some(intent.clone())
    }

    /// The target knows a later epoch than the first intent's: of this life, if that is of an earlier one and something
    /// before it was missing, or of a store that was there before this one. Nothing of the intent is there.
    pub(super) fn fenced(&mut self, current: u32) -> Option<Intent> {
        if current > self.epoch {
            (self.epoch, self.next_sequence) = (current.saturating_add(1), 0);
        }
        self.renumber(0)
    }

    /// Some records of the first intent are lost: it is decided anew without them.
    pub(super) fn lose(&mut self, lost: &[Offset]) -> Option<Intent> {
        let intent = self.intents.front_mut()?;
        let before = intent.offsets.len();
        intent.offsets.retain(|offset| !lost.contains(offset));
        if intent.epoch == self.epoch {
            self.next_sequence -= (before - intent.offsets.len()) as u64;
        }
        self.phase = Phase::Deciding;
        Some(intent.clone())
    }

    /// The target takes nothing now. Returns whether that is new.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let is_new = self.trouble.is_none();
        let trouble = self.trouble.get_or_insert(Trouble { since: now, attempts: 0 });
        let pause = RETRY_MIN.saturating_mul(1 << trouble.attempts.min(10)).min(RETRY_MAX);
        trouble.attempts += 1;
        self.phase = Phase::Resting { until: now + pause };
        // Whoever waits long does so on disk.
        self.cached = None;
        self.queue.iter_mut().for_each(|ready| ready.cached = None);
        is_new
    }

    /// What is to wait in a tier, because the target has been in trouble for too long; and in which.
    pub(super) fn give_up(&mut self, now: Instant) -> Option<(u8, VecDeque<Ready>)> {
        let trouble = self.trouble.filter(|trouble| now - trouble.since >= PATIENCE && !self.queue.is_empty())?;
        let tier = u8::try_from((trouble.attempts / 8).clamp(1, 4)).unwrap_or(1);
        Some((tier, std::mem::take(&mut self.queue)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Target = Target::Tier(3);

    fn ready(from: u8, offset: Offset, bytes: usize) -> Ready {
        Ready { from, offset, bytes, cached: None }
    }

    fn lane(records: impl IntoIterator<Item = Ready>) -> Lane {
        let mut lane = Lane::new(7);
        records.into_iter().for_each(|ready| lane.push(ready));
        lane
    }

    fn offsets(intent: Option<Intent>) -> Vec<Offset> {
        intent.map(|intent| intent.offsets).unwrap_or_default()
    }

    #[test]
    fn transfers_come_out_of_one_tier_are_bounded_and_numbered_one_after_the_other() {
        let large = BYTES_MAX / 2 + 1;
        let records = [ready(0, 5, 1), ready(0, 3, 1), ready(2, 9, 1), ready(2, 10, large), ready(2, 11, large)];
        let mut lane = lane(records);
        let mut decided = Vec::new();
        while let Some(intent) = lane.decide(decided.len() as u64, TO) {
            assert_eq!(lane.phase, Phase::Deciding);
            decided.push((intent.from, intent.epoch, intent.sequence, intent.offsets));
            lane.made();
        }
        assert_eq!(decided, [(0, 7, 0, vec![5, 3]), (2, 7, 2, vec![9, 10]), (2, 7, 4, vec![11])]);
        assert!(!lane.has_work());
    }

    #[test]
    fn what_a_target_does_not_have_is_numbered_anew_and_what_is_lost_leaves_no_gap() {
        let mut lane = lane((0..6).map(|offset| ready(0, offset, BYTES_MAX / 3)));
        let earlier = Intent { id: 1, from: 0, to: TO, epoch: 2, sequence: 40, offsets: vec![100, 101] };
        lane.resume(earlier);
        let again = lane.renumber(17).unwrap();
        assert_eq!((again.id, again.epoch, again.sequence), (1, 7, 0), "an earlier life begins anew");
        lane.made();
        let intent = lane.decide(2, TO).unwrap();
        assert_eq!((intent.sequence, intent.offsets.len()), (2, 3));
        assert_eq!(offsets(lane.lose(&[1])), [0, 2]);
        lane.made();
        let next = lane.decide(3, TO).unwrap();
        assert_eq!((next.sequence, &next.offsets[..]), (4, &[3, 4, 5][..]));
        assert_eq!(lane.renumber(0).unwrap().sequence, 0, "the target forgot");
        let later = lane.fenced(20).unwrap();
        assert_eq!((later.epoch, later.sequence), (21, 0), "the target knows a store that was there before");
    }

    #[test]
    fn what_is_withdrawn_gives_its_numbers_back() {
        let mut lane = lane([ready(0, 0, 1)]);
        lane.decide(0, TO);
        assert_eq!(offsets(lane.withdraw()), [0]);
        lane.push(ready(0, 1, 1));
        assert_eq!(lane.decide(1, TO).unwrap().sequence, 0);
    }

    #[test]
    fn a_target_in_trouble_is_tried_less_and_less_often_and_what_waits_for_it_goes_after_a_while() {
        let mut lane = lane([ready(0, 0, BYTES_MAX), ready(0, 1, 1)]);
        lane.decide(0, TO);
        let start = Instant::now();
        let mut now = start;
        assert!(lane.failed(now), "somebody is told once");
        let (mut pauses, mut given_up) = (Vec::new(), Vec::new());
        while now - start < 3 * PATIENCE {
            let Phase::Resting { until } = lane.phase else { panic!("{:?}", lane.phase) };
            if let Some((tier, waiting)) = lane.give_up(now) {
                assert!(now - start >= PATIENCE && (1..=4).contains(&tier));
                given_up.extend(waiting.into_iter().map(|ready| ready.offset));
            }
            pauses.push(until - now);
            now = until;
            assert!(!lane.failed(now));
        }
        assert!(pauses.is_sorted() && pauses.last() == Some(&RETRY_MAX), "{pauses:?}");
        assert_eq!(given_up, [1], "once, and what was decided stays");
        assert!(lane.intent().is_some());
        lane.made();
        assert!(!lane.has_work());
    }
}
