//! The durable state of groups: an append-only log of changes, and a snapshot of everything now and then.
//!
//! Commits are not written as they come. What arrives while an append is under way marks its position; the next append
//! carries every marked position once, as it stands then, however many commits it has seen. Nobody is told "durable"
//! before the append that carries their change is.

mod entry;
mod marker;
mod replay;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aqueduct_storage::{Batch, BatchHeader, Offset, payload_crc};
use futures_util::future::{BoxFuture, join_all};
use tokio::time::Instant;

use self::{
    entry::{Entry, decode_all, encode},
    marker::Marker,
    replay::Replay,
};
use super::{
    error::JournalError,
    state::{Change, PositionKey, State},
};
use crate::{
    clock,
    engine::{AppendError, Lease, MetaStore, PartitionLog, ReadError},
};

/// The engine's name for the log.
const LOG_NAME: &str = "groups";
/// Bytes of entries in one batch, unless a single entry is larger.
const BATCH_BYTES: usize = 256 * 1024;
/// Entries in one batch.
const BATCH_ENTRIES_MAX: usize = 32_768;
/// Bytes appended since the last snapshot that are worth a new one, unless the snapshot itself is larger.
pub(crate) const SNAPSHOT_AFTER_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes read at once when replaying.
const REPLAY_READ_BYTES: usize = 1024 * 1024;
/// Between two attempts to get a lost lease back.
const RECOVERY_PAUSE: Duration = Duration::from_secs(1);

/// Told once, when what was staged before is durable or has failed.
pub(crate) type Waiter = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// The journal, owned by the coordinator.
pub(crate) struct Journal {
    log: Arc<dyn PartitionLog>,
    meta: Arc<dyn MetaStore>,
    hold: Hold,
    tail: Offset,
    last_append_us: i64,
    /// Positions that have moved since they were last written.
    moved: BTreeSet<PositionKey>,
    waiters: Vec<Waiter>,
    in_flight: Option<InFlight>,
    marker: Marker,
    snapshot_after_bytes: u64,
    bytes_since_snapshot: u64,
}

/// The right to append, or why it is missing.
enum Hold {
    Held(Lease),
    Lost { why: JournalError, retry_at: Instant },
    Fenced { epoch: u32 },
}

/// Batches given to the engine.
struct Append {
    outcome: BoxFuture<'static, Result<(), AppendError>>,
    /// How many calls it took.
    calls: usize,
    end: Offset,
}

/// The append under way, and whom it concerns.
struct InFlight {
    append: Append,
    moved: BTreeSet<PositionKey>,
    waiters: Vec<Waiter>,
}

impl Journal {
    /// Opens the log, takes it over and replays it.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if the state cannot be told from it.
    pub(crate) async fn open(
        meta: Arc<dyn MetaStore>,
        snapshot_after_bytes: u64,
    ) -> Result<(Self, State), JournalError> {
        let log = meta.system_log(LOG_NAME).await.map_err(unavailable)?;
        let mut journal = Self {
            log,
            meta,
            hold: Hold::Lost { why: JournalError::Unavailable("not opened yet".to_owned()), retry_at: Instant::now() },
            tail: 0,
            last_append_us: i64::MIN,
            moved: BTreeSet::new(),
            waiters: Vec::new(),
            in_flight: None,
            marker: Marker::default(),
            snapshot_after_bytes,
            bytes_since_snapshot: 0,
        };
        let state = journal.take_over().await?;
        Ok((journal, state))
    }

    /// Rises with every take-over, also across restarts; `None` while the log is lost.
    pub(crate) fn epoch(&self) -> Option<u32> {
        match self.hold {
            Hold::Held(lease) => Some(lease.epoch),
            Hold::Lost { .. } | Hold::Fenced { .. } => None,
        }
    }

    /// Marks a position whose progress in the state has moved.
    pub(crate) fn moved(&mut self, key: PositionKey) {
        self.moved.insert(key);
    }

    /// Whether nothing is marked that is not durable.
    pub(crate) fn is_settled(&self) -> bool {
        self.moved.is_empty() && self.in_flight.is_none()
    }

