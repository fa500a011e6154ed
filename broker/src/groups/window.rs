//! One partition, while somebody delivers it: what to deliver next, what is open, and what has been settled.
//!
//! Pure: it is told the time and what was read. There are four kinds. [In order](ordered), what comes back takes along
//! whatever follows it; [free](free), every record is settled by itself; [keyed](keyed), only what follows of its key waits,
//! and it waits [in retry](retried), together with what has failed.

mod by_key;
mod exit;
mod free;
mod keyed;
mod keys;
mod loans;
mod ordered;
mod records;
mod retried;
mod stop;

use std::{ops::Range, sync::Arc, time::Duration};

use aqueduct_storage::{BatchHeader, Offset};
use tokio::time::Instant;

use self::{
    by_key::ByKey as _,
    exit::{Leaving, Parking, next_exits},
    free::FreeWindow,
    keyed::KeyedWindow,
    ordered::OrderedWindow,
    retried::RetriedWindow,
};
pub(crate) use self::{
    exit::{Exit, Way, Whereabouts},
    keys::{Again, KeyId, Keys, Scope},
    loans::Loan,
    stop::Stop,
};
use super::{
    assignment::MemberId,
    policy::{Mode, Policy},
    progress::Progress,
    retry::{Failure, RetryPolicy},
    state::REDRIVEN,
};

/// Delivery waits while the cursor is this far ahead of the committed offset, in records. It bounds the ranges that can
/// be open or acked above the committed offset, here and in the journal.
pub(crate) const OPEN_RECORDS_MAX: u64 = 128 * 1024;

/// A new batch is sent to about so many members at most, however little room they have: it goes whole, whatever is taken of
/// it.
const PORTIONS_MAX: u32 = 16;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Window(Kind);

#[derive(Debug)]
enum Kind {
    Ordered(OrderedWindow),
    Free(FreeWindow),
    Keyed(KeyedWindow),
    Retried(RetriedWindow),
}

/// To whom a record belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belongs {
    /// It has no key, or its key does not matter.
    Alone,
    /// To the key with this hash. Two keys that share one are kept in order together, which harms nobody.
    ToKey(u32),
    /// To a key, and it is in retry.
    InRetry(Again),
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

/// Why an attempt has failed, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) error: Arc<str>,
    pub(crate) at: Instant,
    /// The same time by the wall clock, in microseconds since the epoch.
    pub(crate) at_us: i64,
}

/// An attempt that has failed, and when the next one is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) fault: Fault,
    pub(crate) pause: Pause,
}

/// On what terms records are delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lending {
    pub(crate) loan: Loan,
    pub(crate) records_max: u64,
    pub(crate) now: Instant,
}

/// When a record that has failed may come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// As long as the group's policy says.
    Backoff,
    /// This long.
    Fixed(Duration),
}

/// A settlement names offsets that were never delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NotDelivered;

/// What [`OrderedWindow::expire`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    None,
    Some,
}

/// Why a settlement does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It names offsets that were never delivered. Nothing is settled.
    NotDelivered,
    /// Some of its records are not with this member any more: they were taken back, and come again. The others are settled.
    TakenBack,
}

impl From<NotDelivered> for Refusal {
    fn from(NotDelivered: NotDelivered) -> Self {
        Self::NotDelivered
    }
}

impl Window {
    /// Goes on from `progress`.
    pub(crate) fn new(partition: u32, progress: Progress, policy: &Policy) -> Self {
        Self(match policy.mode {
            Mode::Ordered => Kind::Ordered(OrderedWindow::new(progress, policy.retry)),
            Mode::Shared => Kind::Free(FreeWindow::new(progress)),
            Mode::Keyed if partition == REDRIVEN => Kind::Retried(RetriedWindow::new(progress)),
            Mode::Keyed => Kind::Keyed(KeyedWindow::new(partition, progress)),
        })
    }

