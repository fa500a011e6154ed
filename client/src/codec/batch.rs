//! A batch on its way out: checked, unpacked, and viewed record by record.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use aqueduct_proto::v1;
use bytes::Bytes;

use super::{
    DecodeError,
    compress::decompress,
    decode::{Layout, Records},
};
use crate::{
    record::Event,
    types::{Offset, Timestamp},
};

/// Attribute bits that a reader must know before it may read the batch: none exists yet.
const ATTRIBUTES_REQUIRED: u32 = 0xffff;

/// Events that were stored together. Cheap to clone; all views share one buffer.
#[derive(Clone, Debug)]
pub struct EventBatch {
    topic: Arc<str>,
    partition: u32,
    /// Unpacked.
    record_set: Bytes,
    base_offset: Offset,
    record_count: u32,
    offset_deltas: Arc<[u32]>,
    append_time: Timestamp,
    epoch: u32,
    from: Offset,
    until: Offset,
}

impl EventBatch {
    pub(crate) fn new(topic: &Arc<str>, partition: u32, batch: v1::Batch) -> Result<Self, DecodeError> {
        let computed = crc32fast::hash(&batch.records);
        if computed != batch.crc32 {
            let (from, to) = (batch.base_offset, next_offset(&batch));
            return Err(DecodeError::Checksum { from, to, expected: batch.crc32, computed });
        }
        Self::checked(topic, partition, batch)
    }

    /// Of a batch whose checksum is known to be right.
    pub(crate) fn checked(topic: &Arc<str>, partition: u32, batch: v1::Batch) -> Result<Self, DecodeError> {
        let offset = batch.base_offset;
        let next_offset = next_offset(&batch);
        if batch.attributes & ATTRIBUTES_REQUIRED != 0 {
            let attributes = batch.attributes & ATTRIBUTES_REQUIRED;
            return Err(DecodeError::UnknownAttributes { offset, attributes });
        }
        let deltas = batch.offset_deltas.len();
        if deltas != 0 && deltas != batch.record_count as usize {
            return Err(DecodeError::CountMismatch { offset, expected: batch.record_count });
        }
        Ok(Self {
            topic: Arc::clone(topic),
            partition,
            record_set: decompress(batch.records, batch.codec, offset)?,
            base_offset: offset,
            record_count: batch.record_count,
            offset_deltas: batch.offset_deltas.into(),
            append_time: Timestamp::from_micros(batch.append_time_us),
            epoch: batch.epoch,
            from: offset,
            until: next_offset,
        })
    }

    /// Only offsets in `from..until` are to be seen.
    pub(crate) fn narrow(&mut self, from: Offset, until: Offset) {
        self.from = self.from.max(from);
        self.until = self.until.min(until);
    }

    /// The topic of all these events.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Their partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// When the broker stored them.
    pub fn append_time(&self) -> Timestamp {
        self.append_time
    }

    /// The log's epoch when they were stored.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Bytes of the unpacked batch.
    pub fn size_bytes(&self) -> usize {
        self.record_set.len()
    }

    /// How many events are to be seen. Constant time for dense batches, which all but compacted ones are.
    pub fn len(&self) -> usize {
        if self.offset_deltas.is_empty() {
            let end = self.base_offset.saturating_add(u64::from(self.record_count)).min(self.until);
            return usize::try_from(end.saturating_sub(self.from)).unwrap_or(usize::MAX);
        }
        let layout = self.layout();
        (0..self.record_count)
            .map(|index| layout.offset(index))
            .filter(|offset| (self.from..self.until).contains(offset))
            .count()
    }

    /// Nothing is to be seen: possible after compaction.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where these events begin (inclusive).
    pub fn first_offset(&self) -> Offset {
        self.from
    }

    /// Where reading goes on after them.
    pub fn next_offset(&self) -> Offset {
        self.until
    }

    /// Borrowed views: the fastest way to read.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.record_set, self.layout())
    }

    /// Owned views: each keeps the batch in memory.
    pub fn events(&self) -> Events {
        Events { batch: self.clone(), position: 0, index: 0, failed: false }
    }

    /// Owned views of the events at `offsets`, which do not overlap. What lies between them is passed over unread.
    pub fn events_at(&self, offsets: impl IntoIterator<Item = Range<Offset>>) -> EventsAt {
        let mut wanted: Vec<_> = offsets.into_iter().filter(|range| !range.is_empty()).collect();
        wanted.sort_unstable_by_key(|range| range.start);
        EventsAt { events: self.events(), wanted: wanted.into() }
    }

    fn layout(&self) -> Layout<'_> {
        Layout {
            base_offset: self.base_offset,
            record_count: self.record_count,
            offset_deltas: &self.offset_deltas,
            from: self.from,
            until: self.until,
        }
    }
}

/// First offset after `batch`, whatever it holds.
fn next_offset(batch: &v1::Batch) -> Offset {
    let span = if batch.offset_span == 0 { batch.record_count } else { batch.offset_span };
    batch.base_offset.saturating_add(u64::from(span))
}

impl IntoIterator for EventBatch {
    type Item = Result<Event, DecodeError>;
    type IntoIter = Events;

    fn into_iter(self) -> Events {
        Events { batch: self, position: 0, index: 0, failed: false }
    }
}

/// The events of an [`EventBatch`], one by one.
#[derive(Clone, Debug)]
pub struct Events {
    batch: EventBatch,
    /// In the record set: where the next record begins.
    position: usize,
    /// Of the next record in the batch.
    index: u32,
    failed: bool,
}

impl Events {
    /// The next one at `from` or above. What lies before is passed over unread.
    #[inline]
    pub fn next_from(&mut self, from: Offset) -> Option<Result<Event, DecodeError>> {
        if self.failed {
            return None;
        }
        let batch = &self.batch;
        let layout = Layout { from: batch.from.max(from), ..batch.layout() };
        let mut records = Records::resume(&batch.record_set, layout, self.position, self.index);
        let item = records.next()?;
        let place = records.place();
        (self.index, self.failed) = (place.index, place.failed);
        self.position = batch.record_set.len() - place.remaining;
        Some(item.map(|record| Event {
            topic: Arc::clone(&batch.topic),
            partition: batch.partition,
            offset: record.offset,
            append_time: batch.append_time,
            record: record.to_record(&batch.record_set),
        }))
    }
}

impl Iterator for Events {
    type Item = Result<Event, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.next_from(0)
    }
}

/// Some of the events of an [`EventBatch`], one by one.
#[derive(Clone, Debug)]
pub struct EventsAt {
    events: Events,
    /// Not seen yet, ascending; none is empty.
    wanted: VecDeque<Range<Offset>>,
}

impl EventsAt {
    /// Which offsets are still to come.
    pub fn rest(&self) -> impl Iterator<Item = Range<Offset>> {
        self.wanted.iter().cloned()
    }
}

impl Iterator for EventsAt {
    type Item = Result<Event, DecodeError>;

    /// An event that cannot be read is an error in its place, and stays among [the rest](EventsAt::rest) until one behind it
    /// has been read.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let from = self.wanted.front()?.start;
            let event = match self.events.next_from(from)? {
                Ok(event) => event,
                Err(error) => return Some(Err(error)),
            };
            // Compaction may have taken what was wanted.
            while self.wanted.front().is_some_and(|range| range.end <= event.offset) {
                self.wanted.pop_front();
            }
            let range = self.wanted.front_mut()?;
            if range.start <= event.offset {
                range.start = event.offset + 1;
                if range.is_empty() {
                    self.wanted.pop_front();
                }
                return Some(Ok(event));
            }
        }
    }
}
