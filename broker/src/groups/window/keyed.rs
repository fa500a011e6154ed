//! Every record is settled by itself, but one key is with one member at a time, and in order.
//!
//! What has failed waits here until it is tried again, and with it what follows of its key: whatever has another key goes
//! on. The committed offset waits, too.

use std::ops::Range;

use aqueduct_storage::{BatchHeader, Offset};
use tokio::time::Instant;

use super::{
    Exit, Fault, Loan, PORTIONS_MAX, Pause, Portion, Refusal, Stop, Way,
    chains::{Admission, ChainId, Chains, GivenBack},
    records::Records,
    settle_holes,
};
use crate::groups::{
    assignment::MemberId,
    progress::{FAILURES_MAX, Progress},
    retry::{Failure, RetryPolicy},
};

/// See the [module](self).
///
/// Invariant: below the cursor, what is not acked is either open, or waits in its chain, or is leaving, or in `again`.
#[derive(Debug)]
pub(super) struct KeyedWindow {
    /// What leaves goes to the dead letters.
    pub(super) records: Records<Failure>,
    retry: RetryPolicy,
    chains: Chains,
}

impl KeyedWindow {
    /// Goes on from `progress`.
    pub(super) fn new(progress: Progress, retry: RetryPolicy) -> Self {
        Self { records: Records::new(progress), retry, chains: Chains::default() }
    }

    /// What fails from now on is treated by this policy.
    pub(super) fn set_retry(&mut self, retry: RetryPolicy) {
        self.retry = retry;
    }

    /// What waits for earlier records of its key.
    pub(super) fn waiting_keys(&self) -> Option<Stop> {
        self.chains.waiting()
    }

    /// Nothing up to `next` can be read. What is lost keeps nothing of its key waiting.
    pub(super) fn skip_to(&mut self, next: Offset) -> Range<Offset> {
        let lost = self.records.skip_to(next);
        self.chains.within(&lost).into_iter().for_each(|offset| self.settle(offset));
        // Some of it has just been set free.
        self.records.again.remove(lost.clone());
        lost
    }

    /// New records wait while too many have failed: attempts are counted for no more.
    pub(super) fn has_room(&self) -> bool {
        let counts_attempts = self.records.progress.failed_ranges() < FAILURES_MAX;
        self.records.has_again() || (self.records.has_room_ahead() && counts_attempts)
    }

    /// `keys` are those of the batch's records, by offset.
    pub(super) fn deliver(
        &mut self,
        header: &BatchHeader,
        keys: &[ChainId],
        loan: Loan,
        records_max: u64,
    ) -> Vec<Portion> {
        let from = self.records.next_read();
        settle_holes(&mut self.records.progress, from, header);
        let span = from.max(header.base_offset)..header.next_offset();
        let mut room = records_max.max(u64::from(header.record_count.div_ceil(PORTIONS_MAX)));
        let mut reached = span.end;
        let mut portions: Vec<Portion> = Vec::new();
        let mut lent = Vec::new();
        for offset in self.due_in(&span).into_iter().flatten() {
            if room == 0 {
                reached = offset;
                break;
            }
            let failure = self.failure_of(offset);
            if let Some(failure) = failure.clone().filter(|failure| self.retry.is_exhausted(failure.attempts)) {
                self.records.leaving.insert(offset..offset + 1, failure);
                continue;
            }
            let id = key_of(header, keys, offset);
            if self.chains.admit(id, offset, loan.seat) == Admission::Granted {
                room -= 1;
                push(&mut portions, offset, failure.map_or(0, |failure| failure.attempts) + 1);
                lent.push(offset);
            }
        }
        self.records.looked_at(from..reached);
        self.records.loans.lend(&runs(&lent), loan);
        portions
    }

    pub(super) fn ack(&mut self, seat: MemberId, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        self.records.check(ranges)?;
        for part in self.take(ranges, seat) {
            self.records.progress.ack(part.clone());
            part.for_each(|offset| self.settle(offset));
        }
        self.records.check_settled(ranges)
    }

    /// `seat` could not handle what it has of `ranges`.
    pub(super) fn let_go(
        &mut self,
        seat: MemberId,
        ranges: &[Range<Offset>],
        fault: &Fault,
        way: Way,
    ) -> Result<(), Refusal> {
        self.records.check(ranges)?;
        let unacked = ranges.iter().flat_map(|range| self.records.progress.unacked_in(range));
        let expected: u64 =
            unacked.flat_map(|range| self.records.leaving.missing_in(&range)).map(|part| part.end - part.start).sum();
        let parts = self.take(ranges, seat);
        let taken: u64 = parts.iter().map(|part| part.end - part.start).sum();
        parts.into_iter().flatten().for_each(|offset| self.fail(offset, fault, way));
        if taken == expected { Ok(()) } else { Err(Refusal::TakenBack) }
    }

    pub(super) fn release(&mut self, seat: MemberId, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        self.records.check(ranges)?;
        let parts = self.take(ranges, seat);
        parts.into_iter().flatten().for_each(|offset| self.give_back(offset, None));
        Ok(())
    }

    pub(super) fn abandon(&mut self, seat: MemberId, fault: &Fault) {
        let parts = self.records.loans.take_all(seat);
        self.take_back(parts, fault);
    }

