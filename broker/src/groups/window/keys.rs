//! Which key is where, over all partitions of a topic and what a group tries again of it: with one member at a time, and in
//! order.
//!
//! A chain is what is unsettled of one key, oldest first. Some of it may be with a member; what else was read of its
//! partition waits. Once a record has failed it is *in retry*, and so is everything that follows: a chain that has something
//! there takes it from there only, by the offsets at which it was published, and new records go there, too.
//!
//! Where a group wants it, a key that has a dead letter is *parked*: whatever was published after that letter goes there as
//! well, in order.

mod chain;
mod line;
mod parking;
mod stops;

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    ops::Range,
};

use aqueduct_storage::Offset;
use foldhash::fast::RandomState;
use tokio::time::Instant;

use self::chain::{At, Chain, InRetry};
use super::Stop;
use crate::groups::{assignment::MemberId, state::REDRIVEN};

/// New records wait while so many are in retry, however many letters are redriven: each takes 24 bytes, and each key about 200.
pub(crate) const IN_RETRY_MAX: usize = 1 << 20;
/// Records of one key that are in retry and with a member at once.
const LENT_MAX: usize = 64;

/// Names a chain: keys are compared by their hashes, within a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyId {
    pub(crate) partition: u32,
    pub(crate) hash: u32,
}

/// A record in retry, as its headers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) id: KeyId,
    /// Where it was published.
    pub(crate) origin: Offset,
    /// Not before then.
    pub(crate) due: Instant,
}

/// See the [module](self). Bounded by what is unsettled below the cursors, and by [`IN_RETRY_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// Looked up for every record. The hash of a key is anybody's choice, so where it comes to lie must not be known.
    chains: HashMap<KeyId, Chain, RandomState>,
    /// Chains that are held, in order of time.
    pauses: BTreeSet<(Instant, KeyId)>,
    in_retry: usize,
    /// Of these there may be more in retry than was seen: nothing of them is tried until all of it is.
    fresh: BTreeSet<KeyId>,
    /// Offsets among the retries that may be delivered now.
    ready: Vec<Offset>,
    sight: Sight,
    /// Where the first dead letter of a key was published, if that matters.
    parked: HashMap<KeyId, Offset>,
    /// Of records that are on their way there because their keys are parked.
    parking: BTreeSet<(KeyId, Offset)>,
    /// Of these keys the first dead letter is in retry again, and still unsettled: nothing behind it is judged.
    redriven: HashMap<KeyId, Offset>,
    /// Given back while a later record of their key is in retry: nothing later is tried until they are there, too.
    given_back: BTreeSet<(KeyId, Offset)>,
    /// How far partitions were read.
    cursors: HashMap<u32, Offset>,
    /// Up to where they are to be read before something in retry is tried: a group that begins again may find something
    /// before it.
    awaited: HashMap<u32, Offset>,
    scope: Scope,
}

/// What is parked with a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    #[default]
    Record,
    /// Everything of its key.
    Key,
}

/// How much of what is in retry is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sight {
    #[default]
    Whole,
    /// What was in retry when the group began is still being looked through: nobody knows which key has something there.
    Partial,
}

/// Whether a new record may be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Granted,
    /// Something before it is with somebody else.
    Waits,
    /// Something before it is in retry: so is this one from now on.
    Follows,
    /// It is in retry already.
    Settled,
    /// Its key is parked.
    Parks,
}

/// Whether a record in retry may be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) is_due: Due,
    /// This one of the retries is a copy of another.
    pub(super) superseded: Option<Offset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    Later,
    /// Its key is parked: it is not tried.
    Never,
}

/// What comes of records that are given back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GivenBack {
    /// Open after them, and taken back with them.
    pub(super) followers: Vec<Offset>,
    /// May be delivered to anybody.
    pub(super) freed: Vec<Offset>,
}

impl Keys {
    // ---- records of a partition

    /// `seat` would get the record at `offset`, which is in no chain.
    pub(super) fn admit(&mut self, id: KeyId, offset: Offset, seat: MemberId) -> Admission {
        self.given_back.remove(&(id, offset));
        let is_parked = self.is_parked(id, offset);
        if is_parked && !self.redriven.contains_key(&id) && !self.has_retries(id) {
            self.parking.insert((id, offset));
            return Admission::Parks;
        }
        let chain = self.chains.entry(id).or_default();
        if (is_parked || !chain.retries.all.is_empty()) && chain.line.waiting().is_empty() {
            return self.follow(id, offset);
        }
        if chain.line.open().is_empty() {
            chain.seat = seat;
        }
        if chain.seat == seat && chain.line.waiting().is_empty() {
            chain.line.push_open(offset);
            return Admission::Granted;
        }
        chain.line.push_waiting(offset);
        Admission::Waits
    }

