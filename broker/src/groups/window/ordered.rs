//! In order: a record that comes back takes everything after it along, so delivery goes on from the first record that is
//! not settled. One that has failed too often does not come back: it is parked, and waits for nobody, or it halts the
//! partition.

use std::{collections::VecDeque, ops::Range};

use aqueduct_storage::{BatchHeader, Offset};
use tokio::time::Instant;

use super::{Expired, Fault, NotDelivered, OPEN_RECORDS_MAX, Parking, Pause, Portion, Stop, settle_holes};
use crate::groups::{
    assignment::MemberId,
    progress::Progress,
    ranges::{RangeMap, RangeSet},
    retry::{Failure, OnExhausted, RetryPolicy},
};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct OrderedWindow {
    progress: Progress,
    retry: RetryPolicy,
    /// The next offset to read.
    cursor: Offset,
    /// Everything below has been delivered at least once.
    delivered_end: Offset,
    /// Delivered and not settled yet, and until when.
    open: RangeMap<Instant>,
    /// Deadlines of open ranges in order of time. A range may have been settled since.
    deadlines: VecDeque<(Instant, Range<Offset>)>,
    /// Taken back because something before them was: no attempt has been counted yet.
    taken_along: RangeSet,
    /// On their way to the dead letters: not delivered any more, not settled yet.
    parking: RangeMap<Failure>,
    /// An exhausted record that nothing may overtake.
    halted: Option<Offset>,
    /// Nothing is delivered before.
    held_until: Option<Instant>,
}

impl OrderedWindow {
    /// Goes on from `progress`.
    pub(super) fn new(progress: Progress, retry: RetryPolicy) -> Self {
        let cursor = progress.committed();
        Self {
            progress,
            retry,
            cursor,
            delivered_end: cursor,
            open: RangeMap::default(),
            deadlines: VecDeque::new(),
            taken_along: RangeSet::default(),
            parking: RangeMap::default(),
            halted: None,
            held_until: None,
        }
    }

    /// What fails from now on is treated by this policy, and so is what halts the partition.
    pub(super) fn set_retry(&mut self, retry: RetryPolicy) {
        self.retry = retry;
        // Read again, it is tried, parked, or halts again.
        self.halted = None;
    }

    /// How far the group has got.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Where to read next.
    pub(super) fn cursor(&self) -> Offset {
        self.cursor
    }