    /// What fails from now on is treated by this policy, and so is what halts the partition. A pause that has begun stays.
    pub(crate) fn set_retry(&mut self, retry: RetryPolicy) {
        match &mut self.0 {
            Kind::Ordered(window) => window.set_retry(retry),
            // What leaves is treated where it goes.
            Kind::Free(_) | Kind::Keyed(_) | Kind::Retried(_) => {}
        }
    }

    /// How far the group has got.
    pub(crate) fn progress(&self) -> &Progress {
        match &self.0 {
            Kind::Ordered(window) => window.progress(),
            Kind::Free(window) => &window.records.progress,
            Kind::Keyed(window) => &window.records.progress,
            Kind::Retried(window) => &window.records.progress,
        }
    }

    /// Where to read next.
    pub(crate) fn cursor(&self) -> Offset {
        match &self.0 {
            Kind::Ordered(window) => window.cursor(),
            Kind::Free(window) => window.records.next_read(),
            Kind::Keyed(window) => window.records.next_read(),
            Kind::Retried(window) => window.records.next_read(),
        }
    }

    /// Whether nothing is with a member, or on its way out.
    pub(crate) fn is_settled(&self) -> bool {
        match &self.0 {
            Kind::Ordered(window) => window.is_settled(),
            Kind::Free(window) => window.records.is_settled(),
            Kind::Keyed(window) => window.records.is_settled(),
            Kind::Retried(window) => window.records.is_settled(),
        }
    }

    /// The record at which delivery has stopped for good, and how it has failed.
    pub(crate) fn halted(&self) -> Option<(Offset, Failure)> {
        match &self.0 {
            Kind::Ordered(window) => window.halted(),
            Kind::Free(_) | Kind::Keyed(_) | Kind::Retried(_) => None,
        }
    }

    /// How many records are with `seat`.
    pub(crate) fn open_records(&self, seat: MemberId) -> u64 {
        match &self.0 {
            Kind::Ordered(window) => window.open_records(),
            Kind::Free(window) => window.records.loans.records_of(seat),
            Kind::Keyed(window) => window.records.loans.records_of(seat),
            Kind::Retried(window) => window.records.loans.records_of(seat),
        }
    }

    /// Whether more may be delivered.
    pub(crate) fn has_room(&self, keys: &Keys) -> bool {
        match &self.0 {
            Kind::Ordered(window) => window.has_room(),
            Kind::Free(window) => window.has_room(),
            Kind::Keyed(window) => window.has_room(keys),
            // What is in retry is bounded where it comes from.
            Kind::Retried(_) => true,
        }
    }

    /// Until when nothing may be delivered, if that is after `now`.
    pub(crate) fn held_until(&self, now: Instant) -> Option<Instant> {
        match &self.0 {
            Kind::Ordered(window) => window.held_until(now),
            Kind::Free(_) | Kind::Keyed(_) | Kind::Retried(_) => None,
        }
    }

    /// Delivers what is due of a batch that was read at the cursor, and moves on behind it. Nothing may be due. Where
    /// records are settled each by itself, not many more than `records_max`; `belongs` is said of the batch's records, in
    /// order, where it matters.
    pub(crate) fn deliver(
        &mut self,
        header: &BatchHeader,
        belongs: &[Belongs],
        lending: Lending,
        keys: &mut Keys,
    ) -> Vec<Portion> {
        match &mut self.0 {
            Kind::Ordered(window) => window.deliver(header, lending.loan.until),
            Kind::Free(window) => window.deliver(header, lending.loan, lending.records_max).into_iter().collect(),
            Kind::Keyed(window) => window.deliver(header, belongs, lending, keys),
            Kind::Retried(window) => window.deliver(header, belongs, lending, keys),
        }
    }

