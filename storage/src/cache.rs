//! The tail of a log in memory: the last batches, shared by all readers.
//!
//! A cache is bounded by its log's options and, with all others, by a [`CacheBudget`]. It is filled only with what is
//! readable: a batch enters together with the high watermark that covers it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::{Batch, Offset};

/// A bound on the bytes that the tail caches of many logs hold together.
///
/// When it is exceeded, whole caches are dropped in turn; their logs go on reading from the disk.
#[derive(Debug)]
pub struct CacheBudget {
    bytes_max: u64,
    used: AtomicU64,
    caches: Mutex<Turn>,
}

/// The caches that share a budget, and whose turn it is to be dropped.
#[derive(Debug, Default)]
struct Turn {
    caches: Vec<Weak<TailCache>>,
    next: usize,
}

impl CacheBudget {
    /// A budget of `bytes_max` bytes of headers and payloads.
    #[must_use]
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, used: AtomicU64::new(0), caches: Mutex::default() })
    }

    /// Bytes held by all caches together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Drops other caches than `filling`, and it at last, until the budget is kept. Amortised, each call drops about as
    /// much as was added.
    fn keep_within(&self, filling: &TailCache) {
        let mut attempts = self.caches.lock().caches.len();
        while self.used_bytes() > self.bytes_max && attempts > 0 {
            attempts -= 1;
            if let Some(victim) = self.next_victim()
                && !std::ptr::eq(&raw const *victim, filling)
            {
                victim.clear();
            }
        }
        if self.used_bytes() > self.bytes_max {
            filling.clear();
        }
    }

    fn next_victim(&self) -> Option<Arc<TailCache>> {
        let mut turn = self.caches.lock();
        if turn.next >= turn.caches.len() {
            turn.next = 0;
            turn.caches.retain(|cache| cache.strong_count() > 0);
        }
        let victim = turn.caches.get(turn.next)?.upgrade();
        turn.next += 1;
        victim
    }
}

/// The last batches of one log.
#[derive(Debug)]
pub(crate) struct TailCache {
    budget: Option<Arc<CacheBudget>>,
    batches: Mutex<Batches>,
}

/// Contiguous batches, oldest first.
#[derive(Debug, Default)]
struct Batches {
    queue: VecDeque<Batch>,
    bytes: u64,
}

impl TailCache {
    pub(crate) fn new(budget: Option<Arc<CacheBudget>>) -> Arc<Self> {
        let cache = Arc::new(Self { budget, batches: Mutex::default() });
        if let Some(budget) = &cache.budget {
            let mut turn = budget.caches.lock();
            turn.caches.retain(|cache| cache.strong_count() > 0);
            turn.caches.push(Arc::downgrade(&cache));
        }
        cache
    }

    /// Adds `group` and removes the oldest batches beyond `bytes_max`.
    pub(crate) fn push(&self, group: impl Iterator<Item = Batch>, bytes_max: u64) {
        {
            let mut batches = self.batches.lock();
            for batch in group {
                let bytes = batch.stored_bytes();
                batches.bytes += bytes;
                self.charge(bytes);
                batches.queue.push_back(batch);
            }
            while batches.bytes > bytes_max {
                let Some(oldest) = batches.queue.pop_front() else { break };
                let bytes = oldest.stored_bytes();
                batches.bytes -= bytes;
                self.refund(bytes);
            }
        }
        if let Some(budget) = &self.budget {
            budget.keep_within(self);
        }
    }

    /// The batches from the one that holds `from` on, below `high_watermark` and within `max_bytes` but for the first;
    /// `None` if that one is not here.
    pub(crate) fn read(&self, from: Offset, high_watermark: Offset, max_bytes: u64) -> Option<Vec<Batch>> {
        let batches = self.batches.lock();
        let first = batches.queue.partition_point(|batch| batch.header.next_offset() <= from);
        if batches.queue.get(first)?.header.base_offset > from {
            return None;
        }
        let mut out = Vec::new();
        let mut bytes = 0;
        for batch in batches.queue.range(first..) {
            bytes += batch.stored_bytes();
            if batch.header.next_offset() > high_watermark || (bytes > max_bytes && !out.is_empty()) {
                break;
            }
            out.push(batch.clone());
        }
        (!out.is_empty()).then_some(out)
    }

    /// Forgets the batches that begin below `end`: they are not on disk any more as they are here.
    pub(crate) fn forget_below(&self, end: Offset) {
        let mut batches = self.batches.lock();
        let stale = batches.queue.partition_point(|batch| batch.header.base_offset < end);
        let bytes: u64 = batches.queue.drain(..stale).map(|batch| batch.stored_bytes()).sum();
        batches.bytes -= bytes;
        self.refund(bytes);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let mut batches = self.batches.lock();
        self.refund(batches.bytes);
        *batches = Batches::default();
    }

    fn charge(&self, bytes: u64) {
        if let Some(budget) = &self.budget {
            budget.used.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn refund(&self, bytes: u64) {
        if let Some(budget) = &self.budget {
            budget.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for TailCache {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BatchHeader;

    /// 72 bytes of header and 28 of payload.
    fn batch(base_offset: Offset) -> Batch {
        let header = BatchHeader { base_offset, record_count: 2, ..BatchHeader::default() };
        Batch { header, payload: vec![0; 28].into() }
    }

    fn bases(read: Option<Vec<Batch>>) -> Option<Vec<Offset>> {
        read.map(|batches| batches.iter().map(|batch| batch.header.base_offset).collect())
    }

    #[test]
    fn the_oldest_batches_leave_first_and_a_batch_is_found_by_any_of_its_offsets() {
        let cache = TailCache::new(None);
        cache.push((0..5).map(|i| batch(2 * i)), 300);
        assert_eq!(bases(cache.read(3, 10, 1_000)), None);
        assert_eq!(bases(cache.read(5, 10, 1_000)), Some(vec![4, 6, 8]));
        assert_eq!(bases(cache.read(5, 10, 1)), Some(vec![4]), "at least one");
        assert_eq!(bases(cache.read(5, 8, 1_000)), Some(vec![4, 6]), "none at the high watermark");
    }

    #[test]
    fn caches_that_share_a_budget_keep_it_together() {
        let budget = CacheBudget::new(500);
        let caches = [TailCache::new(Some(budget.clone())), TailCache::new(Some(budget.clone()))];
        caches[0].push((0..4).map(|i| batch(2 * i)), 1_000);
        caches[1].push((0..4).map(|i| batch(2 * i)), 1_000);
        assert_eq!(budget.used_bytes(), 400, "the first made room for the second");
        assert!(caches[0].read(0, 8, 1).is_none());
        assert!(caches[1].read(0, 8, 1).is_some());
        drop(caches);
        assert_eq!(budget.used_bytes(), 0);
    }
}
