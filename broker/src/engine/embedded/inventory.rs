//! What the broker knows of its data directory and the storage does not: whose logs they are, and its own small files.

use std::path::Path;

use aqueduct_storage::{Inventory, LogId, StoppedDir, StorageError, payload_crc};

use super::{BROKER_ID_FILE, PRODUCERS_FILE, log_id};
use crate::{delays, groups, partition::producers::Producers, producer_names};

/// See the [module](self).
pub(crate) struct BrokerInventory {
    /// `None` if it is lost; the logs of the broker's own then say themselves which they are.
    broker_id: Option<[u8; 16]>,
}

impl BrokerInventory {
    /// Of the broker whose directory is `dir`.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn of(dir: &StoppedDir) -> Result<Self, StorageError> {
        let bytes = dir.read_file(Path::new(BROKER_ID_FILE))?;
        Ok(Self { broker_id: bytes.and_then(|bytes| bytes.try_into().ok()) })
    }
}

impl Inventory for BrokerInventory {
    fn partition_log(&self, topic_id: [u8; 16], partition: u32) -> LogId {
        log_id(topic_id, partition)
    }

    fn system_log(&self, name: &str) -> Option<LogId> {
        self.broker_id.map(|id| log_id(id, payload_crc(name.as_bytes())))
    }

    fn check_file(&self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        let is_in_system = path.starts_with("system");
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_intact = match (is_in_system, name) {
            (true, "broker.id") if bytes.len() != 16 => {
                return Err(format!("it has {} bytes instead of 16", bytes.len()));
            }
            (true, "producers.state") if path.components().count() == 2 => producer_names::is_intact(bytes),
            (true, "groups.state") => groups::is_intact_marker(bytes),
            (true, "delays.state") => delays::is_intact_list(bytes),
            (true, "delays-settled.state") => delays::is_intact_snapshot(bytes),
            (false, PRODUCERS_FILE) => Producers::from_checkpoint(bytes).is_some(),
            (true | false, _) => true,
        };
        if is_intact { Ok(()) } else { Err("its checksum does not hold".to_owned()) }
    }
}