    fn has_retries(&self, id: KeyId) -> bool {
        self.chains.get(&id).is_some_and(|chain| !chain.retries.all.is_empty())
    }

    /// Brings the chains of these keys near: of many that are looked up one after the other, and nothing else, the processor
    /// fetches several at once. One by one, waiting for memory was a third of what a record costs.
    pub(super) fn look_ahead(&self, ids: impl Iterator<Item = KeyId>) {
        let open = ids.filter_map(|id| self.chains.get(&id)).map(|chain| chain.line.open().len());
        std::hint::black_box(open.sum::<usize>());
    }

    /// Something earlier is in retry, or may be.
    fn follow(&mut self, id: KeyId, offset: Offset) -> Admission {
        let is_new = self.move_into_retry(id, offset);
        if !is_new {
            // It may have been what the next one was waiting for.
            self.go_on(id);
            return Admission::Settled;
        }
        Admission::Follows
    }

    /// Whether it was not there before.
    fn move_into_retry(&mut self, id: KeyId, origin: Offset) -> bool {
        let chain = self.chains.entry(id).or_default();
        let Err(at) = chain.retries.place_of(origin) else { return false };
        chain.retries.insert(at, InRetry { origin, at: At::Moving });
        self.in_retry += 1;
        true
    }

    /// The record needs no delivery any more; returns what may be delivered to anybody with that.
    pub(super) fn settled(&mut self, id: KeyId, offset: Offset) -> Vec<Offset> {
        self.given_back.remove(&(id, offset));
        let Entry::Occupied(mut chain) = self.chains.entry(id) else { return Vec::new() };
        chain.get_mut().line.remove(offset);
        if chain.get().line.is_empty() && chain.get().retries.all.is_empty() {
            chain.remove();
            return Vec::new();
        }
        self.freed(id)
    }

    /// An open record comes again, and what is open after it comes after it again.
    pub(super) fn give_back(&mut self, id: KeyId, offset: Offset) -> GivenBack {
        let Some(chain) = self.chains.get_mut(&id) else { return GivenBack::default() };
        let Some(followers) = chain.line.take_back(offset) else { return GivenBack::default() };
        GivenBack { followers, freed: self.freed(id) }
    }

    /// An open record goes into retry, and so will what follows. `None` if it was taken back with an earlier one.
    pub(super) fn fail(&mut self, id: KeyId, offset: Offset) -> Option<GivenBack> {
        let chain = self.chains.get_mut(&id)?;
        let followers = chain.line.take_back(offset)?;
        chain.line.remove(offset);
        self.move_into_retry(id, offset);
        Some(GivenBack { followers, freed: self.freed(id) })
    }

    /// With nothing of it open, what waits of a chain goes to whoever comes first.
    fn freed(&mut self, id: KeyId) -> Vec<Offset> {
        let chain = self.chains.get_mut(&id).filter(|chain| chain.line.open().is_empty());
        let Some(chain) = chain else { return Vec::new() };
        let waiting = chain.line.take_waiting();
        if !chain.retries.all.is_empty() {
            self.given_back.extend(waiting.iter().map(|offset| (id, *offset)));
        }
        self.go_on(id);
        waiting
    }

    // ---- records in retry

    /// Whether new records may be looked at, of which any may have to go into retry.
    pub(super) fn have_room(&self) -> bool {
        self.in_retry < IN_RETRY_MAX
    }

    /// `seat` would get the record at `at` among the retries. Whatever is seen there for the first time has to wait until
    /// all of them are: another one may come before it.
    pub(super) fn admit_again(&mut self, again: Again, at: Offset, seat: MemberId, now: Instant) -> Turn {
        let Again { id, origin, .. } = again;
        let later = |superseded| Turn { is_due: Due::Later, superseded };
        if self.parked.get(&id) == Some(&origin) {
            self.redriven.insert(id, origin);
        }
        let chain = self.chains.entry(id).or_default();
        let Ok(index) = chain.retries.place_of(origin) else {
            self.note(id, InRetry { origin, at: At::Waiting(at) });
            return later(None);
        };
        match chain.retries.all[index].at {
            At::Waiting(known) if known == at => {
                let is_due = self.turn_of(index, again, at, seat, now);
                Turn { is_due, superseded: None }
            }
            At::Waiting(known) if known < at => {
                chain.retries.all[index].at = At::Waiting(at);
                self.fresh.insert(id);
                later(Some(known))
            }
            At::Waiting(_) | At::Lent(_) => later(Some(at)),
            At::Moving => {
                chain.retries.all[index].at = At::Waiting(at);
                self.fresh.insert(id);
                later(None)
            }
        }
    }

