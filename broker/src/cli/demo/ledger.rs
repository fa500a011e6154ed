//! What the receipts promise, and the audit of what is really there.
//!
//! The ledger holds a fingerprint for every acknowledged offset. The audit walks a partition in order and compares: it
//! accepts nothing that was not promised, and misses nothing that was.

use std::hash::{DefaultHasher, Hasher as _};

use aqueduct_client::Receipt;

/// Receipts by partition and offset.
#[derive(Debug)]
pub(super) struct Ledger {
    partitions: Vec<Vec<Option<u64>>>,
    receipts: u64,
    contradictions: u64,
}

impl Ledger {
    pub(super) fn new(partitions: usize) -> Self {
        Self { partitions: vec![Vec::new(); partitions], receipts: 0, contradictions: 0 }
    }

    /// Two receipts for one offset are a contradiction, and a failure of the demo.
    pub(super) fn enter(&mut self, receipt: &Receipt, fingerprint: u64) {
        self.receipts += 1;
        let offset = usize::try_from(receipt.offset).ok();
        let partition = usize::try_from(receipt.partition).ok().and_then(|p| self.partitions.get_mut(p));
        let (Some(offset), Some(partition)) = (offset, partition) else {
            self.contradictions += 1;
            return;
        };
        if partition.len() <= offset {
            partition.resize(offset + 1, None);
        }
        match &mut partition[offset] {
            entry @ None => *entry = Some(fingerprint),
            Some(_) => self.contradictions += 1,
        }
    }

    pub(super) fn receipts(&self) -> u64 {
        self.receipts
    }

    pub(super) fn contradictions(&self) -> u64 {
        self.contradictions
    }

    /// Offsets below the last receipt's that no receipt names.
    pub(super) fn holes(&self) -> u64 {
        self.partitions.iter().flatten().filter(|entry| entry.is_none()).count() as u64
    }

    /// The end of every partition.
    pub(super) fn ends(&self) -> Vec<u64> {
        self.partitions.iter().map(|partition| partition.len() as u64).collect()
    }

    /// What a replay from `starts` must give.
    pub(super) fn digests(&self, starts: &[u64]) -> Vec<Digest> {
        self.partitions
            .iter()
            .zip(starts)
            .map(|(partition, start)| {
                let mut digest = Digest::default();
                let start = usize::try_from(*start).unwrap_or(usize::MAX);
                partition.iter().skip(start).flatten().for_each(|fingerprint| digest.add(*fingerprint));
                digest
            })
            .collect()
    }

    /// Receipts whose record a group was given, with the same bytes.
    pub(super) fn seen_by(&self, seen: &Seen) -> u64 {
        let pairs = self.partitions.iter().zip(&seen.partitions);
        pairs
            .map(|(promised, seen)| promised.iter().zip(seen).filter(|(p, s)| p.is_some() && p == s).count() as u64)
            .sum()
    }

    fn entry(&self, partition: u32, offset: u64) -> Option<u64> {
        let partition = self.partitions.get(usize::try_from(partition).ok()?)?;
        *partition.get(usize::try_from(offset).ok()?)?
    }
}

/// What a group was given, by partition and offset.
#[derive(Debug)]
pub(super) struct Seen {
    partitions: Vec<Vec<Option<u64>>>,
    /// Given again after the broker had died: at least once is what is promised.
    pub(super) redelivered: u64,
}

impl Seen {
    pub(super) fn new(partitions: usize) -> Self {
        Self { partitions: vec![Vec::new(); partitions], redelivered: 0 }
    }

    pub(super) fn add(&mut self, partition: u32, offset: u64, fingerprint: u64) {
        let partition = usize::try_from(partition).ok().and_then(|p| self.partitions.get_mut(p));
        let (Some(partition), Ok(offset)) = (partition, usize::try_from(offset)) else { return };
        if partition.len() <= offset {
            partition.resize(offset + 1, None);
        }
        self.redelivered += u64::from(partition[offset].is_some());
        partition[offset] = Some(fingerprint);
    }
}

/// Fingerprints in order, in one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest {
    /// Of everything added, in order.
    pub(super) value: u64,
    /// How many were added.
    pub(super) records: u64,
}

impl Digest {
    pub(super) fn add(&mut self, fingerprint: u64) {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.value);
        hasher.write_u64(fingerprint);
        self.value = hasher.finish();
        self.records += 1;
    }
}

/// Offsets of one partition, the end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// A reading of the whole topic, compared with the ledger.
#[derive(Debug)]
pub(super) struct Audit<'a> {
    ledger: &'a Ledger,
    next: Vec<u64>,
    /// Receipts whose record is there with the same bytes.
    pub(super) honoured: u64,
    /// Acknowledged offsets that were not read.
    pub(super) missing: Vec<Range>,
    /// Read, but with other bytes than were acknowledged.
    pub(super) different: Vec<Range>,
    /// Read, but never acknowledged: stored twice, or made up.
    pub(super) unexpected: u64,
}

