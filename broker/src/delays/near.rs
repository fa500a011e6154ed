//! What is due next: the head of tier 0, in memory, in the order in which it will be delivered. Pure.
//!
//! Bounded. What does not fit is forgotten, the latest first; where that begins is remembered. When everything before
//! it has been taken out, tier 0 is read again.

use std::collections::BTreeMap;

use aqueduct_storage::Offset;

use super::entry::{Entry, Placed};

/// The order of delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) due_us: i64,
    pub(super) put: u64,
}

/// An entry that is known by its place, and perhaps in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) offset: Offset,
    pub(super) to: super::Destination,
    /// Of its record.
    pub(super) bytes: usize,
    pub(super) cached: Option<Entry>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Near {
    by_turn: BTreeMap<Turn, Pointer>,
    cached_bytes: usize,
    /// Turns from here on may be missing.
    complete_until: Option<Turn>,
    entries_max: usize,
    cached_bytes_max: usize,
}

impl Near {
    /// Room for so many entries, and for so many bytes of their records.
    pub(super) fn new(entries_max: usize, cached_bytes_max: usize) -> Self {
        Self { by_turn: BTreeMap::new(), cached_bytes: 0, complete_until: None, entries_max, cached_bytes_max }
    }

    /// Takes an entry in, if it belongs to what is kept.
    pub(super) fn insert(&mut self, Placed { offset, entry }: Placed) {
        let turn = Turn { due_us: entry.due_us, put: entry.put };
        if self.complete_until.is_some_and(|until| turn >= until) || self.by_turn.contains_key(&turn) {
            return;
        }
        let (bytes, to) = (entry.record.len(), entry.to);
        // A copy: views would keep whatever was stored with it.
        let cached = (self.cached_bytes + bytes <= self.cached_bytes_max)
            .then(|| Entry { record: entry.record.detached(), ..entry });
        self.cached_bytes += cached.as_ref().map_or(0, |_| bytes);
        self.by_turn.insert(turn, Pointer { offset, to, bytes, cached });
        if self.by_turn.len() > self.entries_max
            && let Some((latest, pointer)) = self.by_turn.pop_last()
        {
            self.forget(&pointer);
            self.complete_until = Some(latest);
        }
    }

    /// The next one whose time has come.
    pub(super) fn pop_due(&mut self, now_us: i64) -> Option<(Turn, Pointer)> {
        let first = self.by_turn.first_entry()?;
        if first.key().due_us > now_us {
            return None;
        }
        let (turn, pointer) = first.remove_entry();
        self.forget(&pointer);
        Some((turn, pointer))
    }

    /// When the next one is due.
    pub(super) fn next_due_us(&self) -> Option<i64> {
        self.by_turn.first_key_value().map(|(turn, _)| turn.due_us)
    }

    /// Whether tier 0 holds more than is known here, and is to be read from its beginning.
    pub(super) fn needs_rereading(&self) -> bool {
        self.by_turn.is_empty() && self.complete_until.is_some()
    }

    /// It is being read again: everything is taken in from here on.
    pub(super) fn rereads(&mut self) {
        self.complete_until = None;
    }

    fn forget(&mut self, pointer: &Pointer) {
        self.cached_bytes -= pointer.cached.as_ref().map_or(0, |entry| entry.record.len());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use fastrand::Rng;

    use super::*;
    use crate::{delays::Destination, services::Encoded};

    fn placed(offset: Offset, due_us: i64) -> Placed {
        let to = Destination { topic: [0; 16], partition: 0 };
        let record = Bytes::from_static(b"0123456789");
        Placed { offset, entry: Entry { put: offset, due_us, to, record: Encoded { timestamp_us: None, set: record } } }
    }

    /// However small the memory, what is due comes out exactly once, in order, if tier 0 is read again when asked.
    #[test]
    fn everything_comes_out_once_and_in_order_however_little_fits() {
        for seed in 0..200 {
            let mut rng = Rng::with_seed(seed);
            let mut near = Near::new(rng.usize(1..20), rng.usize(..100));
            let mut log: Vec<Placed> = Vec::new();
            let mut out: Vec<Turn> = Vec::new();
            let mut taken = BTreeSet::new();
            let mut read = 0;
            for now_us in 0..60 {
                for _ in 0..rng.usize(..6) {
                    log.push(placed(log.len() as Offset, now_us + rng.i64(1..20)));
                }
                loop {
                    log[read..].iter().filter(|p| !taken.contains(&p.offset)).for_each(|p| near.insert(p.clone()));
                    read = log.len();
                    while let Some((turn, pointer)) = near.pop_due(now_us) {
                        assert!(turn.due_us <= now_us && taken.insert(pointer.offset), "seed {seed}");
                        out.push(turn);
                    }
                    if !near.needs_rereading() {
                        break;
                    }
                    near.rereads();
                    read = 0;
                }
                let missed = log.iter().filter(|p| p.entry.due_us <= now_us && !taken.contains(&p.offset)).count();
                assert_eq!(missed, 0, "seed {seed} at {now_us}");
            }
            assert!(out.is_sorted(), "seed {seed}");
        }
    }

    #[test]
    fn records_are_kept_in_memory_while_there_is_room() {
        let mut near = Near::new(10, 20);
        (0..3).for_each(|offset| near.insert(placed(offset, 0)));
        let cached: Vec<bool> =
            std::iter::from_fn(|| near.pop_due(0)).map(|(_, pointer)| pointer.cached.is_some()).collect();
        assert_eq!(cached, [true, true, false]);
        assert_eq!(near.cached_bytes, 0);
    }
}