    /// The first sight of a record in retry.
    fn note(&mut self, id: KeyId, seen: InRetry) {
        let chain = self.chains.entry(id).or_default();
        let index = chain.retries.place_of(seen.origin).unwrap_or_else(|index| index);
        chain.retries.insert(index, seen);
        self.in_retry += 1;
        self.fresh.insert(id);
    }

    fn turn_of(&mut self, index: usize, again: Again, at: Offset, seat: MemberId, now: Instant) -> Due {
        let Again { id, origin, due } = again;
        let is_parked = self.is_parked(id, origin);
        let is_judged = self.sight == Sight::Whole && !self.redriven.contains_key(&id);
        if self.follows_unread(id, origin) || (is_parked && !is_judged) {
            return Due::Later;
        }
        let Some(chain) = self.chains.get_mut(&id) else { return Due::Later };
        if is_parked && chain.retries.all.iter().take(index).all(|known| known.at == At::Moving) {
            chain.retries.all[index].at = At::Moving;
            self.parking.insert((id, origin));
            return Due::Never;
        }
        if due > now {
            // Whatever is not the first is looked at again once it is.
            if index == 0 && chain.retries.lent == 0 {
                chain.retries.held_until = Some(due);
                self.pauses.insert((due, id));
            }
            return Due::Later;
        }
        if self.fresh.contains(&id) || !chain.may_lend(index, at, seat) {
            return Due::Later;
        }
        chain.seat = seat;
        chain.retries.all[index].at = At::Lent(at);
        chain.retries.lent += 1;
        Due::Now
    }

    /// Whether something earlier of its key may be about to be read.
    fn follows_unread(&mut self, id: KeyId, origin: Offset) -> bool {
        if self.cursors.get(&id.partition).is_some_and(|cursor| *cursor <= origin) {
            self.awaited
                .entry(id.partition)
                .and_modify(|up_to| *up_to = (origin + 1).max(*up_to))
                .or_insert(origin + 1);
            return true;
        }
        self.given_back.range((id, 0)..(id, origin)).next().is_some()
    }

    /// The retries were read up to their end.
    pub(crate) fn seen_to_the_end(&mut self) {
        std::mem::take(&mut self.fresh).into_iter().for_each(|id| self.go_on(id));
    }

    /// A record in retry that was with a member needs no delivery any more.
    pub(super) fn settled_again(&mut self, id: KeyId, at: Offset) {
        let Some(chain) = self.chains.get_mut(&id) else { return };
        if let Some(index) = chain.retries.all.iter().position(|known| known.at == At::Lent(at)) {
            chain.retries.all.remove(index);
            chain.retries.lent -= 1;
            self.in_retry -= 1;
        }
        self.go_on(id);
    }

    /// A record in retry that was with a member comes again, and with it what is open after it, which is returned.
    pub(super) fn give_back_again(&mut self, id: KeyId, at: Offset) -> Vec<Offset> {
        self.take_back_again(id, at, At::Waiting(at))
    }

    /// As [`give_back_again`](Self::give_back_again), but it moves to the end of the retries first.
    pub(super) fn fail_again(&mut self, id: KeyId, at: Offset) -> Vec<Offset> {
        self.take_back_again(id, at, At::Moving)
    }

    fn take_back_again(&mut self, id: KeyId, at: Offset, to: At) -> Vec<Offset> {
        let Some(chain) = self.chains.get_mut(&id) else { return Vec::new() };
        let Some(index) = chain.retries.all.iter().position(|known| known.at == At::Lent(at)) else {
            return Vec::new();
        };
        chain.retries.all[index].at = to;
        let mut followers = Vec::new();
        for known in chain.retries.all.iter_mut().skip(index + 1) {
            let At::Lent(at) = known.at else { continue };
            known.at = At::Waiting(at);
            followers.push(at);
        }
        chain.retries.lent -= 1 + followers.len();
        self.go_on(id);
        followers
    }

    // ---- where records go