impl<'a> Audit<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        let next = vec![0; ledger.partitions.len()];
        Self { ledger, next, honoured: 0, missing: Vec::new(), different: Vec::new(), unexpected: 0 }
    }

    /// Takes the next record of its partition.
    pub(super) fn take(&mut self, partition: u32, offset: u64, fingerprint: u64) {
        let Some(next) = usize::try_from(partition).ok().and_then(|p| self.next.get_mut(p)) else {
            self.unexpected += 1;
            return;
        };
        if offset < *next {
            self.unexpected += 1;
            return;
        }
        if offset > *next {
            self.missing.push(Range { partition, from: *next, to: offset });
        }
        *next = offset + 1;
        match self.ledger.entry(partition, offset) {
            Some(promised) if promised == fingerprint => self.honoured += 1,
            Some(_) => self.different.push(Range { partition, from: offset, to: offset + 1 }),
            None => self.unexpected += 1,
        }
    }

    /// Nothing more comes: what was promised beyond the last record is missing.
    pub(super) fn finish(&mut self) {
        for ((partition, next), end) in (0u32..).zip(&self.next).zip(self.ledger.ends()) {
            if *next < end {
                self.missing.push(Range { partition, from: *next, to: end });
            }
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.honoured == self.ledger.receipts
            && self.missing.is_empty()
            && self.different.is_empty()
            && self.unexpected == 0
    }

    pub(super) fn missing_records(&self) -> u64 {
        self.missing.iter().map(|range| range.to - range.from).sum()
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_client::{Durability, Timestamp, TopicId};

    use super::*;

    fn receipt(partition: u32, offset: u64) -> Receipt {
        Receipt {
            topic: "flights".into(),
            topic_id: TopicId([0; 16]),
            partition,
            offset,
            append_time: Timestamp::from_micros(0),
            durability: Durability::Fsync,
            duplicate: false,
            epoch: 1,
        }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(2);
        for offset in [1, 0, 2] {
            ledger.enter(&receipt(0, offset), 100 + offset);
        }
        ledger.enter(&receipt(1, 0), 200);
        ledger
    }

    fn audited(records: &[(u32, u64, u64)]) -> (u64, Vec<Range>, Vec<Range>, u64, bool) {
        let ledger = ledger();
        let mut audit = Audit::new(&ledger);
        for (partition, offset, fingerprint) in records {
            audit.take(*partition, *offset, *fingerprint);
        }
        audit.finish();
        let clean = audit.is_clean();
        (audit.honoured, audit.missing, audit.different, audit.unexpected, clean)
    }

    #[test]
    fn what_was_promised_and_nothing_else_is_clean() {
        let all = audited(&[(0, 0, 100), (1, 0, 200), (0, 1, 101), (0, 2, 102)]);
        assert_eq!(all, (4, vec![], vec![], 0, true));
    }

    #[test]
    fn every_deviation_is_found() {
        let lost = audited(&[(0, 0, 100), (0, 2, 102), (1, 0, 200)]);
        assert_eq!(lost, (3, vec![Range { partition: 0, from: 1, to: 2 }], vec![], 0, false));
        let tail_lost = audited(&[(0, 0, 100), (0, 1, 101), (0, 2, 102)]);
        assert_eq!(tail_lost.1, [Range { partition: 1, from: 0, to: 1 }]);
        let changed = audited(&[(0, 0, 100), (0, 1, 7), (0, 2, 102), (1, 0, 200)]);
        assert_eq!(changed.2, [Range { partition: 0, from: 1, to: 2 }]);
        assert!(!changed.4);
        let stored_twice = audited(&[(0, 0, 100), (0, 1, 101), (0, 2, 102), (0, 3, 102), (1, 0, 200)]);
        assert_eq!((stored_twice.3, stored_twice.4), (1, false));
    }

    #[test]
    fn receipts_that_contradict_each_other_are_counted() {
        let mut ledger = ledger();
        ledger.enter(&receipt(0, 1), 101);
        ledger.enter(&receipt(9, 0), 0);
        assert_eq!((ledger.receipts(), ledger.contradictions(), ledger.holes()), (6, 2, 0));
        ledger.enter(&receipt(1, 2), 202);
        assert_eq!(ledger.holes(), 1);
    }

    #[test]
    fn a_group_has_seen_what_it_was_given_with_the_same_bytes() {
        let mut seen = Seen::new(2);
        for (partition, offset, fingerprint) in [(0, 0, 100), (0, 2, 7), (1, 0, 200), (1, 0, 200), (1, 5, 9)] {
            seen.add(partition, offset, fingerprint);
        }
        assert_eq!((ledger().seen_by(&seen), seen.redelivered), (2, 1));
    }

    #[test]
    fn digests_depend_on_the_order() {
        let (mut one, mut other) = (Digest::default(), Digest::default());
        one.add(1);
        one.add(2);
        other.add(2);
        other.add(1);
        assert_ne!(one, other);
        assert_eq!(ledger().digests(&[1, 0])[0].records, 2);
    }
}
