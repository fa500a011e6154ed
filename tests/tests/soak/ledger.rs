//! What was published, and what each group made of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard},
};

/// One record: the so-manieth of its key. Its value says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Event {
    pub(crate) key: u32,
    pub(crate) number: u64,
}

impl Event {
    pub(crate) fn value(self) -> String {
        format!("{}/{}", self.key, self.number)
    }

    /// # Panics
    /// If it is none of ours.
    pub(crate) fn parse(value: &[u8]) -> Self {
        let text = std::str::from_utf8(value).expect("text");
        let (key, number) = text.split_once('/').expect("a key and a number");
        Self { key: key.parse().expect("a key"), number: number.parse().expect("a number") }
    }

    /// One in a hundred can never be handled.
    pub(crate) fn is_poison(self) -> bool {
        (u64::from(self.key) * 7 + self.number * 13) % 100 == 42
    }
}

/// What one group has handled.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    times: HashMap<Event, u32>,
    /// Of each key, in the order in which they were handled for the first time.
    first: BTreeMap<u32, Vec<u64>>,
}

impl Handled {
    pub(crate) fn add(&self, event: Event) {
        let mut inner = self.lock();
        let times = inner.times.entry(event).or_default();
        *times += 1;
        if *times == 1 {
            inner.first.entry(event.key).or_default().push(event.number);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().times.len()
    }

    /// Deliveries beyond the first, of all events.
    pub(crate) fn repeats(&self) -> u64 {
        self.lock().times.values().map(|times| u64::from(*times - 1)).sum()
    }

    pub(crate) fn events(&self) -> BTreeSet<Event> {
        self.lock().times.keys().copied().collect()
    }

    /// # Panics
    /// If a key's records were not handled in the order in which they were published.
    pub(crate) fn check_order(&self, group: &str) {
        for (key, numbers) in &self.lock().first {
            let turn = numbers.windows(2).find(|pair| pair[0] > pair[1]);
            assert_eq!(turn, None, "{group} handled key {key} out of order");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no handler has panicked")
    }
}
