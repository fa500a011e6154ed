//! One partition, while one member has it: what to deliver next, what is open, and what has been settled.
//!
//! Pure: it is told the time and what was read. In order means: a record that comes back takes everything after it
//! along, so delivery goes on from the first record that is not settled.

use std::{collections::VecDeque, ops::Range};

use aqueduct_storage::{BatchHeader, Offset};
use tokio::time::Instant;

use super::{
    progress::Progress,
    ranges::{RangeMap, RangeSet},
};

/// Delivery waits while the cursor is this far ahead of the committed offset, in records. It bounds the ranges that can
/// be open or acked above the committed offset, here and in the journal.
pub(crate) const OPEN_RECORDS_MAX: u64 = 128 * 1024;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Window {
    progress: Progress,
    /// The next offset to read.
    cursor: Offset,
    /// Everything below has been delivered at least once.
    delivered_end: Offset,
    /// Delivered and not settled yet, and until when.
    open: RangeMap<Instant>,
    /// Deadlines of open ranges in order of time. A range may have been settled since.
    deadlines: VecDeque<(Instant, Range<Offset>)>,
    /// The attempt that the next delivery will be, where it is not the first.
    attempts: RangeMap<u32>,
    /// Taken back because something before them was: no attempt has been counted yet.
    taken_along: RangeSet,
    /// Nothing is delivered before.
    held_until: Option<Instant>,
}

/// A part of a batch that is delivered at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Portion {
    pub(crate) ranges: Vec<Range<Offset>>,
    pub(crate) attempt: u32,
}

