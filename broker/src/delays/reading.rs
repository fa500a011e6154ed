//! Where the reading of one tier stands.

use aqueduct_storage::{Batch, Offset};

use super::{
    entry::{self, Placed},
    state::Settled,
};
use crate::groups::ranges::RangeSet;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Reading {
    /// Everything below has been read.
    pub(super) cursor: Offset,
    /// Offsets that are on their way somewhere, or have been since the start.
    taken: RangeSet,
    /// How many are on their way.
    pub(super) under_way: usize,
    /// When the tier lets go of what is at the cursor, if that is known.
    pub(super) next_look_us: Option<i64>,
    /// When the tier has let go of the first of those that are on their way; not known of those of an earlier life.
    pub(super) let_go_us: i64,
}

/// What a batch of a tier comes to.
pub(super) enum Found {
    /// Those that nobody has taken.
    Entries(Vec<Placed>),
    /// It is none of the store's.
    Unreadable,
}

impl Reading {
    /// From the first offset that is not settled.
    pub(super) fn starting(settled: Option<&Settled>) -> Self {
        Self {
            cursor: settled.map_or(0, Settled::below),
            taken: RangeSet::default(),
            under_way: 0,
            next_look_us: None,
            let_go_us: i64::MIN,
        }
    }

    /// Whether there may be something before `end` that the tier lets go of now. What it let go of before arrives first.
    pub(super) fn is_to_be_looked_at(&self, now_us: i64, end: Offset) -> bool {
        self.under_way == 0 && self.cursor < end && self.next_look_us.is_none_or(|look_us| look_us <= now_us)
    }

    /// These offsets are on their way.
    pub(super) fn take(&mut self, offsets: impl Iterator<Item = Offset>) {
        for offset in offsets {
            self.taken.insert(offset..offset.saturating_add(1));
            self.under_way += 1;
        }
    }

    /// So many have arrived.
    pub(super) fn arrived(&mut self, count: usize) {
        self.under_way = self.under_way.saturating_sub(count);
    }

    /// Forgets what the journal knows.
    pub(super) fn forget_below(&mut self, below: Offset) {
        self.taken.remove(0..below);
    }

    /// The entries of `batch` from the cursor on, which moves behind them.
    pub(super) fn read(&mut self, batch: &Batch, settled: Option<&Settled>) -> Found {
        let from = self.cursor;
        self.cursor = from.max(batch.header.next_offset());
        let Some(mut entries) = entry::decode(batch) else { return Found::Unreadable };
        entries.retain(|placed| {
            let offset = placed.offset;
            offset >= from
                && self.taken.within(&(offset..offset.saturating_add(1))).is_empty()
                && !settled.is_some_and(|settled| settled.contains(offset))
        });
        Found::Entries(entries)
    }
}
