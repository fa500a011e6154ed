//! The durable memory of the store: steps in a log, and a snapshot of what they come to now and then.

mod stored;

use std::sync::Arc;

use aqueduct_storage::{Batch, BatchHeader, Offset, payload_crc};

use self::stored::{Snapshot, decode, encode};
use super::{
    DelaysError,
    own_log::OwnLog,
    state::{State, Step},
};
use crate::{
    clock::Clock,
    engine::{MetaStore, ReadError},
    error::PublishError,
};

/// The engine's name for the log.
const LOG_NAME: &str = "delays";
/// The engine's name for the snapshot.
const SNAPSHOT_NAME: &str = "delays-settled";
/// Bytes of steps that are worth a snapshot, unless the snapshot itself is larger.
const SNAPSHOT_AFTER_BYTES: u64 = 1 << 20;
/// Records settled that are worth one: until then their tiers keep them.
const SNAPSHOT_AFTER_RECORDS: u64 = 50_000;
/// Read at once when the journal is opened.
const READ_BYTES: usize = 1 << 20;

/// See the [module](self).
pub(super) struct Journal {
    log: OwnLog,
    meta: Arc<dyn MetaStore>,
    state: State,
    /// Rises whenever the store is opened.
    epoch: u32,
    end: Offset,
    bytes_since_snapshot: u64,
    snapshot_bytes: u64,
    settled_at_snapshot: u64,
}

impl Journal {
    /// Reads what is stored, and marks that the store has been opened.
    ///
    /// # Errors
    /// [`DelaysError::Damaged`] if the state cannot be told from it.
    pub(super) async fn open(meta: Arc<dyn MetaStore>, clock: &Clock) -> Result<Self, DelaysError> {
        let snapshot = match meta.load(SNAPSHOT_NAME).await? {
            None => Snapshot::default(),
            Some(bytes) => Snapshot::decode(&bytes)
                .ok_or_else(|| DelaysError::Damaged(format!("{SNAPSHOT_NAME}.state is not readable")))?,
        };
        let log = OwnLog::open(&*meta, LOG_NAME, *b"aqueduct~journal", clock).await?;
        let opened =
            log.append(batch_of(&[Step::Opened])).await.map_err(|error| DelaysError::Journal(error.to_string()))?;
        let Snapshot { state, journal_from } = snapshot;
        let (epoch, end) = (opened.epoch, opened.base_offset + 1);
        let settled_at_snapshot = settled_in(&state);
        let mut journal =
            Self { log, meta, state, epoch, end, bytes_since_snapshot: 0, snapshot_bytes: 0, settled_at_snapshot };
        journal.replay(journal_from).await?;
        Ok(journal)
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Makes `steps` durable, and only then takes them. If it fails they may have been written: they, and nothing else,
    /// must be written next.
    pub(super) async fn write(&mut self, steps: &[Step]) -> Result<(), PublishError> {
        let batch = batch_of(steps);
        self.bytes_since_snapshot += batch.stored_bytes();
        let appended = self.log.append(batch).await?;
        self.end = appended.base_offset + u64::from(appended.record_count);
        steps.iter().for_each(|step| self.state.apply(step.clone()));
        Ok(())
    }

    /// Whether so much has happened that what lies before can go.
    pub(super) fn is_snapshot_due(&self) -> bool {
        self.bytes_since_snapshot >= SNAPSHOT_AFTER_BYTES.max(2 * self.snapshot_bytes)
            || settled_in(&self.state) - self.settled_at_snapshot >= SNAPSHOT_AFTER_RECORDS
    }

    /// Saves what the steps have come to, and lets go of them.
    pub(super) async fn snapshot(&mut self) -> Result<(), DelaysError> {
        self.bytes_since_snapshot = 0;
        self.settled_at_snapshot = settled_in(&self.state);
        let bytes = Snapshot { state: self.state.clone(), journal_from: self.end }.encode();
        self.snapshot_bytes = bytes.len() as u64;
        // Only once it is saved is the state whole without what lies before it.
        self.meta.save(SNAPSHOT_NAME, bytes).await?;
        self.log.trim(self.end).await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        if let Err(error) = self.log.close().await {
            tracing::warn!(%error, "the journal of delayed records was not closed cleanly");
        }
    }

    async fn replay(&mut self, from: Offset) -> Result<(), DelaysError> {
        let damaged = |what: String| DelaysError::Damaged(format!("its journal: {what}"));
        if from > self.end {
            return Err(damaged(format!("it ends at {}, but had reached {from}", self.end)));
        }
        let mut next = from;
        while next < self.end {
            let batches = match self.log.read(next, READ_BYTES).await {
                Ok(batches) if batches.is_empty() => return Err(damaged(format!("it ends at {next}"))),
                Ok(batches) => batches,
                Err(ReadError::Failed(what)) => return Err(DelaysError::Journal(what)),
                Err(error @ (ReadError::Damaged { .. } | ReadError::Lost { .. } | ReadError::OutOfRange { .. })) => {
                    return Err(damaged(error.to_string()));
                }
            };
            for batch in batches {
                let base = batch.header.base_offset;
                let end = batch.header.next_offset();
                self.bytes_since_snapshot += batch.stored_bytes();
                let steps = decode(batch.payload).ok_or_else(|| damaged(format!("offset {base} is not readable")))?;
                let of_snapshot = usize::try_from(next.saturating_sub(base)).unwrap_or(usize::MAX);
                steps.into_iter().skip(of_snapshot).for_each(|step| self.state.apply(step));
                next = end;
            }
        }
        Ok(())
    }
}

/// Whether a saved snapshot is what was written.
pub(crate) fn is_intact_snapshot(bytes: &[u8]) -> bool {
    Snapshot::decode(bytes).is_some()
}

fn settled_in(state: &State) -> u64 {
    state.tiers().fold(0, |sum, (_, settled)| sum.saturating_add(settled.count()))
}

fn batch_of(steps: &[Step]) -> Batch {
    let payload = encode(steps);
    let header = BatchHeader {
        record_count: u32::try_from(steps.len()).unwrap_or(u32::MAX),
        payload_crc: payload_crc(&payload),
        ..BatchHeader::default()
    };
    Batch { header, payload }
}
