//! What a tier's log holds: records with their time and their destination, as protobuf messages of our own.

use aqueduct_storage::{Batch, Offset, ProducerSequence};
use bytes::Bytes;
use prost::Message;

use super::{Delayed, Destination};
use crate::services::{Encoded, joined_records, plain_batch};

/// A record that waits, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Rises from put to put, across restarts, and stays with the record.
    pub(super) put: u64,
    pub(super) due_us: i64,
    pub(super) to: Destination,
    pub(super) record: Encoded,
}

impl Entry {
    pub(super) fn new(put: u64, to: Destination, Delayed { due_us, record }: Delayed) -> Self {
        Self { put, due_us, to, record }
    }
}

/// A stored entry with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) offset: Offset,
    pub(super) entry: Entry,
}

/// A batch for a tier's log.
pub(super) fn tier_batch<'a>(
    entries: impl ExactSizeIterator<Item = &'a Entry>,
    producer: Option<ProducerSequence>,
) -> Batch {
    let record_count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let stored = StoredEntries { entries: entries.map(StoredEntry::from).collect() };
    let mut batch = plain_batch(stored.encode_to_vec().into(), record_count, 0);
    batch.header.producer = producer;
    batch
}

/// The batch that delivers `entries`.
pub(super) fn delivery<'a>(
    entries: impl ExactSizeIterator<Item = &'a Entry> + Clone,
    producer: ProducerSequence,
) -> Batch {
    let mut batch = joined_records(entries.map(|entry| &entry.record));
    batch.header.producer = Some(producer);
    batch
}

/// The entries of a tier's batch; `None` if it holds something else.
pub(super) fn decode(batch: &Batch) -> Option<Vec<Placed>> {
    let stored = StoredEntries::decode(batch.payload.clone()).ok()?.entries;
    if stored.len() != usize::try_from(batch.header.record_count).ok()? {
        return None;
    }
    let placed = |(offset, stored)| Some(Placed { offset, entry: Entry::try_from(stored).ok()? });
    (batch.header.base_offset..).zip(stored).map(placed).collect()
}

#[derive(Clone, PartialEq, Message)]
struct StoredEntries {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<StoredEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredEntry {
    #[prost(uint64, tag = "1")]
    put: u64,
    #[prost(int64, tag = "2")]
    due_us: i64,
    #[prost(bytes = "bytes", tag = "3")]
    topic: Bytes,
    #[prost(uint32, tag = "4")]
    partition: u32,
    #[prost(int64, optional, tag = "5")]
    timestamp_us: Option<i64>,
    #[prost(bytes = "bytes", tag = "6")]
    record: Bytes,
}

impl From<&Entry> for StoredEntry {
    fn from(entry: &Entry) -> Self {
        let Entry { put, due_us, to, record } = entry;
        Self {
            put: *put,
            due_us: *due_us,
            topic: Bytes::copy_from_slice(&to.topic),
            partition: to.partition,
            timestamp_us: record.timestamp_us,
            record: record.set.clone(),
        }
    }
}

/// A topic's identity has another length.
struct NoTopic;

impl TryFrom<StoredEntry> for Entry {
    type Error = NoTopic;

    fn try_from(stored: StoredEntry) -> Result<Self, NoTopic> {
        let StoredEntry { put, due_us, topic, partition, timestamp_us, record } = stored;
        let topic = <[u8; 16]>::try_from(&topic[..]).map_err(|_| NoTopic)?;
        let record = Encoded { timestamp_us, set: record };
        Ok(Self { put, due_us, to: Destination { topic, partition }, record })
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_client::{Record, Timestamp, codec::decode_record_set};

    use super::*;

    fn entry(put: u64) -> Entry {
        let record = Record::new(format!("value {put}")).key("k").header("h", "v");
        let record = record.timestamp(Timestamp::from_micros(put.cast_signed()));
        Entry::new(put, Destination { topic: [3; 16], partition: 9 }, Delayed::new(-5, &record))
    }

    #[test]
    fn entries_are_read_as_they_were_stored_and_delivered_as_they_were_put() {
        let entries = [entry(1), entry(2), entry(7)];
        let mut batch = tier_batch(entries.iter(), None);
        batch.header.base_offset = 40;
        let placed = decode(&batch).unwrap();
        assert_eq!(placed.iter().map(|placed| placed.offset).collect::<Vec<_>>(), [40, 41, 42]);
        assert!(placed.iter().map(|placed| &placed.entry).eq(&entries));

        let producer = ProducerSequence { id: [1; 16], epoch: 2, sequence: 3 };
        let delivered = delivery(placed.iter().map(|placed| &placed.entry), producer);
        assert_eq!((delivered.header.record_count, delivered.header.max_timestamp_us), (3, 7));
        let records = decode_record_set(&delivered.payload).unwrap();
        let values: Vec<_> = records.iter().map(|record| record.value.as_deref().unwrap()).collect();
        assert_eq!(values, [&b"value 1"[..], b"value 2", b"value 7"]);
        assert!(records.iter().all(|record| record.headers.len() == 1));
    }

    #[test]
    fn a_batch_that_holds_something_else_is_none_of_ours() {
        let mut batch = tier_batch([entry(1)].iter(), None);
        batch.header.record_count = 2;
        assert_eq!(decode(&batch), None);
        batch.payload = Bytes::from_static(b"\xff\xff");
        assert_eq!(decode(&batch), None);
    }
}
