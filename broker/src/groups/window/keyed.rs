//! Every record is settled by itself, but one key is with one member at a time, and in order. What has failed leaves the
//! window, and so does what follows of its key: it waits [in retry](super::retried), the committed offset goes on, and so does
//! whatever has another key.

use std::{collections::VecDeque, ops::Range};

use aqueduct_storage::{BatchHeader, Offset};

use super::{
    Belongs, Fault, Leaving, Lending, PORTIONS_MAX, Pause, Portion, Stop, Way, Whereabouts,
    by_key::ByKey,
    keys::{Admission, GivenBack, KeyId, Keys, Scope},
    records::Records,
    settle_holes,
};
use crate::groups::{assignment::MemberId, progress::Progress, retry::Failure};

/// See the [module](self).
///
/// Invariant: below the cursor, what is not acked is either open, or waits in its chain, or is leaving, or in `again`.
#[derive(Debug)]
pub(super) struct KeyedWindow {
    pub(super) records: Records<KeyedLeaving>,
    partition: u32,
    hashes: Hashes,
}

/// A record that leaves, and its key.
#[derive(Debug, Clone)]
pub(super) struct KeyedLeaving {
    pub(super) leaving: Leaving,
    id: Option<KeyId>,
}

impl KeyedWindow {
    /// Goes on from `progress`.
    pub(super) fn new(partition: u32, progress: Progress) -> Self {
        Self { records: Records::new(progress), partition, hashes: Hashes::default() }
    }

    pub(super) fn has_room(&self, keys: &Keys) -> bool {
        // What waits for this partition to be read again must not wait for itself.
        let has_room_behind = keys.have_room() || keys.is_awaited(self.partition);
        self.records.has_again() || (self.records.has_room_ahead() && has_room_behind)
    }

    /// Why nothing further is delivered, or not of some keys.
    pub(super) fn stop(&self, keys: &Keys) -> Option<Stop> {
        if self.has_room(keys) {
            return keys.waiting_of(self.partition);
        }
        Some(if keys.have_room() || !self.records.has_room_ahead() {
            self.records.too_far_ahead()
        } else {
            keys.too_many_in_retry()
        })
    }

    /// `belongs` is said of the batch's records, by offset.
    pub(super) fn deliver(
        &mut self,
        header: &BatchHeader,
        belongs: &[Belongs],
        lending: Lending,
        keys: &mut Keys,
    ) -> Vec<Portion> {
        self.hashes.forget_below(self.records.progress.committed());
        let id = |belongs: &Belongs| match belongs {
            Belongs::ToKey(hash) => Some(KeyId { partition: self.partition, hash: *hash }),
            Belongs::Alone | Belongs::InRetry(_) => None,
        };
        keys.look_ahead(belongs.iter().filter_map(id));
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
            match self.admit(of_record(header, belongs, offset), offset, lending.loan.seat, keys) {
                Admission::Granted => {
                    room -= 1;
                    lent.push(offset);
                }
                Admission::Waits => {}
                Admission::Follows => self.leave(offset, Failure::none(), Way::Follow),
                Admission::Settled => self.records.progress.ack(offset..offset + 1),
                Admission::Parks => self.leave(offset, Failure::none(), Way::ParkBehind),
            }
        }
        self.records.looked_at(from..reached);
        keys.read_up_to(self.partition, self.records.cursor);
        let ranges = runs(lent);
        self.records.loans.lend(&ranges, lending.loan);
        if ranges.is_empty() { Vec::new() } else { vec![Portion { ranges, attempt: 1 }] }
    }

    pub(super) fn left(&mut self, range: &Range<Offset>, whereabouts: &Whereabouts, keys: &mut Keys) {
        for (part, KeyedLeaving { id, .. }) in self.records.left(range) {
            let Some(id) = id else { continue };
            whereabouts.in_letters.within(&part).into_iter().flatten().for_each(|offset| keys.has_letter(id, offset));
            whereabouts.in_retry.missing_in(&part).into_iter().flatten().for_each(|offset| keys.gone(id, offset));
        }
    }

    /// Nothing up to `next` can be read. What is lost keeps nothing of its key waiting.
    pub(super) fn skip_to(&mut self, next: Offset, keys: &mut Keys) -> Range<Offset> {
        let lost = self.records.next_read()..next;
        for (part, KeyedLeaving { id, .. }) in self.records.leaving.within(&lost) {
            id.into_iter().for_each(|id| part.clone().for_each(|offset| keys.gone(id, offset)));
        }
        let lost = self.records.skip_to(next);
        self.hashes.noted_in(&lost).into_iter().for_each(|offset| self.settle(offset, keys));
        // Some of it has just been set free.
        self.records.again.remove(lost.clone());
        keys.read_up_to(self.partition, self.records.cursor);
        lost
    }

    fn admit(&mut self, belongs: Belongs, offset: Offset, seat: MemberId, keys: &mut Keys) -> Admission {
        let Belongs::ToKey(hash) = belongs else { return Admission::Granted };
        self.hashes.note(offset, hash);
        keys.admit(KeyId { partition: self.partition, hash }, offset, seat)
    }

    fn leave(&mut self, offset: Offset, failure: Failure, way: Way) {
        let leaving = KeyedLeaving { leaving: Leaving { failure, way }, id: self.id_of(offset) };
        self.records.leaving.insert(offset..offset + 1, leaving);
    }

    fn taken_back(&mut self, GivenBack { followers, freed }: GivenBack) {
        followers.into_iter().for_each(|follower| self.records.loans.take_from_anybody(follower));
        self.come_again(freed);
    }

    fn come_again(&mut self, offsets: Vec<Offset>) {
        runs(offsets).into_iter().for_each(|run| self.records.again.insert(run));
    }

    fn id_of(&self, offset: Offset) -> Option<KeyId> {
        self.hashes.of(offset).map(|hash| KeyId { partition: self.partition, hash })
    }
}