    /// Whether nothing is with the member, or on its way to the dead letters.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty() && self.parking.is_empty()
    }

    /// The record at which delivery has stopped for good, and how it has failed.
    pub(super) fn halted(&self) -> Option<(Offset, Failure)> {
        let offset = self.halted?;
        let (_, failure) = self.progress.failures_in(&(offset..offset + 1)).pop()?;
        Some((offset, failure))
    }

    /// How many records are with the member.
    pub(super) fn open_records(&self) -> u64 {
        self.open.offsets()
    }

    /// Whether more may be delivered.
    pub(super) fn has_room(&self) -> bool {
        self.halted != Some(self.cursor) && self.cursor.saturating_sub(self.progress.committed()) < OPEN_RECORDS_MAX
    }

    /// Until when nothing may be delivered, if that is after `now`.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| *until > now)
    }

    /// Why nothing further is delivered; `owner` has what is open.
    pub(super) fn stop(&self, owner: MemberId, now: Instant) -> Option<Stop> {
        let first = self.progress.committed();
        if let Some((offset, failure)) = self.halted().filter(|_| self.halted == Some(self.cursor)) {
            return Some(Stop::Halted { offset, failure });
        }
        if let Some(until) = self.held_until(now) {
            // A pause may outlive its record, which somebody has acked all the same.
            let failures = self.progress.failures_in(&(self.cursor..self.delivered_end));
            let (range, failure) = failures.into_iter().next()?;
            return Some(Stop::Held { offset: range.start, failure, until });
        }
        (!self.has_room()).then(|| Stop::TooFarAhead {
            first,
            with: self.open.any_within(&(first..first + 1), |_| true).then_some(owner),
        })
    }

    /// Delivers what is due of a batch that was read at the cursor, and moves on behind it. Nothing may be due.
    pub(super) fn deliver(&mut self, header: &BatchHeader, deadline: Instant) -> Vec<Portion> {
        settle_holes(&mut self.progress, self.cursor, header);
        let span = self.cursor.max(header.base_offset)..header.next_offset();
        let mut portions: Vec<Portion> = Vec::new();
        for (range, failure) in self.due_in(&span) {
            let attempts = failure.as_ref().map_or(0, |failure| failure.attempts);
            if let Some(failure) = failure.filter(|failure| self.retry.is_exhausted(failure.attempts)) {
                match self.retry.on_exhausted {
                    OnExhausted::Park | OnExhausted::ParkKey => self.parking.insert(range, failure),
                    OnExhausted::Halt => {
                        self.halted = Some(range.start);
                        break;
                    }
                }
                continue;
            }
            self.open.insert(range.clone(), deadline);
            self.taken_along.remove(range.clone());
            match portions.last_mut() {
                Some(portion) if portion.attempt == attempts + 1 => portion.ranges.push(range),
                _ => portions.push(Portion { ranges: vec![range], attempt: attempts + 1 }),
            }
        }
        if let (Some(first), Some(last)) = (portions.first(), portions.last()) {
            let whole = first.ranges[0].start..last.ranges[last.ranges.len() - 1].end;
            self.deadlines.push_back((deadline, whole));
        }
        self.cursor = self.cursor.max(self.halted.unwrap_or(header.next_offset()));
        self.delivered_end = self.delivered_end.max(self.cursor);
        portions
    }

    /// These records have been handled.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is settled.
    pub(super) fn ack(&mut self, ranges: &[Range<Offset>]) -> Result<(), NotDelivered> {
        self.check(ranges)?;
        for range in ranges {
            self.open.carve(range);
            self.taken_along.remove(range.clone());
            self.parking.carve(range);
            self.progress.ack(range.clone());
        }
        Ok(())
    }

    /// These records could not be handled: they come again after `pause`, as the next attempt.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is settled.
    pub(super) fn nack(&mut self, ranges: &[Range<Offset>], fault: &Fault, pause: Pause) -> Result<(), NotDelivered> {
        self.check(ranges)?;
        let mut first = None;
        for range in ranges {
            for part in self.take_back(range) {
                self.fail(&part, fault, pause);
                first = first.into_iter().chain([part.start]).min();
            }
        }
        first.into_iter().for_each(|first| self.go_back_to(first));
        Ok(())
    }

    /// These records will never be handled: they go to the dead letters, and nothing waits for them.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is settled.
    pub(super) fn park(&mut self, ranges: &[Range<Offset>], fault: &Fault) -> Result<(), NotDelivered> {
        self.check(ranges)?;
        for range in ranges {
            for part in self.take_back(range) {
                self.progress.fail(&part, &fault.error, fault.at_us);
                let failures = self.progress.failures_in(&part);
                self.parking.insert(part, Failure::first(&fault.error, fault.at_us));
                failures.into_iter().for_each(|(part, failure)| self.parking.insert(part, failure));
            }
        }
        Ok(())
    }

    /// The next record for the dead letters. It stays until it is [`parked`](Self::parked).
    pub(super) fn next_parking(&self) -> Option<Parking> {
        let (range, failure) = self.parking.iter().next()?;
        Some(Parking { range, failure: failure.clone() })
    }

    /// These are durable among the dead letters.
    pub(super) fn parked(&mut self, range: &Range<Offset>) {
        self.parking.carve(range);
        self.progress.ack(range.clone());
    }

    /// Whether any of `range` is on its way to the dead letters.
    pub(super) fn is_parking(&self, range: &Range<Offset>) -> bool {
        self.parking.any_within(range, |_| true)
    }

    /// The member still works on what is open in `ranges`.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is extended.
    pub(super) fn extend(&mut self, ranges: &[Range<Offset>], deadline: Instant) -> Result<(), NotDelivered> {
        self.check(ranges)?;
        for range in ranges {
            let parts = self.open.within(range);
            for (part, _) in &parts {
                self.open.insert(part.clone(), deadline);
            }
            if let (Some((first, _)), Some((last, _))) = (parts.first(), parts.last()) {
                self.deadlines.push_back((deadline, first.start..last.end));
            }
        }
        // A member that extends again and again leaves deadlines behind that mean nothing any more.
        if self.deadlines.len() > 2 * self.open.len() + 64 {
            let open = &self.open;
            self.deadlines.retain(|(deadline, range)| open.any_within(range, |until| until == deadline));
        }
        Ok(())
    }

    /// The member went away without a word: it counts as an attempt at the record that it was working on.
    pub(super) fn abandon(&mut self, fault: &Fault) {
        if let Some((first, _)) = self.open.iter().next() {
            self.progress.fail(&(first.start..first.start + 1), &fault.error, fault.at_us);
        }
    }

    /// Nobody has looked at these records: they come again, and no attempt is counted.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is settled.
    pub(super) fn release(&mut self, ranges: &[Range<Offset>]) -> Result<(), NotDelivered> {
        self.check(ranges)?;
        let released = ranges.iter().flat_map(|range| self.open.carve(range)).map(|(part, _)| part);
        if let Some(first) = released.map(|part| part.start).min() {
            self.go_back_to(first);
        }
        Ok(())
    }

    /// Takes back what is open beyond its time. It counts as an attempt at the first record, which is the one that the
    /// member was working on. Returns whether there was any.
    pub(super) fn expire(&mut self, fault: &Fault) -> Expired {
        let now = fault.at;
        let mut first = None;
        while let Some((deadline, range)) = self.deadlines.front().cloned() {
            let due = deadline <= now;
            if !due && self.open.any_within(&range, |until| *until == deadline) {
                break;
            }
            self.deadlines.pop_front();
            for (part, _) in self.open.within(&range).into_iter().filter(|(_, until)| due && *until <= now) {
                first = first.into_iter().chain([part.start]).min();
            }
        }
        let Some(first) = first else { return Expired::None };
        self.fail(&(first..first + 1), fault, Pause::Backoff);
        self.go_back_to(first);
        Expired::Some
    }

    /// When [`expire`](Self::expire) has something to do, at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Nothing from the cursor up to `next` can be read: goes on there. Returns the offsets that are lost to the group.
    pub(super) fn skip_to(&mut self, next: Offset) -> Range<Offset> {
        let lost = self.cursor..next;
        self.progress.ack(lost.clone());
        self.taken_along.remove(lost.clone());
        self.parking.carve(&lost);
        self.cursor = self.cursor.max(next);
        self.delivered_end = self.delivered_end.max(self.cursor);
        lost
    }

    fn check(&self, ranges: &[Range<Offset>]) -> Result<(), NotDelivered> {
        let delivered = |range: &Range<Offset>| range.start < range.end && range.end <= self.delivered_end;
        if !ranges.is_empty() && ranges.iter().all(delivered) { Ok(()) } else { Err(NotDelivered) }
    }

    /// What of `range` is to be delivered, and how often it has failed.
    fn due_in(&self, range: &Range<Offset>) -> Vec<(Range<Offset>, Option<Failure>)> {
        let mut due = Vec::new();
        let unacked = self.progress.unacked_in(range);
        for range in unacked.iter().flat_map(|unacked| self.parking.missing_in(unacked)) {
            let mut next = range.start;
            for (part, failure) in self.progress.failures_in(&range) {
                due.push((next..part.start, None));
                next = part.end;
                due.push((part, Some(failure)));
            }
            due.push((next..range.end, None));
        }
        due.retain(|(part, _)| !part.is_empty());
        due
    }

    /// What of `range` is with the member, or would be if nothing before it had come back.
    fn take_back(&mut self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        let delivered = self.open.carve(range).into_iter().map(|(part, _)| part);
        let taken_along = self.taken_along.within(range);
        self.taken_along.remove(range.clone());
        delivered.chain(taken_along).collect()
    }

    /// Counts an attempt at each record of `range`, and holds the partition until the next one is due.
    fn fail(&mut self, range: &Range<Offset>, fault: &Fault, pause: Pause) {
        self.progress.fail(range, &fault.error, fault.at_us);
        for (part, failure) in self.progress.failures_in(range) {
            if self.retry.is_exhausted(failure.attempts) {
                continue;
            }
            let pause = match pause {
                Pause::Backoff => self.retry.backoff(failure.attempts, part.start),
                Pause::Fixed(pause) => pause,
            };
            self.held_until = self.held_until.into_iter().chain([fault.at + pause]).max();
        }
    }

    /// Everything from `first` on comes again; what is open there is taken back with it.
    fn go_back_to(&mut self, first: Offset) {
        for (part, _) in self.open.carve(&(first..self.delivered_end)) {
            self.taken_along.insert(part);
        }
        self.cursor = self.cursor.min(first);
    }
}

#[cfg(test)]
mod tests;
