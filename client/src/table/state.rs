//! What a table knows. Pure: events in, changes out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::broadcast;

use super::{Change, Changes, TableError, TableStats, detached};
use crate::{record::Event, types::Offset};

/// Bytes that an entry takes beside its own: two pointers, an event, their allocations.
const ENTRY_OVERHEAD_BYTES: usize = 200;

/// Bounds of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) entries_max: usize,
    pub(super) bytes_max: usize,
    /// Changes that a listener may be behind.
    pub(super) changes_max: usize,
}

#[derive(Debug)]
pub(super) struct State {
    bounds: Bounds,
    entries: HashMap<Bytes, Arc<Event>>,
    bytes: usize,
    /// Of each partition, the next offset to be read.
    positions: BTreeMap<u32, Offset>,
    keyless_events: u64,
    gaps: u64,
    changes: broadcast::Sender<Change>,
    ended: Option<TableError>,
}

impl State {
    pub(super) fn new(bounds: Bounds, partitions: impl IntoIterator<Item = u32>) -> Self {
        Self {
            bounds,
            entries: HashMap::new(),
            bytes: 0,
            positions: partitions.into_iter().map(|partition| (partition, 0)).collect(),
            keyless_events: 0,
            gaps: 0,
            changes: broadcast::Sender::new(bounds.changes_max),
            ended: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), TableError> {
        self.ended.clone().map_or(Ok(()), Err)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Arc<Event>>, TableError> {
        self.check()?;
        Ok(self.entries.get(key).cloned())
    }

    pub(super) fn snapshot(&self) -> Result<Vec<Arc<Event>>, TableError> {
        self.check()?;
        Ok(self.entries.values().cloned().collect())
    }

    pub(super) fn stats(&self) -> TableStats {
        TableStats {
            entries: self.entries.len(),
            bytes: self.bytes,
            keyless_events: self.keyless_events,
            gaps: self.gaps,
        }
    }

    pub(super) fn changes(&self) -> Changes {
        Changes::new(self.changes.subscribe(), self.ended.clone())
    }

    pub(super) fn position(&self, partition: u32) -> Result<Offset, TableError> {
        self.positions.get(&partition).copied().ok_or(TableError::UnknownPartition { partition })
    }

    /// Everything below `offset` has been read.
    pub(super) fn reached(&mut self, partition: u32, offset: Offset) {
        let position = self.positions.entry(partition).or_default();
        *position = offset.max(*position);
    }

    pub(super) fn accept_gap(&mut self) {
        self.gaps += 1;
    }

    /// No further change comes; the first reason counts.
    pub(super) fn end(&mut self, error: TableError) {
        if self.ended.is_none() {
            self.ended = Some(error);
            // Whoever listens hears of it once all changes are taken.
            self.changes = broadcast::Sender::new(1);
        }
    }

    /// Takes in the next event of a partition.
    ///
    /// # Errors
    /// The bound that it would break; then it is not taken in.
    pub(super) fn apply(&mut self, event: Event) -> Result<(), TableError> {
        let Some(key) = event.record.key.clone() else {
            self.keyless_events += 1;
            return Ok(());
        };
        let before = self.entries.get(&key).cloned();
        let freed = before.as_deref().map_or(0, cost);
        let after = match event.record.value {
            None => {
                self.entries.remove(&key);
                self.bytes -= freed;
                None
            }
            Some(_) => {
                let added = cost(&event);
                self.check_bounds(before.is_none(), self.bytes - freed + added)?;
                let event = Arc::new(detached(event));
                let key = event.record.key.clone().unwrap_or_default();
                self.entries.insert(key, Arc::clone(&event));
                self.bytes = self.bytes - freed + added;
                Some(event)
            }
        };
        if before.is_some() || after.is_some() {
            // Without listeners nobody hears of it.
            let _ = self.changes.send(Change { key: Bytes::copy_from_slice(&key), before, after });
        }
        Ok(())
    }

    fn check_bounds(&self, is_new: bool, bytes: usize) -> Result<(), TableError> {
        let Bounds { entries_max, bytes_max, .. } = self.bounds;
        if is_new && self.entries.len() >= entries_max {
            return Err(TableError::TooManyEntries { entries_max });
        }
        if bytes > bytes_max {
            return Err(TableError::TooManyBytes { bytes_max });
        }
        Ok(())
    }
}

/// Bytes that an event takes in the table.
fn cost(event: &Event) -> usize {
    let record = &event.record;
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    length(&record.key) + length(&record.value) + headers + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{record::Record, types::Timestamp};

    const BOUNDS: Bounds = Bounds { entries_max: 3, bytes_max: 2000, changes_max: 64 };

    fn event(offset: Offset, record: Record) -> Event {
        Event { topic: "prices".into(), partition: 0, offset, append_time: Timestamp::from_micros(0), record }
    }

    fn put(offset: Offset, key: &str, value: &str) -> Event {
        event(offset, Record::new(value.to_owned()).key(key.to_owned()))
    }

    fn gone(offset: Offset, key: &str) -> Event {
        event(offset, Record::tombstone(key.to_owned()))
    }

    #[test]
    fn it_is_what_a_map_makes_of_the_same_events() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut state = State::new(Bounds { entries_max: 100, bytes_max: 1 << 20, changes_max: 1024 }, [0]);
            let mut changes = state.changes();
            let (mut model, mut told) = (BTreeMap::new(), BTreeMap::new());
            for offset in 0..300 {
                let key = format!("k{}", random.u8(0..20));
                if random.u8(0..4) == 0 {
                    model.remove(&key);
                    state.apply(gone(offset, &key)).expect("room");
                } else {
                    model.insert(key.clone(), offset.to_string());
                    state.apply(put(offset, &key, &offset.to_string())).expect("room");
                }
            }
            let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
            let value = |event: &Event| text(event.record.value.as_ref().expect("a value"));
            let found: BTreeMap<String, String> =
                state.entries.iter().map(|(key, event)| (text(key), value(event))).collect();
            assert_eq!(found, model, "seed {seed}");
            assert_eq!(state.bytes, state.entries.values().map(|event| cost(event)).sum::<usize>(), "seed {seed}");
            while let Some(change) = changes.take_now() {
                let change = change.expect("none was missed");
                let before = change.before.as_deref().map(value);
                assert_eq!(told.remove(&text(&change.key)), before, "seed {seed}");
                if let Some(after) = &change.after {
                    told.insert(text(&change.key), value(after));
                }
            }
            assert_eq!(told, model, "seed {seed}");
        }
    }