    /// Tells `waiter` when everything marked so far is durable. At most one per member is outstanding, and one for each
    /// call that asks where a group stands.
    pub(crate) fn when_durable(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    /// Begins to append what is marked, unless an append is under way.
    pub(crate) fn flush(&mut self, state: &State) {
        // What is marked without a waiter has failed before; it goes along with the next that has one.
        if self.in_flight.is_some() || self.waiters.is_empty() {
            return;
        }
        let lease = match self.lease() {
            Ok(lease) => lease,
            Err(why) => return answer(&mut self.waiters, &Err(why)),
        };
        let moved = std::mem::take(&mut self.moved);
        let advanced = moved.iter().filter_map(|key| {
            let progress = state.position(key)?.clone();
            Some(Entry::Change(Change::Advanced { key: key.clone(), progress }))
        });
        let batches = self.batches(lease, advanced);
        let waiters = std::mem::take(&mut self.waiters);
        let append = self.append(lease, batches);
        self.in_flight = Some(InFlight { append, moved, waiters });
    }

    /// Resolves when the append under way has ended and its waiters know; never without one. Cancel-safe.
    pub(crate) async fn appended(&mut self) {
        let Some(in_flight) = &mut self.in_flight else { return std::future::pending().await };
        let outcome = (&mut in_flight.append.outcome).await;
        let Some(mut in_flight) = self.in_flight.take() else { return };
        let outcome = self.conclude(&in_flight.append, outcome);
        if outcome.is_err() {
            self.moved.append(&mut in_flight.moved);
        }
        // Before anything else is awaited: a caller that stops waiting must not take the answers along.
        answer(&mut in_flight.waiters, &outcome);
        self.save_first_marker().await;
    }

    /// Makes `changes` durable, now and in order. For what is rare: it waits for the append under way.
    ///
    /// # Errors
    /// Nothing was written, except for [`JournalError::Unknown`].
    pub(crate) async fn write(&mut self, changes: &[Change]) -> Result<(), JournalError> {
        if self.in_flight.is_some() {
            self.appended().await;
        }
        let lease = self.lease()?;
        let batches = self.batches(lease, changes.iter().cloned().map(Entry::Change));
        let mut append = self.append(lease, batches);
        let outcome = (&mut append.outcome).await;
        self.conclude(&append, outcome)?;
        self.save_first_marker().await;
        Ok(())
    }

    /// Writes a snapshot if enough has been appended since the last one, and lets go of what lies before it.
    pub(crate) async fn snapshot_if_due(&mut self, state: &State) {
        let due_after = self.snapshot_after_bytes.max(2 * self.marker.snapshot_bytes);
        if self.bytes_since_snapshot < due_after || self.in_flight.is_some() {
            return;
        }
        if let Err(error) = self.snapshot(state).await {
            tracing::warn!(%error, "no snapshot of group state; the next one is tried after as many changes again");
            self.bytes_since_snapshot = 0;
        }
    }

    /// Takes the log over again if it was lost, and returns the state that it holds.
    pub(crate) async fn recover_if_lost(&mut self) -> Option<State> {
        match &self.hold {
            Hold::Lost { retry_at, .. } if Instant::now() >= *retry_at && self.in_flight.is_none() => {}
            Hold::Lost { .. } | Hold::Held(_) | Hold::Fenced { .. } => return None,
        }
        match self.take_over().await {
            Ok(state) => {
                // Their values were those of a state that is gone. Members commit theirs again.
                self.moved.clear();
                let again = JournalError::Unavailable("its log was taken over again".to_owned());
                answer(&mut self.waiters, &Err(again));
                Some(state)
            }
            Err(why) => {
                tracing::error!(error = %why, "the log of group state is lost");
                self.hold = Hold::Lost { why, retry_at: Instant::now() + RECOVERY_PAUSE };
                None
            }
        }
    }

    /// Finishes what is staged and closes the log with the mark of a clean stop.
    pub(crate) async fn close(mut self, state: &State) {
        if !self.moved.is_empty() {
            self.when_durable(Box::new(|_| {}));
        }
        while self.in_flight.is_some() || !self.waiters.is_empty() {
            self.flush(state);
            if self.in_flight.is_some() {
                self.appended().await;
            }
        }
        if let Err(error) = self.log.close().await {
            tracing::warn!(%error, "the log of group state was not closed cleanly");
        }
    }

    fn lease(&self) -> Result<Lease, JournalError> {
        match &self.hold {
            Hold::Held(lease) => Ok(*lease),
            Hold::Lost { why, .. } => Err(why.clone()),
            Hold::Fenced { epoch } => Err(JournalError::Fenced { epoch: *epoch }),
        }
    }

    /// Appends `batches` at the tail: as many calls as the engine wants, all under way at once.
    fn append(&self, lease: Lease, mut batches: Vec<Batch>) -> Append {
        let mut end = self.tail;
        let mut outcomes = Vec::new();
        let per_call = self.log.limits().append_batches_max.max(1);
        while !batches.is_empty() {
            let later = batches.split_off(per_call.min(batches.len()));
            let next = batches.last().map_or(end, |batch| batch.header.next_offset());
            outcomes.push(self.log.append(lease, end, batches));
            end = next;
            batches = later;
        }
        let calls = outcomes.len();
        let outcome = Box::pin(async { join_all(outcomes).await.into_iter().collect() });
        Append { outcome, calls, end }
    }

    /// Draws the conclusions from an append that has ended.
    fn conclude(&mut self, append: &Append, outcome: Result<(), AppendError>) -> Result<(), JournalError> {
        let error = match outcome {
            Ok(()) => {
                self.tail = append.end;
                return Ok(());
            }
            Err(AppendError::Full) if append.calls == 1 => return Err(JournalError::Full),
            // What the calls before it wrote is there: where the log ends is not known.
            Err(AppendError::Full) => JournalError::Full,
            Err(AppendError::Fenced { epoch }) => {
                self.hold = Hold::Fenced { epoch };
                return Err(JournalError::Fenced { epoch });
            }
            Err(AppendError::Unknown(what)) => JournalError::Unknown(what),
            Err(error @ (AppendError::Rejected(_) | AppendError::TailMoved { .. } | AppendError::Closed(_))) => {
                JournalError::Unavailable(error.to_string())
            }
        };
        self.hold = Hold::Lost { why: JournalError::Unavailable(error.to_string()), retry_at: Instant::now() };
        Err(error)
    }

    /// Packs entries into batches that follow the tail.
    fn batches(&mut self, lease: Lease, entries: impl Iterator<Item = Entry>) -> Vec<Batch> {
        let bytes_max = BATCH_BYTES.min(self.log.limits().batch_bytes_max);
        self.last_append_us = self.last_append_us.max(clock::now_us());
        let mut batches = Vec::new();
        let mut next = self.tail;
        let (mut payload, mut count) = (Vec::new(), 0_u32);
        let mut single = Vec::new();
        let mut seal = |payload: &mut Vec<u8>, count: &mut u32| {
            if *count > 0 {
                let batch = batch_of(std::mem::take(payload), *count, next, self.last_append_us, lease.epoch);
                next = batch.header.next_offset();
                *count = 0;
                batches.push(batch);
            }
        };
        for entry in entries {
            single.clear();
            encode(entry, &mut single);
            if payload.len() + single.len() > bytes_max || count as usize >= BATCH_ENTRIES_MAX {
                seal(&mut payload, &mut count);
            }
            payload.extend_from_slice(&single);
            count += 1;
        }
        seal(&mut payload, &mut count);
        self.bytes_since_snapshot += batches.iter().map(Batch::stored_bytes).sum::<u64>();
        batches
    }

    async fn snapshot(&mut self, state: &State) -> Result<(), JournalError> {
        let lease = self.lease()?;
        let begin = self.tail;
        let mut entries: Vec<Entry> = state.changes().map(Entry::Change).collect();
        let end = Entry::SnapshotEnd { entries: entries.len() as u64 };
        entries.insert(0, Entry::SnapshotBegin);
        entries.push(end);
        let batches = self.batches(lease, entries.into_iter());
        let snapshot_bytes = batches.iter().map(Batch::stored_bytes).sum();
        let mut append = self.append(lease, batches);
        let outcome = (&mut append.outcome).await;
        self.conclude(&append, outcome)?;
        // Only now is the state whole without what lies before it: marker first, trim second.
        self.save_marker(Marker { snapshot_begin: begin, snapshot_bytes, reached: append.end }).await?;
        self.bytes_since_snapshot = 0;
        self.log.trim(begin).await.map_err(unavailable)?;
        Ok(())
    }

    async fn take_over(&mut self) -> Result<State, JournalError> {
        let marker = Marker::load(&*self.meta).await?;
        let lease = self.log.acquire().await.map_err(unavailable)?;
        if lease.tail < marker.reached {
            return Err(JournalError::Damaged(format!(
                "the log ends at {}, but had reached {}",
                lease.tail, marker.reached
            )));
        }
        self.last_append_us = self.last_append_us.max(lease.last_append_time_us.unwrap_or(i64::MIN));
        let log_start = self.log.watch().borrow().log_start;
        let state = self.replay(marker.snapshot_begin.max(log_start), lease.tail).await?;
        self.hold = Hold::Held(lease);
        self.tail = lease.tail;
        self.marker = marker;
        if self.marker.reached < lease.tail {
            self.save_marker(Marker { reached: lease.tail, ..marker }).await?;
        }
        Ok(state)
    }

    async fn replay(&mut self, begin: Offset, end: Offset) -> Result<State, JournalError> {
        let mut replay = match begin {
            0 => Replay::from_the_beginning(),
            _ => Replay::from_the_middle(format!("no whole snapshot from offset {begin} on")),
        };
        self.bytes_since_snapshot = 0;
        let mut next = begin;
        while next < end {
            let batches = match self.log.read(next, REPLAY_READ_BYTES).await {
                Ok(batches) if batches.is_empty() => {
                    return Err(JournalError::Damaged(format!("it ends at {next} instead of {end}")));
                }
                Ok(batches) => batches,
                Err(ReadError::Damaged { from, to, what }) => {
                    replay.lose(format!("offsets {from} to {to} of its log: {what}"));
                    next = to.max(next + 1);
                    continue;
                }
                Err(ReadError::Lost { from, to }) => {
                    replay.lose(format!("offsets {from} to {to} of its log were damaged, and taken out by a repair"));
                    next = to.max(next + 1);
                    continue;
                }
                Err(error @ ReadError::OutOfRange { .. }) => return Err(JournalError::Damaged(error.to_string())),
                Err(ReadError::Failed(what)) => return Err(JournalError::Unavailable(what)),
            };
            for batch in batches {
                let base = batch.header.base_offset;
                if base > next {
                    replay.lose(format!("offsets {next} to {base} of its log are missing"));
                }
                next = batch.header.next_offset();
                self.last_append_us = self.last_append_us.max(batch.header.append_time_us);
                self.bytes_since_snapshot += batch.stored_bytes();
                match decode_all(batch.payload) {
                    Ok(entries) => entries.into_iter().for_each(|entry| replay.apply(entry)),
                    Err(error) => replay.lose(format!("offset {base} of its log: {error}")),
                }
            }
        }
        replay.finish()
    }

    /// From the first append on, a log that is gone can be told from one that never was.
    async fn save_first_marker(&mut self) {
        if self.marker.reached == 0
            && self.tail > 0
            && let Err(error) = self.save_marker(Marker { reached: self.tail, ..self.marker }).await
        {
            tracing::warn!(%error, "the marker of the log of group state was not saved");
        }
    }

    async fn save_marker(&mut self, marker: Marker) -> Result<(), JournalError> {
        marker.save(&*self.meta).await?;
        self.marker = marker;
        Ok(())
    }
}

/// Whether a saved marker is what was written.
pub(crate) fn is_intact_marker(bytes: &[u8]) -> bool {
    Marker::is_intact(bytes)
}

fn batch_of(payload: Vec<u8>, count: u32, base_offset: Offset, append_time_us: i64, epoch: u32) -> Batch {
    let header = BatchHeader {
        base_offset,
        record_count: count,
        payload_crc: payload_crc(&payload),
        append_time_us,
        epoch,
        ..BatchHeader::default()
    };
    Batch { header, payload: payload.into() }
}

fn answer(waiters: &mut Vec<Waiter>, outcome: &Result<(), JournalError>) {
    waiters.drain(..).for_each(|waiter| waiter(outcome.clone()));
}

fn unavailable(error: crate::engine::EngineError) -> JournalError {
    JournalError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
