//! Copies of records that leave, made while their batch is still at hand: what fails soon after it was delivered need not be
//! read again. As many as memory allows; whatever has no copy is read from its log when it is moved.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use aqueduct_client::{Event, Events, Header, Record};
use aqueduct_storage::{Batch, Offset};
use bytes::Bytes;

use crate::{
    budget::charge,
    fair_pool::{AtLeast, Grant, Pool, Share},
    groups::{member::keys::is_quick, window::Exit},
    services::unpack,
};

/// For all groups of a broker: at most half of it for one group on one topic.
const BYTES_MAX: u64 = 16 << 20;
/// Batches that are kept; a look goes through all of them.
const BATCHES_MAX: usize = 256;
/// About what a copy takes beside its own bytes.
const COPY_BYTES: u64 = 256;
/// The same of each header.
const HEADER_BYTES: u64 = 64;

/// What all groups of a broker may take for copies.
pub(in crate::groups) fn pool() -> Arc<Pool> {
    Pool::new(BYTES_MAX)
}

/// See the [module](self).
pub(super) struct Copies {
    share: Arc<Share>,
    /// Delivered lately, and not settled as far as is known; oldest first.
    lately: VecDeque<Lately>,
    made: BTreeMap<(u32, Offset), Copied>,
}

struct Lately {
    partition: u32,
    batch: Batch,
    /// Where a walk through its records has got to, once one has begun: what fails of it becomes known bit by bit.
    walk: Option<Walk>,
    _grant: Arc<Grant>,
}

/// Batches that were read together, and lie in one buffer: each of them keeps all of it in memory.
pub(super) struct Reading {
    partition: u32,
    bytes: u64,
    /// Once one of them is kept.
    grant: Option<Arc<Grant>>,
}

/// A walk through the records of a batch.
struct Walk {
    events: Events,
    /// Everything below has been passed.
    next: Offset,
}

/// One record.
pub(in crate::groups) struct Copied {
    /// Without the name of its topic.
    pub(in crate::groups) event: Event,
    grant: Grant,
}

impl Copied {
    /// About what it takes.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.grant.bytes()).unwrap_or(usize::MAX)
    }
}

impl Copies {
    pub(super) fn new(share: Arc<Share>) -> Self {
        Self { share, lately: VecDeque::new(), made: BTreeMap::new() }
    }

    /// These were read together.
    pub(super) fn reading<'a>(&self, partition: u32, batches: impl Iterator<Item = &'a Batch>) -> Reading {
        Reading { partition, bytes: batches.map(charge).sum(), grant: None }
    }

    /// The batch was delivered, or a part of it.
    pub(super) fn keep(&mut self, reading: &mut Reading, batch: &Batch) {
        let (partition, base_offset) = (reading.partition, batch.header.base_offset);
        if !is_quick(batch) || self.kept(partition, base_offset).is_some() {
            return;
        }
        if self.lately.len() == BATCHES_MAX {
            self.lately.pop_front();
        }
        reading.grant = reading.grant.take().or_else(|| self.room_for(reading.bytes).map(Arc::new));
        if let Some(grant) = &reading.grant {
            self.lately.push_back(Lately { partition, batch: batch.clone(), walk: None, _grant: Arc::clone(grant) });
        }
    }

    /// The oldest batches are let go, as far as everything below the committed offset of their partition is settled.
    pub(super) fn forget_settled(&mut self, committed: impl Fn(u32) -> Option<Offset>) {
        let is_settled = |kept: &Lately| {
            committed(kept.partition).is_none_or(|committed| kept.batch.header.next_offset() <= committed)
        };
        while self.lately.front().is_some_and(is_settled) {
            self.lately.pop_front();
        }
    }

    /// Nothing of `lost` leaves any more, nor of what lies before it.
    pub(super) fn forget(&mut self, partition: u32, lost: Range<Offset>) {
        self.lately.retain(|kept| kept.partition != partition || kept.batch.header.next_offset() > lost.end);
        self.drop_made(partition, lost);
    }

    /// These need no copies any more.
    pub(super) fn drop_made(&mut self, partition: u32, range: Range<Offset>) {
        self.extract(partition, range).for_each(drop);
    }

    /// These records are to leave: copies those of which a batch is kept.
    pub(super) fn make(&mut self, partition: u32, leaving: &[Range<Offset>]) {
        let holds_some = |kept: &&Lately| kept.partition == partition && within(&kept.batch, leaving).next().is_some();
        let found: Vec<Batch> = self.lately.iter().filter(holds_some).map(|kept| kept.batch.clone()).collect();
        for batch in found {
            let base_offset = batch.header.base_offset;
            let mut walk = self.kept(partition, base_offset).and_then(|kept| kept.walk.take());
            for range in within(&batch, leaving) {
                walk = walk.filter(|walk| walk.next <= range.start).or_else(|| Walk::through(partition, &batch));
                let Some(walk) = &mut walk else { break };
                walk.events_at(range).for_each(|event| self.copy(event));
            }
            // It may have given way to the copies.
            if let Some(kept) = self.kept(partition, base_offset) {
                kept.walk = walk;
            }
        }
    }

    /// As [`make`](Self::make), out of this batch.
    pub(super) fn make_from(&mut self, partition: u32, batch: &Batch, leaving: &[Range<Offset>]) {
        let is_made = |made: &BTreeMap<_, _>, range: &Range<Offset>| {
            made.contains_key(&(partition, range.start)) && made.contains_key(&(partition, range.end - 1))
        };
        let mut walk = None;
        for range in within(batch, leaving) {
            if is_made(&self.made, &range) {
                continue;
            }
            walk = walk.or_else(|| Walk::through(partition, batch));
            let Some(walk) = &mut walk else { break };
            walk.events_at(range).for_each(|event| self.copy(event));
        }
    }

    fn copy(&mut self, event: Event) {
        let headers = HEADER_BYTES * event.record.headers.len() as u64;
        if let Some(grant) = self.room_for(COPY_BYTES + headers + event.record.encoded_len() as u64) {
            self.made.insert((event.partition, event.offset), Copied { event: detached(event), grant });
        }
    }

    /// Gives the copies of what is about to be moved, in order of offsets. If they are about `bytes_max`, nothing else is to be
    /// moved with them.
    pub(super) fn take(&mut self, partition: u32, exits: &mut Vec<Exit>, bytes_max: usize) -> Vec<Copied> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for index in 0..exits.len() {
            if bytes >= bytes_max {
                exits.truncate(index);
                break;
            }
            let of_exit = self.extract(partition, exits[index].range.clone());
            taken.extend(of_exit.inspect(|copied| bytes += copied.bytes()));
        }
        taken
    }

    fn extract(&mut self, partition: u32, range: Range<Offset>) -> impl Iterator<Item = Copied> {
        std::iter::from_fn(move || {
            let next = *self.made.range((partition, range.start)..(partition, range.end)).next()?.0;
            self.made.remove(&next)
        })
    }

    fn kept(&mut self, partition: u32, base_offset: Offset) -> Option<&mut Lately> {
        let mut newest_first = self.lately.iter_mut().rev();
        newest_first.find(|kept| kept.partition == partition && kept.batch.header.base_offset == base_offset)
    }

    /// What is made a copy of now comes before what may have to be copied later.
    fn room_for(&mut self, bytes: u64) -> Option<Grant> {
        if bytes > BYTES_MAX / 2 {
            return None;
        }
        loop {
            let grant = self.share.try_take(bytes, bytes, AtLeast::Little);
            if grant.is_some() || self.lately.pop_front().is_none() {
                return grant;
            }
        }
    }
}