    #[test]
    fn a_bound_that_is_reached_is_named_and_nothing_is_dropped() {
        let mut state = State::new(BOUNDS, [0]);
        for (offset, key) in [(0, "a"), (1, "b"), (2, "c"), (3, "a")] {
            state.apply(put(offset, key, "value")).expect("room");
        }
        let refused = state.apply(put(4, "d", "value"));
        assert!(matches!(refused, Err(TableError::TooManyEntries { entries_max: 3 })), "{refused:?}");
        let refused = state.apply(put(5, "a", &"x".repeat(2000)));
        assert!(matches!(refused, Err(TableError::TooManyBytes { bytes_max: 2000 })), "{refused:?}");
        assert_eq!(state.stats().entries, 3);
        state.apply(gone(6, "b")).expect("less");
        state.apply(put(7, "d", "value")).expect("room again");
    }

    #[test]
    fn what_has_ended_says_why_at_every_look() {
        let mut state = State::new(BOUNDS, [0]);
        state.apply(put(0, "a", "value")).expect("room");
        let mut changes = state.changes();
        state.apply(gone(1, "a")).expect("room");
        state.end(TableError::Closed);
        state.end(TableError::UnknownPartition { partition: 7 });
        assert!(matches!(state.get(b"a"), Err(TableError::Closed)));
        assert!(matches!(state.snapshot(), Err(TableError::Closed)));
        assert!(matches!(changes.take_now(), Some(Ok(Change { after: None, .. }))), "what came before is still told");
        assert!(changes.take_now().is_none());
    }
}
