//! Finds the keys of records where they matter. Small batches are walked through at once; compressed ones are unpacked away
//! from the runtime's threads, one read at a time for each group and topic.

use std::sync::Arc;

use aqueduct_client::{DecodeError, murmur2};
use aqueduct_storage::{Batch, Codec};

use crate::{
    groups::window::ChainId,
    services::unpack,
    to_the_end::joined,
    turns::{ConnectionId, FairSemaphore},
};

/// A batch, and where its records belong. Without keys, every record is by itself.
pub(super) struct KeyedBatch {
    pub(super) batch: Batch,
    pub(super) keys: Vec<ChainId>,
}

impl From<Batch> for KeyedBatch {
    fn from(batch: Batch) -> Self {
        Self { batch, keys: Vec::new() }
    }
}

/// Whether finding the keys of `batches` takes no longer than a walk through their bytes.
pub(super) fn is_quick(batches: &[Batch]) -> bool {
    batches.iter().all(|batch| batch.header.codec == Codec::None)
}

pub(super) fn with_keys(batches: Vec<Batch>) -> Vec<KeyedBatch> {
    batches.into_iter().map(|batch| KeyedBatch { keys: keys_of(&batch), batch }).collect()
}

/// Unpacks away from the runtime's threads, when it is its turn among all who unpack: a decoder takes memory.
#[derive(Clone)]
pub(in crate::groups) struct Unpacker {
    turns: Arc<FairSemaphore>,
    /// In line for a turn it stands by itself, for a group on a topic.
    reader: ConnectionId,
}

impl Unpacker {
    pub(in crate::groups) fn new(turns: Arc<FairSemaphore>) -> Self {
        Self { turns, reader: ConnectionId::next() }
    }

    /// As [`with_keys`].
    pub(super) async fn with_keys(&self, batches: Vec<Batch>) -> Vec<KeyedBatch> {
        let turn = self.turns.acquire(self.reader, 1).await;
        let unpacked = tokio::task::spawn_blocking(move || {
            // Kept until it is done, even if nobody waits for it any more.
            let _turn = turn;
            with_keys(batches)
        });
        joined(unpacked).await
    }
}

/// In the order of the records. One that cannot be read has no key.
fn keys_of(batch: &Batch) -> Vec<ChainId> {
    let nowhere: Arc<str> = Arc::default();
    let Ok(unpacked) = unpack(&nowhere, 0, batch.clone()) else { return Vec::new() };
    let mut keys = Vec::with_capacity(batch.header.record_count as usize);
    for record in unpacked.records() {
        keys.push(match record {
            Ok(record) => record.key.map_or(ChainId::Record(record.offset), |key| ChainId::Key(murmur2(key))),
            Err(DecodeError::Malformed { offset, .. }) => ChainId::Record(offset),
            Err(_) => break,
        });
    }
    keys
}

#[cfg(test)]
mod tests {
    use aqueduct_client::Record;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::services::pack;

    #[test]
    fn equal_keys_belong_together_and_records_without_a_key_are_by_themselves() {
        let records =
            [Record::new("1").key("a"), Record::new("2"), Record::new("3").key("b"), Record::new("4").key("a")];
        let mut batch = pack(&records).expect("it packs");
        batch.header.base_offset = 10;
        let keys = keys_of(&batch);
        assert_eq!(
            keys,
            [
                ChainId::Key(murmur2(b"a")),
                ChainId::Record(11),
                ChainId::Key(murmur2(b"b")),
                ChainId::Key(murmur2(b"a"))
            ]
        );
    }

    #[tokio::test]
    async fn compressed_batches_are_unpacked_in_turn_with_everybody_else() {
        let turns = Arc::new(FairSemaphore::new(1));
        let taken = turns.try_acquire(1).expect("free");
        let unpacker = Unpacker::new(Arc::clone(&turns));
        let batch = pack(&[Record::new("1").key("a")]).expect("it packs");
        let mut unpacking = Box::pin(unpacker.with_keys(vec![batch]));
        assert!((&mut unpacking).now_or_never().is_none(), "somebody else unpacks");
        let mut another = Box::pin(turns.acquire(ConnectionId::next(), 1));
        assert!((&mut another).now_or_never().is_none());
        drop(taken);
        assert!((&mut another).now_or_never().is_none(), "first come, first served");
        assert_eq!(unpacking.await[0].keys, [ChainId::Key(murmur2(b"a"))]);
        assert!(another.await.is_some(), "the turn is over");
    }
}