impl Walk {
    fn through(partition: u32, batch: &Batch) -> Option<Self> {
        let unpacked = is_quick(batch).then(|| unpack(&Arc::default(), partition, batch.clone()))?;
        let events = unpacked.ok()?.into_iter();
        Some(Self { events, next: batch.header.base_offset })
    }

    /// What there is at `range`, which lies ahead.
    fn events_at(&mut self, range: Range<Offset>) -> impl Iterator<Item = Event> {
        std::iter::from_fn(move || {
            let event = (self.next < range.end).then(|| self.events.next_from(self.next.max(range.start)))??.ok()?;
            self.next = event.offset + 1;
            (event.offset < range.end).then_some(event)
        })
    }
}

/// The parts of `ranges` that lie in the batch.
fn within(batch: &Batch, ranges: &[Range<Offset>]) -> impl Iterator<Item = Range<Offset>> {
    let (begin, end) = (batch.header.base_offset, batch.header.next_offset());
    let parts = ranges.iter().map(move |range| range.start.max(begin)..range.end.min(end));
    parts.filter(|part| !part.is_empty())
}

/// A copy: a view would keep all of its batch in memory, and there may be one record of each of many.
pub(in crate::groups) fn detached(event: Event) -> Event {
    let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
    let Record { key, value, headers, timestamp } = event.record;
    let headers = headers.into_iter().map(|Header { name, value }| Header { name, value: copy(value) }).collect();
    Event { record: Record { key: key.map(copy), value: value.map(copy), headers, timestamp }, ..event }
}

#[cfg(test)]
mod tests {
    use aqueduct_client::codec::encode_batch;
    use aqueduct_storage::{BatchHeader, Codec};

    use super::*;
    use crate::{
        groups::{
            retry::Failure,
            window::{Pause, Way},
        },
        services::pack,
    };

    const KIB: usize = 1024;

    fn copies() -> Copies {
        Copies::new(pool().share())
    }

    /// Records whose values are their offsets, or begin with them.
    fn batch(offsets: Range<Offset>, record_bytes: usize) -> Batch {
        let value = |offset: Offset| format!("{offset:record_bytes$}");
        let records: Vec<_> =
            offsets.clone().map(|offset| Record::new(value(offset)).key("k").header("h", "v")).collect();
        let mut batch = pack(&records).expect("it packs");
        batch.header.base_offset = offsets.start;
        batch
    }

    fn keep(copies: &mut Copies, partition: u32, batch: &Batch) {
        let mut reading = copies.reading(partition, std::iter::once(batch));
        copies.keep(&mut reading, batch);
    }

