//! What is unsettled of one key, oldest first.

use std::collections::VecDeque;

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::LENT_MAX;
use crate::groups::assignment::MemberId;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// With whom it is, if any of it is open.
    pub(super) seat: MemberId,
    /// With the member, out of the partition.
    pub(super) open: VecDeque<Offset>,
    /// Read, and passed over for now. Empty unless something is open.
    pub(super) waiting: VecDeque<Offset>,
    /// By the offsets at which they were published.
    pub(super) retry: VecDeque<InRetry>,
    /// How many of those are with the member: the first ones, mostly.
    pub(super) lent: usize,
    /// The first in retry is not due before.
    pub(super) held_until: Option<Instant>,
}

/// A record in retry.
#[derive(Debug, Clone, Copy)]
pub(super) struct InRetry {
    pub(super) origin: Offset,
    pub(super) at: At,
}

/// Where a record is among the retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// On its way there, or there and not read yet.
    Moving,
    Waiting(Offset),
    /// With the member of its chain.
    Lent(Offset),
}

impl Chain {
    /// Something more is in retry, at this place.
    pub(super) fn insert(&mut self, index: usize, known: InRetry) {
        self.retry.insert(index, known);
        if index == 0 {
            // It has taken the place of whatever was held.
            self.held_until = None;
        }
    }

    /// Takes an open record out, and what is open behind it, which waits, and is returned. `None` if it is not open: it was
    /// taken back with another.
    pub(super) fn take_back(&mut self, offset: Offset) -> Option<Vec<Offset>> {
        let at = self.open.binary_search(&offset).ok()?;
        let followers: Vec<Offset> = self.open.split_off(at).into_iter().skip(1).collect();
        followers.iter().rev().for_each(|follower| self.waiting.push_front(*follower));
        Some(followers)
    }

    /// Whether the record at `index`, which is at `at` among the retries, may go to `seat`. A client has records of a key in
    /// the order of a log, so one that was moved is not lent together with what follows it.
    pub(super) fn may_lend(&self, index: usize, at: Offset, seat: MemberId) -> bool {
        let mut before = self.retry.iter().take(index);
        let is_before = |known: &InRetry| matches!(known.at, At::Lent(lent) if lent < at);
        let is_free = self.open.is_empty() && self.held_until.is_none() && self.lent < LENT_MAX;
        is_free && before.all(is_before) && (self.lent == 0 || self.seat == seat)
    }
}

impl InRetry {
    pub(super) fn waiting_at(&self) -> Option<Offset> {
        match self.at {
            At::Waiting(at) => Some(at),
            At::Moving | At::Lent(_) => None,
        }
    }
}
