//! Which records wait for which, so that one key is with one member at a time, and in order.
//!
//! A chain is what is unsettled of one key, oldest first: some of it may be with a member, the rest waits. A record without
//! a key is a chain by itself.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    ops::Range,
};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::Stop;
use crate::groups::assignment::MemberId;

/// Names a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChainId {
    /// All records whose keys have this hash. Two keys that share one are kept in order together, which harms nobody.
    Key(u32),
    /// The record at this offset.
    Record(Offset),
}

/// See the [module](self). Bounded by what is unsettled below the cursor.
#[derive(Debug, Default)]
pub(super) struct Chains {
    chains: HashMap<ChainId, Chain>,
    /// Of every record in a chain.
    ids: HashMap<Offset, ChainId>,
    /// Those that are held, in order of time.
    pauses: BTreeSet<(Instant, ChainId)>,
}

#[derive(Debug)]
struct Chain {
    /// With whom it is, if any of it is open.
    seat: MemberId,
    open: VecDeque<Offset>,
    waiting: VecDeque<Offset>,
    held_until: Option<Instant>,
}

/// Whether a record may be delivered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Granted,
    /// Something before it is with somebody else, or is held.
    Waits,
}

/// What comes of records that are given back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GivenBack {
    /// Open after them, and taken back with them.
    pub(super) followers: Vec<Offset>,
    /// May be delivered to anybody.
    pub(super) freed: Vec<Offset>,
}

impl Chains {
    /// `seat` would get the record at `offset`, which is in no chain.
    pub(super) fn admit(&mut self, id: ChainId, offset: Offset, seat: MemberId) -> Admission {
        self.ids.insert(offset, id);
        match self.chains.entry(id) {
            Entry::Vacant(vacant) => {
                let (open, waiting) = (VecDeque::from([offset]), VecDeque::new());
                vacant.insert(Chain { seat, open, waiting, held_until: None });
                Admission::Granted
            }
            Entry::Occupied(mut occupied) => {
                let chain = occupied.get_mut();
                if chain.seat == seat && chain.waiting.is_empty() && chain.held_until.is_none() {
                    chain.open.push_back(offset);
                    return Admission::Granted;
                }
                let at = chain.waiting.partition_point(|waiting| *waiting < offset);
                chain.waiting.insert(at, offset);
                Admission::Waits
            }
        }
    }

    /// The record needs no delivery any more; returns what may be delivered to anybody with that.
    pub(super) fn settled(&mut self, offset: Offset) -> Vec<Offset> {
        let Some(id) = self.ids.remove(&offset) else { return Vec::new() };
        let Some(chain) = self.chains.get_mut(&id) else { return Vec::new() };
        // In order, mostly.
        if chain.open.front() == Some(&offset) {
            chain.open.pop_front();
        } else {
            chain.open.retain(|open| *open != offset);
            chain.waiting.retain(|waiting| *waiting != offset);
        }
        self.freed(id)
    }

    /// An open record comes again, and not before `held_until`. What is open after it comes after it again.
    pub(super) fn give_back(&mut self, offset: Offset, held_until: Option<Instant>) -> GivenBack {
        let Some(&id) = self.ids.get(&offset) else { return GivenBack::default() };
        let Some(chain) = self.chains.get_mut(&id) else { return GivenBack::default() };
        let at = chain.open.partition_point(|open| *open < offset);
        let taken = chain.open.split_off(at);
        taken.iter().rev().for_each(|offset| chain.waiting.push_front(*offset));
        if let Some(until) = held_until {
            let until = chain.held_until.map_or(until, |held| held.max(until));
            chain.held_until = Some(until);
            self.pauses.insert((until, id));
        }
        let followers = taken.into_iter().filter(|taken| *taken != offset).collect();
        GivenBack { followers, freed: self.freed(id) }
    }

    /// What is open next behind an open record.
    pub(super) fn follower(&self, offset: Offset) -> Option<Offset> {
        let chain = self.chains.get(self.ids.get(&offset)?)?;
        let after = chain.open.partition_point(|open| *open <= offset);
        chain.open.get(after).copied()
    }

    /// Ends what is held until `now` at most; returns what may be delivered with that.
    pub(super) fn resume(&mut self, now: Instant) -> Vec<Offset> {
        let mut freed = Vec::new();
        while let Some((_, id)) = self.pauses.first().copied().filter(|(until, _)| *until <= now) {
            self.pauses.pop_first();
            if let Some(chain) = self.chains.get_mut(&id).filter(|chain| chain.held_until.is_some_and(|at| at <= now)) {
                chain.held_until = None;
            }
            freed.extend(self.freed(id));
        }
        freed
    }

    /// When [`resume`](Self::resume) has something to do.
    pub(super) fn next_pause(&self) -> Option<Instant> {
        self.pauses.first().map(|(until, _)| *until)
    }

    /// Where the records of `range` are that are in a chain.
    pub(super) fn within(&self, range: &Range<Offset>) -> Vec<Offset> {
        self.ids.keys().copied().filter(|offset| range.contains(offset)).collect()
    }

    /// What waits for something before it, if anything does. Looks at all chains.
    pub(super) fn waiting(&self) -> Option<Stop> {
        let waiting = || self.chains.values().filter_map(|chain| Some((*chain.waiting.front()?, chain)));
        let (first, chain) = waiting().min_by_key(|(first, _)| *first)?;
        let records = waiting().map(|(_, chain)| chain.waiting.len() as u64).sum();
        Some(Stop::Keys { records, first, until: chain.held_until })
    }

    /// With nothing open and nothing to wait for, a chain ends, and what has waited in it goes to whoever comes first.
    fn freed(&mut self, id: ChainId) -> Vec<Offset> {
        let is_free = |chain: &Chain| chain.open.is_empty() && chain.held_until.is_none();
        if !self.chains.get(&id).is_some_and(is_free) {
            return Vec::new();
        }
        let waiting: Vec<Offset> = self.chains.remove(&id).map(|chain| chain.waiting.into()).unwrap_or_default();
        for offset in &waiting {
            self.ids.remove(offset);
        }
        waiting
    }
}
