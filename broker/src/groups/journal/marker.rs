//! A few bytes beside the journal that tell how far it had got, so that a lost log is never taken for a new one.

use aqueduct_storage::{Offset, payload_crc};
use bytes::Bytes;
use prost::Message;

use super::unavailable;
use crate::{engine::MetaStore, groups::error::JournalError};

/// The engine's name for it.
const STATE_NAME: &str = "groups";
const CRC_BYTES: usize = 4;

/// See the [module](self).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marker {
    /// Where the last whole snapshot begins; 0, the beginning, without one.
    pub(super) snapshot_begin: Offset,
    /// Stored bytes of that snapshot.
    pub(super) snapshot_bytes: u64,
    /// The log was at least this long.
    pub(super) reached: Offset,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredMarker {
    #[prost(uint64, tag = "1")]
    snapshot_begin: u64,
    #[prost(uint64, tag = "2")]
    snapshot_bytes: u64,
    #[prost(uint64, tag = "3")]
    reached: u64,
}

impl Marker {
    /// Reads it; a journal that never was has the default.
    pub(super) async fn load(meta: &dyn MetaStore) -> Result<Self, JournalError> {
        let Some(bytes) = meta.load(STATE_NAME).await.map_err(unavailable)? else { return Ok(Self::default()) };
        Self::decode(&bytes).ok_or_else(|| JournalError::Damaged("its marker is not readable".to_owned()))
    }

    /// Saves it, durably.
    pub(super) async fn save(self, meta: &dyn MetaStore) -> Result<(), JournalError> {
        meta.save(STATE_NAME, self.encode()).await.map_err(unavailable)
    }

    /// Whether it can be read.
    pub(super) fn is_intact(bytes: &[u8]) -> bool {
        Self::decode(bytes).is_some()
    }

    fn encode(self) -> Bytes {
        let Self { snapshot_begin, snapshot_bytes, reached } = self;
        let body = StoredMarker { snapshot_begin, snapshot_bytes, reached }.encode_to_vec();
        [&payload_crc(&body).to_le_bytes(), body.as_slice()].concat().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (crc, body) = bytes.split_first_chunk::<CRC_BYTES>()?;
        if u32::from_le_bytes(*crc) != payload_crc(body) {
            return None;
        }
        let StoredMarker { snapshot_begin, snapshot_bytes, reached } = StoredMarker::decode(body).ok()?;
        Some(Self { snapshot_begin, snapshot_bytes, reached })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_saved_or_not_at_all() {
        let marker = Marker { snapshot_begin: 7, snapshot_bytes: 8, reached: 1 << 40 };
        let bytes = marker.encode();
        assert_eq!(Marker::decode(&bytes), Some(marker));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Marker::decode(&damaged), None, "bit {bit}");
        }
    }
}
