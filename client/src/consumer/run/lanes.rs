//! Which events may be handled beside each other. Pure.
//!
//! Events of one lane are handled one after another, in the order in which they came; events of different lanes beside each
//! other. An event whose lane is busy waits here, without taking a place from those that could run.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::admin::GroupMode;

/// Events that wait for their lane, at most.
const WAITING_MAX: usize = 1024;

/// What must not be overtaken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// An `ordered` group promises the order of each partition.
    Partition(u32),
    /// A `keyed` group promises the order of each key.
    Key(Bytes),
}

impl Lane {
    /// `None` for an event that nothing need wait for.
    pub(super) fn of(mode: Option<GroupMode>, partition: u32, key: Option<&Bytes>) -> Option<Self> {
        match mode {
            None | Some(GroupMode::Ordered) => Some(Self::Partition(partition)),
            Some(GroupMode::Keyed) => key.cloned().map(Self::Key),
            Some(GroupMode::Shared) => None,
        }
    }
}

/// The lanes that are busy, and what waits for them.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    busy: HashMap<Lane, VecDeque<T>>,
    waiting: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { busy: HashMap::new(), waiting: 0 }
    }
}

impl<T> Lanes<T> {
    /// Whether one more event may come, whatever its lane.
    pub(super) fn have_room(&self) -> bool {
        self.waiting < WAITING_MAX
    }

    /// Whether the next event of this partition could run. In a mode without order by partition all could.
    pub(super) fn is_free(&self, partition: u32) -> bool {
        !self.busy.contains_key(&Lane::Partition(partition))
    }

    /// Gives the event back if it may run now; else it waits for its lane.
    pub(super) fn enter(&mut self, lane: Option<&Lane>, event: T) -> Option<T> {
        let Some(lane) = lane else { return Some(event) };
        if let Some(queue) = self.busy.get_mut(lane) {
            queue.push_back(event);
            self.waiting += 1;
            return None;
        }
        self.busy.insert(lane.clone(), VecDeque::new());
        Some(event)
    }

    /// The event that ran in `lane` has been handled; gives the one that may run now.
    pub(super) fn leave(&mut self, lane: &Lane) -> Option<T> {
        let next = self.busy.get_mut(lane)?.pop_front();
        match next {
            Some(_) => self.waiting -= 1,
            None => drop(self.busy.remove(lane)),
        }
        next
    }

    /// The event that ran in `lane` comes again: gives those that must not overtake it.
    pub(super) fn clear(&mut self, lane: &Lane) -> VecDeque<T> {
        let stopped = self.busy.remove(lane).unwrap_or_default();
        self.waiting -= stopped.len();
        stopped
    }

    /// Everything that waits.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.busy.values().flatten()
    }

    /// Takes out everything that waits. Lanes stay as busy as they are.
    pub(super) fn take_waiting(&mut self) -> Vec<T> {
        self.waiting = 0;
        self.busy.values_mut().flat_map(std::mem::take).collect()
    }
}

#[cfg(test)]
mod tests;