    /// A record that was to move into retry has gone elsewhere.
    pub(super) fn gone(&mut self, id: KeyId, origin: Offset) {
        self.parking.remove(&(id, origin));
        let Some(chain) = self.chains.get_mut(&id) else { return };
        if let Ok(index) = chain.retries.place_of(origin)
            && chain.retries.all[index].at == At::Moving
        {
            chain.retries.all.remove(index);
            self.in_retry -= 1;
        }
        self.go_on(id);
    }

    /// Nothing of `range` among the retries can be read. What was on its way may have been there.
    pub(super) fn lost(&mut self, range: &Range<Offset>) {
        let is_kept = |known: &InRetry| match known.at {
            At::Moving => false,
            At::Waiting(at) | At::Lent(at) => !range.contains(&at),
        };
        for chain in self.chains.values_mut().filter(|chain| !chain.retries.all.is_empty()) {
            chain.retries.all.retain(is_kept);
            chain.retries.lent = chain.retries.all.iter().filter(|known| matches!(known.at, At::Lent(_))).count();
        }
        self.in_retry = self.chains.values().map(|chain| chain.retries.all.len()).sum();
        self.all_go_on();
    }

    /// What may be delivered now, among the retries, though it was passed over before.
    pub(crate) fn take_ready(&mut self) -> Vec<Offset> {
        std::mem::take(&mut self.ready)
    }

    /// Ends what is held until `now` at most.
    pub(crate) fn resume(&mut self, now: Instant) {
        while let Some((until, id)) = self.pauses.first().copied().filter(|(until, _)| *until <= now) {
            self.pauses.pop_first();
            if let Some(chain) = self.chains.get_mut(&id).filter(|chain| chain.retries.held_until == Some(until)) {
                chain.retries.held_until = None;
                self.go_on(id);
            }
        }
    }

    /// When [`resume`](Self::resume) has something to do.
    pub(crate) fn next_pause(&self) -> Option<Instant> {
        self.pauses.first().map(|(until, _)| *until)
    }

    // ---- where the group begins

    /// What is in retry is looked through first.
    pub(crate) fn look_through(&mut self) {
        self.sight = Sight::Partial;
    }

    /// All of it was seen.
    pub(crate) fn looked_through(&mut self) {
        if self.sight == Sight::Partial {
            self.sight = Sight::Whole;
            self.all_go_on();
        }
    }

    /// Whether it is known which keys have something in retry.
    pub(crate) fn know_all(&self) -> bool {
        self.sight == Sight::Whole
    }

    /// The partition was read up to `cursor`, or is read from there.
    pub(crate) fn read_up_to(&mut self, partition: u32, cursor: Offset) {
        self.cursors.insert(partition, cursor);
        if self.awaited.get(&partition).is_some_and(|up_to| *up_to <= cursor) {
            self.awaited.remove(&partition);
            self.all_go_on();
        }
    }

    /// Whether what is in retry of this partition waits for it.
    pub(super) fn is_awaited(&self, partition: u32) -> bool {
        self.awaited.contains_key(&partition)
    }

    /// The partition is delivered by somebody else from now on.
    pub(crate) fn forget(&mut self, partition: u32) {
        if partition == REDRIVEN {
            self.parking.clear();
            return self.lost(&(0..Offset::MAX));
        }
        self.cursors.remove(&partition);
        self.awaited.remove(&partition);
        self.parking.retain(|(id, _)| id.partition != partition);
        self.given_back.retain(|(id, _)| id.partition != partition);
        self.chains.retain(|id, _| id.partition != partition);
        self.in_retry = self.chains.values().map(|chain| chain.retries.all.len()).sum();
    }

    fn all_go_on(&mut self) {
        let ids: Vec<KeyId> = self.chains.keys().copied().collect();
        ids.into_iter().for_each(|id| self.go_on(id));
    }

    /// Looks for what is next in retry, if nothing is open; a chain of which nothing is left ends.
    fn go_on(&mut self, id: KeyId) {
        let Some(chain) = self.chains.get(&id) else { return };
        if !chain.line.open().is_empty() || chain.retries.lent > 0 {
            return;
        }
        if chain.retries.all.is_empty() && chain.line.is_empty() {
            self.chains.remove(&id);
        } else if chain.retries.held_until.is_none() && self.sight == Sight::Whole && !self.fresh.contains(&id) {
            self.ready.extend(chain.retries.all.iter().map_while(InRetry::waiting_at).take(LENT_MAX));
        }
    }
}

#[cfg(test)]
mod tests;
