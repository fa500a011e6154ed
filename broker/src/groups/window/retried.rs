//! What a keyed group tries again, and what follows: a log of all partitions together, in which every record says to which key
//! it belongs and when it is due. It is looked through once; what is not due, or not the first of its key, is passed over and
//! comes again when [`Keys`] says so.
//!
//! A record that fails once more moves to the end of the log, and keeps its place among those of its key.

use std::{collections::HashMap, ops::Range};

use aqueduct_storage::{BatchHeader, Offset};

use super::{
    Again, Belongs, Fault, Leaving, Lending, PORTIONS_MAX, Pause, Portion, Way, Whereabouts,
    by_key::ByKey,
    keyed::{of_record, runs},
    keys::{Due, Keys, Scope, Turn},
    records::Records,
    settle_holes,
};
use crate::groups::{progress::Progress, retry::Failure};

/// See the [module](self).
///
/// Invariant: below the cursor, what is not acked is either open, or known to [`Keys`], or leaving, or in `again`.
#[derive(Debug)]
pub(super) struct RetriedWindow {
    pub(super) records: Records<RetriedLeaving>,
    /// What is open; `None` for a record without a key.
    open: HashMap<Offset, Option<Again>>,
}

/// A record that leaves, and what it is known by.
#[derive(Debug, Clone)]
pub(super) struct RetriedLeaving {
    pub(super) leaving: Leaving,
    again: Option<Again>,
}

impl RetriedWindow {
    /// Goes on from `progress`.
    pub(super) fn new(progress: Progress) -> Self {
        Self { records: Records::new(progress), open: HashMap::new() }
    }

    /// `belongs` is said of the batch's records, by offset.
    pub(super) fn deliver(
        &mut self,
        header: &BatchHeader,
        belongs: &[Belongs],
        lending: Lending,
        keys: &mut Keys,
    ) -> Vec<Portion> {
        let from = self.records.next_read();
        settle_holes(&mut self.records.progress, from, header);
        let span = from.max(header.base_offset)..header.next_offset();
        let mut room = lending.records_max.max(u64::from(header.record_count.div_ceil(PORTIONS_MAX)));
        let mut reached = span.end;
        let mut lent = Vec::new();
        for offset in self.records.due_in(&span).into_iter().flatten() {
            if room == 0 {
                reached = offset;
                break;
            }
            let again = match of_record(header, belongs, offset) {
                Belongs::InRetry(again) => Some(again),
                Belongs::Alone | Belongs::ToKey(_) => None,
            };
            match again.map_or(Due::Now, |again| self.admit(again, offset, lending, keys)) {
                Due::Now => {
                    room -= 1;
                    lent.push(offset);
                    self.open.insert(offset, again);
                }
                Due::Later => {}
                Due::Never => {
                    let leaving = Leaving { failure: Failure::none(), way: Way::ParkBehind };
                    self.records.leaving.insert(offset..offset + 1, RetriedLeaving { leaving, again });
                }
            }
        }
        self.records.looked_at(from..reached);
        let ranges = runs(lent);
        self.records.loans.lend(&ranges, lending.loan);
        if ranges.is_empty() { Vec::new() } else { vec![Portion { ranges, attempt: 1 }] }
    }

    pub(super) fn left(&mut self, range: &Range<Offset>, whereabouts: &Whereabouts, keys: &mut Keys) {
        for (part, RetriedLeaving { again, .. }) in self.records.left(range) {
            let Some(Again { id, origin, .. }) = again else { continue };
            if !whereabouts.in_letters.within(&part).is_empty() {
                keys.has_letter(id, origin);
            }
            if !whereabouts.in_retry.missing_in(&part).is_empty() {
                keys.gone(id, origin);
            }
        }
    }

    pub(super) fn skip_to(&mut self, next: Offset, keys: &mut Keys) -> Range<Offset> {
        for (_, RetriedLeaving { again, .. }) in self.records.leaving.within(&(self.records.next_read()..next)) {
            again.into_iter().for_each(|Again { id, origin, .. }| keys.gone(id, origin));
        }
        let lost = self.records.skip_to(next);
        keys.lost(&lost);
        self.open.retain(|offset, _| !lost.contains(offset));
        lost
    }

    /// These may be delivered, unless something has become of them meanwhile.
    pub(super) fn come_again(&mut self, offsets: Vec<Offset>) {
        for offset in offsets {
            let one = offset..offset + 1;
            let is_open = self.records.loans.missing_in(&one).is_empty();
            if self.records.staying_in(std::slice::from_ref(&one)) == 1 && !is_open {
                self.records.again.insert(one);
            }
        }
    }

    fn admit(&mut self, again: Again, offset: Offset, lending: Lending, keys: &mut Keys) -> Due {
        let Turn { is_due, superseded } = keys.admit_again(again, offset, lending.loan.seat, lending.now);
        if let Some(copy) = superseded {
            self.records.progress.ack(copy..copy + 1);
            self.records.again.remove(copy..copy + 1);
        }
        is_due
    }

    fn leave(&mut self, offset: Offset, again: Option<Again>, fault: &Fault, way: Way) {
        let leaving = Leaving { failure: Failure::first(&fault.error, fault.at_us), way };
        self.records.leaving.insert(offset..offset + 1, RetriedLeaving { leaving, again });
    }

    /// What follows in the order of its key waits for where the record goes.
    fn block(&mut self, offset: Offset, again: Option<Again>, keys: &mut Keys) {
        if let Some(again) = again {
            let followers = keys.fail_again(again.id, offset);
            self.taken_back(&followers);
        }
    }

    fn taken_back(&mut self, followers: &[Offset]) {
        for follower in followers {
            self.open.remove(follower);
            self.records.loans.take_from_anybody(*follower);
        }
    }
}

impl ByKey for RetriedWindow {
    type Leaving = RetriedLeaving;

    fn records(&mut self) -> &mut Records<RetriedLeaving> {
        &mut self.records
    }

    /// Moves a record away that is with nobody any more, unless it was taken back with an earlier one.
    fn fail(&mut self, offset: Offset, fault: &Fault, pause: Pause, keys: &mut Keys) {
        let Some(again) = self.open.remove(&offset) else { return };
        let way = if again.is_some() { Way::RetryInOrder(pause) } else { Way::Retry(pause) };
        self.leave(offset, again, fault, way);
        self.block(offset, again, keys);
    }

    /// Parks a record that is with nobody any more. What follows goes on, unless its key is parked, too.
    fn give_up(&mut self, offset: Offset, fault: &Fault, keys: &mut Keys) {
        let Some(again) = self.open.remove(&offset) else { return };
        self.leave(offset, again, fault, Way::Park);
        match (again, keys.scope()) {
            (Some(again), Scope::Record) => keys.settled_again(again.id, offset),
            (_, Scope::Key) => self.block(offset, again, keys),
            (None, Scope::Record) => {}
        }
    }

    /// There are few.
    fn look_ahead(&self, _: Range<Offset>, _: &Keys) {}

    fn settle(&mut self, offset: Offset, keys: &mut Keys) {
        if let Some(again) = self.open.remove(&offset).flatten() {
            keys.settled_again(again.id, offset);
        }
    }

    /// It comes again: at once, or when its key says so.
    fn give_back(&mut self, offset: Offset, keys: &mut Keys) {
        match self.open.remove(&offset) {
            Some(Some(again)) => {
                let followers = keys.give_back_again(again.id, offset);
                self.taken_back(&followers);
            }
            Some(None) => self.come_again(vec![offset]),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