    pub(super) fn vacate(&mut self, seat: MemberId) {
        self.records.loans.take_all(seat).into_iter().flatten().for_each(|offset| self.give_back(offset, None));
    }

    pub(super) fn expire(&mut self, fault: &Fault) -> Vec<MemberId> {
        let resumed = self.chains.resume(fault.at);
        self.come_again(&resumed);
        let expired = self.records.loans.take_expired(fault.at);
        let seats = expired.keys().copied().collect();
        expired.into_values().for_each(|parts| self.take_back(parts, fault));
        seats
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.records.loans.next_deadline().into_iter().chain(self.chains.next_pause()).min()
    }

    pub(super) fn next_exits(&self, records_max: u64) -> Vec<Exit> {
        let exits = self.records.leaving.iter().take(usize::try_from(records_max).unwrap_or(usize::MAX));
        exits.map(|(range, failure)| Exit { range, failure: failure.clone(), way: Way::Park }).collect()
    }

    /// What of `span` is to be delivered, if its key allows.
    fn due_in(&self, span: &Range<Offset>) -> Vec<Range<Offset>> {
        let mut due = self.records.again.within(&(span.start..span.end.min(self.records.cursor)));
        due.extend(self.records.progress.unacked_in(&(span.start.max(self.records.cursor)..span.end)));
        due
    }

    fn take(&mut self, ranges: &[Range<Offset>], seat: MemberId) -> Vec<Range<Offset>> {
        ranges.iter().flat_map(|range| self.records.loans.take(range, seat)).collect()
    }

    fn failure_of(&self, offset: Offset) -> Option<Failure> {
        if self.records.progress.failed_ranges() == 0 {
            return None;
        }
        self.records.progress.failures_in(&(offset..offset + 1)).pop().map(|(_, failure)| failure)
    }

    /// One member's records come again. It counts as an attempt at the first, which is the one that it was working on.
    fn take_back(&mut self, parts: Vec<Range<Offset>>, fault: &Fault) {
        for (index, offset) in parts.into_iter().flatten().enumerate() {
            match index {
                0 => self.fail(offset, fault, Way::Retry(Pause::Backoff)),
                _ => self.give_back(offset, None),
            }
        }
    }

    /// Counts an attempt at a record that is with nobody any more.
    fn fail(&mut self, offset: Offset, fault: &Fault, way: Way) {
        self.records.progress.fail(&(offset..offset + 1), &fault.error, fault.at_us);
        let failure = self.failure_of(offset).unwrap_or_else(|| Failure::first(&fault.error, fault.at_us));
        let pause = match way {
            Way::Retry(pause) if !self.retry.is_exhausted(failure.attempts) => pause,
            Way::Retry(_) => {
                // Its client does not know that this was the last attempt: what follows comes again, as it does else.
                if let Some(follower) = self.chains.follower(offset) {
                    self.records.loans.take_from_anybody(follower);
                    self.give_back(follower, None);
                }
                return self.park(offset, failure);
            }
            Way::Park => return self.park(offset, failure),
        };
        let pause = match pause {
            Pause::Backoff => self.retry.backoff(failure.attempts, offset),
            Pause::Fixed(pause) => pause,
        };
        self.give_back(offset, Some(fault.at + pause));
    }

    fn park(&mut self, offset: Offset, failure: Failure) {
        self.records.leaving.insert(offset..offset + 1, failure);
        self.settle(offset);
    }

    fn settle(&mut self, offset: Offset) {
        let freed = self.chains.settled(offset);
        self.come_again(&freed);
    }

    fn give_back(&mut self, offset: Offset, held_until: Option<Instant>) {
        let GivenBack { followers, freed } = self.chains.give_back(offset, held_until);
        followers.into_iter().for_each(|follower| self.records.loans.take_from_anybody(follower));
        self.come_again(&freed);
    }

    fn come_again(&mut self, offsets: &[Offset]) {
        runs(offsets).into_iter().for_each(|run| self.records.again.insert(run));
    }
}

/// The chain of the record at `offset`.
fn key_of(header: &BatchHeader, keys: &[ChainId], offset: Offset) -> ChainId {
    let delta = offset.saturating_sub(header.base_offset);
    let index = if header.offset_deltas.is_empty() {
        usize::try_from(delta).ok()
    } else {
        u32::try_from(delta).ok().and_then(|delta| header.offset_deltas.binary_search(&delta).ok())
    };
    index.and_then(|index| keys.get(index)).copied().unwrap_or(ChainId::Record(offset))
}

fn push(portions: &mut Vec<Portion>, offset: Offset, attempt: u32) {
    match portions.last_mut().filter(|portion| portion.attempt == attempt) {
        Some(portion) => match portion.ranges.last_mut().filter(|range| range.end == offset) {
            Some(range) => range.end += 1,
            None => portion.ranges.push(offset..offset + 1),
        },
        None => {
            let ranges = std::iter::once(offset..offset + 1).collect();
            portions.push(Portion { ranges, attempt });
        }
    }
}

/// Ascending offsets as ranges.
fn runs(offsets: &[Offset]) -> Vec<Range<Offset>> {
    let mut runs: Vec<Range<Offset>> = Vec::new();
    for &offset in offsets {
        match runs.last_mut().filter(|run| run.end == offset) {
            Some(run) => run.end += 1,
            None => runs.push(offset..offset + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
