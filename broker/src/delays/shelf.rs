//! The tiers' logs. One that was never needed does not exist.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use aqueduct_storage::{Batch, payload_crc};
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Mutex;

use super::{
    error::DelaysError,
    own_log::OwnLog,
    tiers::{TIERS, log_name},
};
use crate::{
    clock::Clock,
    engine::{EngineError, MetaStore},
    error::PublishError,
};

/// The engine's name for the list of tiers that exist.
const LIST_NAME: &str = "delays";

/// One tier.
pub(super) struct Tier {
    pub(super) log: OwnLog,
    last_append_us: AtomicI64,
}

impl Tier {
    async fn open(meta: &dyn MetaStore, number: u8, clock: &Clock) -> Result<Arc<Self>, EngineError> {
        let log = OwnLog::open(meta, log_name(number), producer(number), clock).await?;
        let last_append_us = AtomicI64::new(log.last_append_us().await.unwrap_or(i64::MIN));
        Ok(Arc::new(Self { log, last_append_us }))
    }

    /// Appends a batch by `latest_us`, or not at all; returns once it is durable.
    pub(super) async fn append_by(&self, batch: Batch, latest_us: i64) -> Result<(), PublishError> {
        let appended = self.log.append_by(batch, latest_us).await?;
        self.last_append_us.fetch_max(appended.append_time_us, Ordering::AcqRel);
        Ok(())
    }
}

/// The producer under which the store moves records into a tier.
pub(super) fn producer(tier: u8) -> [u8; 16] {
    let mut id = *b"aqueduct~tier~00";
    id[15] = tier;
    id
}

/// All tiers there are. The list of them is durable before one is made.
pub(super) struct Shelf {
    meta: Arc<dyn MetaStore>,
    clock: Clock,
    tiers: RwLock<BTreeMap<u8, Arc<Tier>>>,
    making: Mutex<()>,
}

impl Shelf {
    /// Whether there ever was anything to store.
    pub(super) async fn is_in_use(meta: &dyn MetaStore) -> Result<bool, EngineError> {
        Ok(meta.load(LIST_NAME).await?.is_some())
    }

    /// Opens every tier there is.
    pub(super) async fn open(meta: Arc<dyn MetaStore>, clock: Clock) -> Result<Self, DelaysError> {
        let listed = match meta.load(LIST_NAME).await? {
            Some(bytes) => {
                decode(&bytes).ok_or_else(|| DelaysError::Damaged(format!("{LIST_NAME}.state is not readable")))?
            }
            None => {
                meta.save(LIST_NAME, encode(0)).await?;
                0
            }
        };
        let mut tiers = BTreeMap::new();
        for number in (0..TIERS).filter(|number| listed & (1 << number) != 0) {
            tiers.insert(number, Tier::open(&*meta, number, &clock).await?);
        }
        Ok(Self { meta, clock, tiers: RwLock::new(tiers), making: Mutex::default() })
    }

    /// A tier, if there is one of that number.
    pub(super) fn get(&self, number: u8) -> Option<Arc<Tier>> {
        self.tiers.read().get(&number).cloned()
    }

    /// A tier, made now if there is none.
    pub(super) async fn get_or_make(&self, number: u8) -> Result<Arc<Tier>, EngineError> {
        if let Some(tier) = self.get(number) {
            return Ok(tier);
        }
        let _making = self.making.lock().await;
        if let Some(tier) = self.get(number) {
            return Ok(tier);
        }
        let listed = self.tiers.read().keys().fold(1 << number, |listed: u32, number| listed | 1 << number);
        self.meta.save(LIST_NAME, encode(listed)).await?;
        let tier = Tier::open(&*self.meta, number, &self.clock).await?;
        self.tiers.write().insert(number, Arc::clone(&tier));
        Ok(tier)
    }

    /// When something was last put into a tier.
    pub(super) fn last_append_us(&self, number: u8) -> i64 {
        self.tiers.read().get(&number).map_or(i64::MIN, |tier| tier.last_append_us.load(Ordering::Acquire))
    }

    /// In order of their numbers.
    pub(super) fn list(&self) -> Vec<(u8, Arc<Tier>)> {
        self.tiers.read().iter().map(|(number, tier)| (*number, Arc::clone(tier))).collect()
    }

    /// Records that were ever put into tiers.
    pub(super) fn records(&self) -> u64 {
        self.tiers.read().values().map(|tier| tier.log.window().high_watermark).sum()
    }
}

/// Whether the list is what was saved.
pub(crate) fn is_intact_list(bytes: &[u8]) -> bool {
    decode(bytes).is_some()
}

/// One bit for each tier, and a checksum.
fn encode(listed: u32) -> Bytes {
    let bits = listed.to_le_bytes();
    [payload_crc(&bits).to_le_bytes(), bits].concat().into()
}

fn decode(bytes: &[u8]) -> Option<u32> {
    let (crc, bits) = bytes.split_first_chunk::<4>()?;
    let bits = <[u8; 4]>::try_from(bits).ok()?;
    (payload_crc(&bits) == u32::from_le_bytes(*crc)).then(|| u32::from_le_bytes(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_saved_or_not_at_all() {
        let bytes = encode(0b1001);
        assert_eq!(decode(&bytes), Some(0b1001));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged), None, "bit {bit}");
        }
    }
}
