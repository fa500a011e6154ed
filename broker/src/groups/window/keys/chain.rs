//! What is unsettled of one key, oldest first.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{LENT_MAX, line::Line};
use crate::groups::assignment::MemberId;

/// See the [module](self). There is one for each key that has anything unsettled, so it is small: 56 bytes.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// With whom it is, if any of it is open.
    pub(super) seat: MemberId,
    /// Out of the partition.
    pub(super) line: Line,
    pub(super) retries: Retries,
}

/// What of a key is in retry. Few chains have that.
#[derive(Debug, Default)]
pub(super) struct Retries(Option<Box<RetryState>>);

/// See [`Retries`].
#[derive(Debug)]
pub(super) struct RetryState {
    /// By the offsets at which they were published.
    pub(super) all: VecDeque<InRetry>,
    /// How many of them are with the member: the first ones, mostly.
    pub(super) lent: usize,
    /// The first is not due before.
    pub(super) held_until: Option<Instant>,
}

impl RetryState {
    const NOTHING: Self = Self { all: VecDeque::new(), lent: 0, held_until: None };
}

impl Deref for Retries {
    type Target = RetryState;

    fn deref(&self) -> &RetryState {
        static NOTHING: RetryState = RetryState::NOTHING;
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

/// It takes memory of its own from the first change on.
impl DerefMut for Retries {
    fn deref_mut(&mut self) -> &mut RetryState {
        self.0.get_or_insert_with(|| Box::new(RetryState::NOTHING))
    }
}

impl RetryState {
    /// Where the record is, or would be, that was published at `origin`: among the last, mostly.
    pub(super) fn place_of(&self, origin: Offset) -> Result<usize, usize> {
        match self.all.back() {
            Some(last) if last.origin > origin => self.all.binary_search_by_key(&origin, |known| known.origin),
            Some(last) if last.origin == origin => Ok(self.all.len() - 1),
            Some(_) | None => Err(self.all.len()),
        }
    }

    /// Something more is in retry, at this place.
    pub(super) fn insert(&mut self, index: usize, known: InRetry) {
        self.all.insert(index, known);
        if index == 0 {
            // It has taken the place of whatever was held.
            self.held_until = None;
        }
    }
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
    /// Whether the record at `index`, which is at `at` among the retries, may go to `seat`. A client has records of a key in
    /// the order of a log, so one that was moved is not lent together with what follows it.
    pub(super) fn may_lend(&self, index: usize, at: Offset, seat: MemberId) -> bool {
        let mut before = self.retries.all.iter().take(index);
        let is_before = |known: &InRetry| matches!(known.at, At::Lent(lent) if lent < at);
        let is_free = self.line.open().is_empty() && self.retries.held_until.is_none() && self.retries.lent < LENT_MAX;
        is_free && before.all(is_before) && (self.retries.lent == 0 || self.seat == seat)
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