    /// `seat` has handled these records.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn ack(&mut self, seat: MemberId, ranges: &[Range<Offset>], keys: &mut Keys) -> Result<(), Refusal> {
        match &mut self.0 {
            Kind::Ordered(window) => Ok(window.ack(ranges)?),
            Kind::Free(window) => window.ack(seat, ranges),
            Kind::Keyed(window) => window.ack(seat, ranges, keys),
            Kind::Retried(window) => window.ack(seat, ranges, keys),
        }
    }

    /// `seat` could not handle these records: they come again after `pause`, as the next attempt.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn nack(
        &mut self,
        seat: MemberId,
        ranges: &[Range<Offset>],
        failed: &Failed,
        keys: &mut Keys,
    ) -> Result<(), Refusal> {
        let Failed { fault, pause } = failed;
        match &mut self.0 {
            Kind::Ordered(window) => Ok(window.nack(ranges, fault, *pause)?),
            Kind::Free(window) => window.let_go(seat, ranges, fault, Way::Retry(*pause)),
            Kind::Keyed(window) => window.nack(seat, ranges, failed, keys),
            Kind::Retried(window) => window.nack(seat, ranges, failed, keys),
        }
    }

    /// These records will never be handled: they go to the dead letters, and nothing waits for them.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn park(
        &mut self,
        seat: MemberId,
        ranges: &[Range<Offset>],
        fault: &Fault,
        keys: &mut Keys,
    ) -> Result<(), Refusal> {
        match &mut self.0 {
            Kind::Ordered(window) => Ok(window.park(ranges, fault)?),
            Kind::Free(window) => window.let_go(seat, ranges, fault, Way::Park),
            Kind::Keyed(window) => window.park(seat, ranges, fault, keys),
            Kind::Retried(window) => window.park(seat, ranges, fault, keys),
        }
    }

    /// `seat` still works on what it has of `ranges`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn extend(&mut self, ranges: &[Range<Offset>], loan: Loan) -> Result<(), Refusal> {
        match &mut self.0 {
            Kind::Ordered(window) => Ok(window.extend(ranges, loan.until)?),
            Kind::Free(window) => window.records.extend(ranges, loan),
            Kind::Keyed(window) => window.records.extend(ranges, loan),
            Kind::Retried(window) => window.records.extend(ranges, loan),
        }
    }

    /// `seat` has not looked at these records: they come again, and no attempt is counted.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn release(&mut self, seat: MemberId, ranges: &[Range<Offset>], keys: &mut Keys) -> Result<(), Refusal> {
        match &mut self.0 {
            Kind::Ordered(window) => Ok(window.release(ranges)?),
            Kind::Free(window) => window.release(seat, ranges),
            Kind::Keyed(window) => window.release(seat, ranges, keys),
            Kind::Retried(window) => window.release(seat, ranges, keys),
        }
    }

    /// `seat` went away without a word: it counts as an attempt at the record that it was working on.
    pub(crate) fn abandon(&mut self, seat: MemberId, fault: &Fault, keys: &mut Keys) {
        match &mut self.0 {
            Kind::Ordered(window) => window.abandon(fault),
            Kind::Free(window) => window.abandon(seat, fault),
            Kind::Keyed(window) => window.abandon(seat, fault, keys),
            Kind::Retried(window) => window.abandon(seat, fault, keys),
        }
    }

    /// `seat` has gone: what it had comes again, for others.
    pub(crate) fn vacate(&mut self, seat: MemberId, keys: &mut Keys) {
        match &mut self.0 {
            // The partition moves on as a whole.
            Kind::Ordered(_) => {}
            Kind::Free(window) => window.vacate(seat),
            Kind::Keyed(window) => window.vacate(seat, keys),
            Kind::Retried(window) => window.vacate(seat, keys),
        }
    }

    /// The next records to leave, about `records_max` of them. They stay until they [have left](Self::left).
    pub(crate) fn next_exits(&self, records_max: u64) -> Vec<Exit> {
        match &self.0 {
            Kind::Ordered(window) => {
                let parking = window.next_parking();
                parking.map(|Parking { range, failure }| Exit { range, failure, way: Way::Park }).into_iter().collect()
            }
            Kind::Free(window) => next_exits(&window.records, records_max, |leaving| leaving),
            Kind::Keyed(window) => next_exits(&window.records, records_max, |leaving| &leaving.leaving),
            Kind::Retried(window) => next_exits(&window.records, records_max, |leaving| &leaving.leaving),
        }
    }

    /// Whether anything is to leave.
    pub(crate) fn has_exits(&self) -> bool {
        match &self.0 {
            Kind::Ordered(window) => window.next_parking().is_some(),
            Kind::Free(window) => !window.records.leaving.is_empty(),
            Kind::Keyed(window) => !window.records.leaving.is_empty(),
            Kind::Retried(window) => !window.records.leaving.is_empty(),
        }
    }

    /// These are durable where they were to go.
    pub(crate) fn left(&mut self, range: &Range<Offset>, whereabouts: &Whereabouts, keys: &mut Keys) {
        match &mut self.0 {
            Kind::Ordered(window) => window.parked(range),
            Kind::Free(window) => drop(window.records.left(range)),
            Kind::Keyed(window) => window.left(range, whereabouts, keys),
            Kind::Retried(window) => window.left(range, whereabouts, keys),
        }
    }

    /// Whether any of `range` is on its way out.
    pub(crate) fn is_leaving(&self, range: &Range<Offset>) -> bool {
        match &self.0 {
            Kind::Ordered(window) => window.is_parking(range),
            Kind::Free(window) => window.records.is_leaving(range),
            Kind::Keyed(window) => window.records.is_leaving(range),
            Kind::Retried(window) => window.records.is_leaving(range),
        }
    }

    /// What of `range` is on its way out to where it is tried again, or to the dead letters.
    pub(crate) fn leaving_in(&self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        match &self.0 {
            // It is moved at once, and nothing goes on meanwhile.
            Kind::Ordered(_) => Vec::new(),
            Kind::Free(window) => window.records.leaving_in(range),
            Kind::Keyed(window) => window.records.leaving_in(range),
            Kind::Retried(window) => window.records.leaving_in(range),
        }
    }

    /// Takes back what is open beyond its time. It counts as an attempt at the first record of each member, which is the
    /// one that it was working on. Returns those members.
    pub(crate) fn expire(&mut self, owner: MemberId, fault: &Fault, keys: &mut Keys) -> Vec<MemberId> {
        match &mut self.0 {
            Kind::Ordered(window) => match window.expire(fault) {
                Expired::None => Vec::new(),
                Expired::Some => vec![owner],
            },
            Kind::Free(window) => window.expire(fault),
            Kind::Keyed(window) => window.expire(fault, keys),
            Kind::Retried(window) => window.expire(fault, keys),
        }
    }

    /// When [`expire`](Self::expire) has something to do, at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match &self.0 {
            Kind::Ordered(window) => window.next_deadline(),
            Kind::Free(window) => window.records.loans.next_deadline(),
            Kind::Keyed(window) => window.records.loans.next_deadline(),
            Kind::Retried(window) => window.records.loans.next_deadline(),
        }
    }

    /// Nothing from the cursor up to `next` can be read: goes on there. Returns the offsets that are lost to the group.
    pub(crate) fn skip_to(&mut self, next: Offset, keys: &mut Keys) -> Range<Offset> {
        match &mut self.0 {
            Kind::Ordered(window) => window.skip_to(next),
            Kind::Free(window) => window.records.skip_to(next),
            Kind::Keyed(window) => window.skip_to(next, keys),
            Kind::Retried(window) => window.skip_to(next, keys),
        }
    }

    /// These may be delivered now, though they were passed over before.
    pub(crate) fn come_again(&mut self, offsets: Vec<Offset>) {
        match &mut self.0 {
            Kind::Ordered(_) | Kind::Free(_) | Kind::Keyed(_) => {}
            Kind::Retried(window) => window.come_again(offsets),
        }
    }
}

/// Offsets from `from` to the end of a batch that hold no record, because compaction took it, are nothing to wait for.
fn settle_holes(progress: &mut Progress, from: Offset, header: &BatchHeader) {
    progress.ack(from..header.base_offset);
    let mut dense = header.base_offset;
    for delta in &header.offset_deltas {
        let offset = header.base_offset + Offset::from(*delta);
        progress.ack(dense..offset);
        dense = offset + 1;
    }
    if header.offset_deltas.is_empty() {
        dense += Offset::from(header.record_count);
    }
    progress.ack(dense..header.next_offset());
}
