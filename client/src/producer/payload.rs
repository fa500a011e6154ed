//! A sealed batch's bytes: packed and checksummed once, outside the producer's lock, however often it is sent.

use std::sync::OnceLock;

use aqueduct_proto::v1;
use bytes::Bytes;

use crate::{
    codec::{Compressed, compress},
    types::Codec,
};

#[derive(Debug)]
pub(super) struct Payload {
    record_set: Bytes,
    pub(super) records: u32,
    max_timestamp_us: i64,
    packed: OnceLock<Compressed>,
}

impl Payload {
    pub(super) fn new(record_set: Vec<u8>, records: u32, max_timestamp_us: i64) -> Self {
        Self { record_set: record_set.into(), records, max_timestamp_us, packed: OnceLock::new() }
    }

    /// What it takes from the byte budget.
    pub(super) fn bytes(&self) -> usize {
        self.record_set.len()
    }

    /// Unpacked.
    pub(super) fn record_set(&self) -> Bytes {
        self.record_set.clone()
    }

    /// As it travels. The first call packs.
    pub(super) fn batch(&self, codec: Codec) -> v1::Batch {
        let packed = self.packed.get_or_init(|| compress(self.record_set.clone(), codec));
        packed.clone().into_batch(self.records, self.max_timestamp_us)
    }
}