    /// Takes the copies of these, one exit each; returns their offsets, and how many exits are left.
    fn take(copies: &mut Copies, offsets: impl IntoIterator<Item = Offset>, bytes_max: usize) -> (Vec<Offset>, usize) {
        let way = Way::Retry(Pause::Backoff);
        let exit = |offset| Exit { range: offset..offset + 1, failure: Failure::none(), way };
        let mut exits: Vec<_> = offsets.into_iter().map(exit).collect();
        let taken = copies.take(0, &mut exits, bytes_max);
        for Copied { event, .. } in &taken {
            let value = event.record.value.as_deref().map(|value| String::from_utf8_lossy(value).trim().to_owned());
            assert_eq!(value, Some(event.offset.to_string()));
            assert_eq!((event.record.key.as_deref(), event.header("h")), (Some(&b"k"[..]), Some(&b"v"[..])));
        }
        (taken.into_iter().map(|copied| copied.event.offset).collect(), exits.len())
    }

    #[test]
    fn what_leaves_is_copied_from_what_was_delivered_lately_in_whatever_order_it_fails() {
        let mut copies = copies();
        [batch(0..10, 1), batch(10..20, 1)].iter().for_each(|batch| keep(&mut copies, 0, batch));
        keep(&mut copies, 1, &batch(0..20, 1));
        copies.make(0, &[3..4, 7..12]);
        copies.make(0, &[1..2, 30..40]);
        copies.make(0, &[15..16, 17..18]);
        assert_eq!(take(&mut copies, 0..20, usize::MAX).0, [1, 3, 7, 8, 9, 10, 11, 15, 17]);
        assert_eq!(take(&mut copies, 0..20, usize::MAX).0, [0; 0], "they are taken");
    }

    #[test]
    fn records_that_leave_without_having_been_delivered_are_copied_once() {
        let mut copies = copies();
        let batch = batch(0..10, 1);
        copies.make_from(0, &batch, &[2..3, 3..4]);
        let known: Vec<_> = copies.made.values().map(|copied| copied.event.record.value.clone()).collect();
        copies.make_from(0, &batch, &[2..4, 9..10]);
        let still = copies.made.values().map(|copied| copied.event.record.value.clone());
        assert!(still.zip(known).all(|(now, before)| now.map(|v| v.as_ptr()) == before.map(|v| v.as_ptr())));
        assert_eq!(take(&mut copies, 0..20, usize::MAX).0, [2, 3, 9]);
    }

    #[test]
    fn holes_and_compressed_batches_have_no_copies() {
        let mut copies = copies();
        let records: Vec<_> = (0..3).map(|value| Record::new(value.to_string()).key("k").header("h", "v")).collect();
        let header =
            BatchHeader { offset_deltas: vec![0, 4, 5], offset_span: 8, ..pack(&records).expect("it packs").header };
        keep(&mut copies, 0, &Batch { header, ..pack(&records).expect("it packs") });
        copies.make(0, &[1..5, 7..8]);
        let offsets: Vec<Offset> = copies.made.keys().map(|(_, offset)| *offset).collect();
        assert_eq!(offsets, [4]);

        let packed = encode_batch(&records, aqueduct_client::Codec::Lz4).expect("it packs");
        let header = BatchHeader { codec: Codec::Lz4, record_count: 3, base_offset: 50, ..BatchHeader::default() };
        let compressed = Batch { header, payload: packed.records };
        let leaving = [50..51, 52..53];
        keep(&mut copies, 0, &compressed);
        copies.make_from(0, &compressed, &leaving);
        copies.make(0, &leaving);
        assert_eq!(copies.made.len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_batches_give_way() {
        let mut copies = copies();
        for begin in 0..40 {
            keep(&mut copies, 0, &batch(10 * begin..10 * begin + 10, 60 * KIB));
        }
        copies.make(0, &[0..200, 200..400]);
        let (taken, _) = take(&mut copies, 0..400, usize::MAX);
        assert!(!taken.contains(&0) && taken.contains(&399), "{taken:?}");
        assert!(taken.len() * 60 * KIB <= usize::try_from(BYTES_MAX / 2).expect("it is small"), "{}", taken.len());
    }

    #[test]
    fn no_more_is_moved_than_there_is_room_for() {
        let mut copies = copies();
        keep(&mut copies, 0, &batch(0..10, 10 * KIB));
        copies.make(0, &[0..5, 5..10]);
        assert_eq!(take(&mut copies, 0..10, 25 * KIB), (vec![0, 1, 2], 3));
        assert_eq!(take(&mut copies, 2..10, usize::MAX), ((3..10).collect(), 8));
    }

    #[test]
    fn what_is_settled_or_lost_is_let_go() {
        let mut copies = copies();
        (0..4).for_each(|begin| keep(&mut copies, 0, &batch(10 * begin..10 * begin + 10, 1)));
        copies.forget_settled(|_| Some(15));
        copies.make(0, &[5..6, 16..17, 25..26, 35..36]);
        copies.forget(0, 0..30);
        copies.make(0, &[16..17, 17..18]);
        assert_eq!(take(&mut copies, 0..40, usize::MAX).0, [35]);
    }
}