impl ByKey for KeyedWindow {
    type Leaving = KeyedLeaving;

    fn records(&mut self) -> &mut Records<KeyedLeaving> {
        &mut self.records
    }

    /// Moves a record away that is with nobody any more.
    fn fail(&mut self, offset: Offset, fault: &Fault, pause: Pause, keys: &mut Keys) {
        let failure = Failure::first(&fault.error, fault.at_us);
        let Some(id) = self.id_of(offset) else { return self.leave(offset, failure, Way::Retry(pause)) };
        if let Some(given_back) = keys.fail(id, offset) {
            self.leave(offset, failure, Way::RetryInOrder(pause));
            self.taken_back(given_back);
        }
    }

    /// Parks a record that is with nobody any more. What follows goes on, unless its key is parked, too.
    fn give_up(&mut self, offset: Offset, fault: &Fault, keys: &mut Keys) {
        let failure = Failure::first(&fault.error, fault.at_us);
        let id = self.id_of(offset).filter(|_| keys.scope() == Scope::Key);
        let Some(id) = id else {
            self.leave(offset, failure, Way::Park);
            return self.settle(offset, keys);
        };
        if let Some(given_back) = keys.fail(id, offset) {
            self.leave(offset, failure, Way::Park);
            self.taken_back(given_back);
        }
    }

    fn look_ahead(&self, range: Range<Offset>, keys: &Keys) {
        keys.look_ahead(range.filter_map(|offset| self.id_of(offset)));
    }

    fn settle(&mut self, offset: Offset, keys: &mut Keys) {
        if let Some(id) = self.id_of(offset) {
            self.come_again(keys.settled(id, offset));
        }
    }

    fn give_back(&mut self, offset: Offset, keys: &mut Keys) {
        match self.id_of(offset) {
            Some(id) => {
                let given_back = keys.give_back(id, offset);
                self.taken_back(given_back);
            }
            None => self.records.again.insert(offset..offset + 1),
        }
    }
}

/// The hashes of keys of the records in a window, by offset; few are missing between the first and the last, mostly.
#[derive(Debug, Default)]
struct Hashes(VecDeque<(Offset, u32)>);

impl Hashes {
    fn note(&mut self, offset: Offset, hash: u32) {
        let index = self.first_from(offset);
        match self.0.get_mut(index) {
            Some(known) if known.0 == offset => known.1 = hash,
            Some(_) => self.0.insert(index, (offset, hash)),
            None => self.0.push_back((offset, hash)),
        }
    }

    fn of(&self, offset: Offset) -> Option<u32> {
        let known = self.0.get(self.first_from(offset))?;
        (known.0 == offset).then_some(known.1)
    }

    fn noted_in(&self, range: &Range<Offset>) -> Vec<Offset> {
        let end = self.first_from(range.end);
        self.0.range(self.first_from(range.start).min(end)..end).map(|known| known.0).collect()
    }

    fn forget_below(&mut self, offset: Offset) {
        self.0.drain(..self.first_from(offset));
    }

    /// The index of the first that is not below `offset`.
    fn first_from(&self, offset: Offset) -> usize {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else { return 0 };
        if offset > last.0 {
            return self.0.len();
        }
        // With nothing missing it is as far from the first as its offset is.
        let distance = usize::try_from(offset.saturating_sub(first.0)).unwrap_or(usize::MAX);
        if self.0.get(distance).is_some_and(|known| known.0 == offset) {
            return distance;
        }
        self.0.partition_point(|known| known.0 < offset)
    }
}

/// What is said of the record at `offset`.
pub(super) fn of_record(header: &BatchHeader, belongs: &[Belongs], offset: Offset) -> Belongs {
    let delta = offset.saturating_sub(header.base_offset);
    let index = if header.offset_deltas.is_empty() {
        usize::try_from(delta).ok()
    } else {
        u32::try_from(delta).ok().and_then(|delta| header.offset_deltas.binary_search(&delta).ok())
    };
    index.and_then(|index| belongs.get(index)).copied().unwrap_or(Belongs::Alone)
}

/// Offsets as ranges; those that ascend are joined.
pub(super) fn runs(offsets: impl IntoIterator<Item = Offset>) -> Vec<Range<Offset>> {
    let mut runs: Vec<Range<Offset>> = Vec::new();
    for offset in offsets {
        match runs.last_mut().filter(|run| run.end == offset) {
            Some(run) => run.end += 1,
            None => runs.push(offset..offset + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