impl Portion {
    /// How many offsets it has.
    pub(crate) fn records(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

/// A settlement names offsets that were never delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotDelivered;

impl Window {
    /// Goes on from `progress`.
    pub(crate) fn new(progress: Progress) -> Self {
        let cursor = progress.committed();
        Self {
            progress,
            cursor,
            delivered_end: cursor,
            open: RangeMap::default(),
            deadlines: VecDeque::new(),
            attempts: RangeMap::default(),
            taken_along: RangeSet::default(),
            held_until: None,
        }
    }

    /// How far the group has got.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Where to read next.
    pub(crate) fn cursor(&self) -> Offset {
        self.cursor
    }

    /// Whether nothing is with the member.
    pub(crate) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// How many records are with the member.
    pub(crate) fn open_records(&self) -> u64 {
        self.open.offsets()
    }

    /// Whether there is room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.cursor.saturating_sub(self.progress.committed()) < OPEN_RECORDS_MAX
    }

    /// Until when nothing may be delivered, if that is after `now`.
    pub(crate) fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| *until > now)
    }

    /// Delivers what is due of a batch that was read at the cursor, and moves on behind it. Nothing may be due.
    pub(crate) fn deliver(&mut self, header: &BatchHeader, deadline: Instant) -> Vec<Portion> {
        // Offsets that hold no record, because compaction took it, are nothing to wait for.
        self.progress.ack(self.cursor..header.base_offset);
        let mut dense = header.base_offset;
        for delta in &header.offset_deltas {
            let offset = header.base_offset + Offset::from(*delta);
            self.progress.ack(dense..offset);
            dense = offset + 1;
        }
        if header.offset_deltas.is_empty() {
            dense += Offset::from(header.record_count);
        }
        self.progress.ack(dense..header.next_offset());

        let span = self.cursor.max(header.base_offset)..header.next_offset();
        let mut portions: Vec<Portion> = Vec::new();
        for range in self.progress.unacked_in(&span) {
            for (range, attempt) in self.by_attempt(&range) {
                match portions.last_mut() {
                    Some(portion) if portion.attempt == attempt => portion.ranges.push(range),
                    _ => portions.push(Portion { ranges: vec![range], attempt }),
                }
            }
        }
        for range in portions.iter().flat_map(|portion| &portion.ranges) {
            self.open.insert(range.clone(), deadline);
            self.taken_along.remove(range.clone());
        }
        if let (Some(first), Some(last)) = (portions.first(), portions.last()) {
            let whole = first.ranges[0].start..last.ranges[last.ranges.len() - 1].end;
            self.deadlines.push_back((deadline, whole));
        }
        self.cursor = self.cursor.max(header.next_offset());
        self.delivered_end = self.delivered_end.max(self.cursor);
        portions
    }

    /// These records have been handled.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is settled.
    pub(crate) fn ack(&mut self, ranges: &[Range<Offset>]) -> Result<(), NotDelivered> {
        self.check(ranges)?;
        for range in ranges {
            self.open.carve(range);
            self.attempts.carve(range);
            self.taken_along.remove(range.clone());
            self.progress.ack(range.clone());
        }
        Ok(())
    }

    /// These records could not be handled: they come again, not before `not_before`, as the next attempt.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is settled.
    pub(crate) fn nack(&mut self, ranges: &[Range<Offset>], not_before: Instant) -> Result<(), NotDelivered> {
        self.check(ranges)?;
        let mut first = None;
        for range in ranges {
            let delivered: Vec<_> = self.open.carve(range).into_iter().map(|(part, _)| part).collect();
            let taken_along = self.taken_along.within(range);
            self.taken_along.remove(range.clone());
            for part in delivered.into_iter().chain(taken_along) {
                self.count_attempt(&part);
                first = first.into_iter().chain([part.start]).min();
            }
        }
        if let Some(first) = first {
            self.go_back_to(first);
            self.held_until = self.held_until.into_iter().chain([not_before]).max();
        }
        Ok(())
    }

    /// Nobody has looked at these records: they come again, and no attempt is counted.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is settled.
    pub(crate) fn release(&mut self, ranges: &[Range<Offset>]) -> Result<(), NotDelivered> {
        self.check(ranges)?;
        let released = ranges.iter().flat_map(|range| self.open.carve(range)).map(|(part, _)| part);
        if let Some(first) = released.map(|part| part.start).min() {
            self.go_back_to(first);
        }
        Ok(())
    }

    /// Takes back what is open beyond its time. Returns whether there was any; it counts as one attempt.
    pub(crate) fn expire(&mut self, now: Instant) -> Expired {
        let mut first = None;
        while let Some((deadline, range)) = self.deadlines.front().cloned() {
            let due = deadline <= now;
            if !due && self.open.any_within(&range, |until| *until == deadline) {
                break;
            }
            self.deadlines.pop_front();
            for (part, until) in self.open.within(&range) {
                if due && until <= now {
                    self.open.carve(&part);
                    self.count_attempt(&part);
                    first = first.into_iter().chain([part.start]).min();
                }
            }
        }
        match first {
            Some(first) => {
                self.go_back_to(first);
                Expired::Some
            }
            None => Expired::None,
        }
    }

    /// When [`expire`](Self::expire) has something to do, at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Nothing from the cursor up to `next` can be read: goes on there. Returns the offsets that are lost to the group.
    pub(crate) fn skip_to(&mut self, next: Offset) -> Range<Offset> {
        let lost = self.cursor..next;
        self.progress.ack(lost.clone());
        self.attempts.carve(&lost);
        self.taken_along.remove(lost.clone());
        self.cursor = self.cursor.max(next);
        self.delivered_end = self.delivered_end.max(self.cursor);
        lost
    }

    fn check(&self, ranges: &[Range<Offset>]) -> Result<(), NotDelivered> {
        let delivered = |range: &Range<Offset>| range.start < range.end && range.end <= self.delivered_end;
        if !ranges.is_empty() && ranges.iter().all(delivered) { Ok(()) } else { Err(NotDelivered) }
    }

    fn by_attempt(&self, range: &Range<Offset>) -> Vec<(Range<Offset>, u32)> {
        let mut parts = Vec::new();
        let mut next = range.start;
        for (part, attempt) in self.attempts.within(range) {
            parts.push((next..part.start, 1));
            next = part.end;
            parts.push((part, attempt));
        }
        parts.push((next..range.end, 1));
        parts.retain(|(part, _)| !part.is_empty());
        parts
    }

    fn count_attempt(&mut self, range: &Range<Offset>) {
        for (part, attempt) in self.by_attempt(range) {
            self.attempts.insert(part, attempt.saturating_add(1));
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

/// What [`Window::expire`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    None,
    Some,
}

#[cfg(test)]
mod tests;
