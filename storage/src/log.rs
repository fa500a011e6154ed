//! [`PartitionLog`]: the one writer of a log.
//!
//! Ownership, not a lock, makes it the only one. It appends ([`append`]), seals and begins segments ([`roll`]), removes
//! old ones ([`retain`]), puts compacted ones in place ([`compact`]), and goes on after a failure ([`failure`]). How it begins is in [`crate::recovery`].

mod active;
mod append;
mod compact;
mod failure;
mod retain;
mod roll;
mod zero_ahead;

use std::path::Path;
use std::sync::Arc;

use crate::age_clock::AgeClock;
use crate::batch::LogId;
use crate::cache::TailCache;
use crate::disk::Disk;
use crate::options::LogOptions;
use crate::reader::LogReader;
use crate::recovery::{self, Recovered, RecoveryReport, segments_crc};
use crate::segment::{Segment, index_file_name};
use crate::shared::{Shared, Window};
use crate::state::{LastSegment, SegmentKind, State, StateFile, Stop};
use crate::{Offset, OpenError, StorageError};
use active::Tail;
pub use compact::Installed;
pub(crate) use failure::create_segment;
pub use retain::RetentionOutcome;
pub(crate) use retain::remove_segment;

/// Up to where the log is durable, and where that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DurablePoint {
    pub(crate) end: Offset,
    pub(crate) last_segment: Option<LastSegment>,
    pub(crate) last_append_time_us: Option<i64>,
}

/// Whether the log takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// A write or a sync failed: nothing that is not published can be trusted.
    Failed,
}

/// The log of one partition, opened for writing.
///
/// Invariant: `log_start <= high_watermark <= log_end`, and with `Durability::Fsync` everything below the high watermark
/// is durable. Dropped without [`close`](Self::close) it is in the state of a killed process, which the next open
/// recovers from.
#[derive(Debug)]
pub struct PartitionLog {
    shared: Arc<Shared>,
    options: LogOptions,
    state_file: StateFile,
    health: Health,
    tail: Tail,
    epoch: u32,
    /// Next offset to assign; beyond the high watermark while a group is written and not published.
    log_end: Offset,
    durable: DurablePoint,
    last_append_time_us: Option<i64>,
    /// What `partition.state` says on disk.
    stop: Stop,
    age: AgeClock,
    /// Upper bound of the age clock at the last append.
    last_append_age_us: u64,
    /// The age clock as it was last written.
    saved_age_us: u64,
    /// Appended since the durable end was last written.
    unsaved_bytes: u64,
    /// Segments that another file stands for, and that are not removed yet, in order.
    replaced: Vec<Arc<Segment>>,
}

impl PartitionLog {
    /// Makes the directory of a new, empty log, whose parent exists, and opens it. Durable when it returns: two file
    /// and two directory syncs.
    ///
    /// # Errors
    /// [`OpenError::AlreadyExists`] if there are traces of a log; the disk's.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, id: LogId, options: LogOptions) -> Result<Self, OpenError> {
        let io = |operation, path: &Path, error| OpenError::from(StorageError::io(operation, path, error));
        match disk.create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                if recovery::holds_log(&*disk, dir)? {
                    return Err(OpenError::AlreadyExists { dir: dir.to_owned() });
                }
            }
            Err(error) => return Err(io("create", dir, error)),
        }
        let age = AgeClock::new(disk.boot_time());
        let state = State {
            epoch: 1,
            log_start: 0,
            durable_end: 0,
            last_segment: None,
            segments_crc: segments_crc(&[]),
            stop: Stop::Clean,
            last_append_time_us: None,
            age,
        };
        let state_file = StateFile::create(disk.clone(), dir, id, &state)?;
        for entry_in in [dir, dir.parent().unwrap_or(dir)] {
            disk.sync_dir(entry_in).map_err(|error| io("sync", entry_in, error))?;
        }
        Ok(Self::assemble(disk, dir, id, options, Recovered::new_log(state_file, state)))
    }

    /// Opens the log in `dir`. After a clean stop the cost does not depend on its size; after a kill, the headers since
    /// the last checkpoint are scanned and the epoch is raised. `now_us` is the wall clock, µs since the epoch.
    ///
    /// # Errors
    /// [`OpenError::Missing`] if there is no trace of a log: nothing was lost, it may be created. Damage inside the
    /// log is no error here but is in the report; a missing segment is.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        id: LogId,
        options: LogOptions,
        now_us: i64,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let (mut recovered, report) = recovery::recover(&disk, dir, id)?;
        recovered.state.age.tick(disk.boot_time(), now_us);
        Ok((Self::assemble(disk, dir, id, options, recovered), report))
    }

    fn assemble(disk: Arc<dyn Disk>, dir: &Path, id: LogId, options: LogOptions, recovered: Recovered) -> Self {
        let options = options.bounded();
        let Recovered { state_file, state, segments } = recovered;
        let window = Window { log_start: state.log_start, high_watermark: state.durable_end };
        let cache = TailCache::new(options.cache_budget.clone());
        let tail = match (segments.last(), state.last_segment) {
            (Some(segment), Some(LastSegment { position, kind: SegmentKind::Active, .. })) => {
                Tail::Unopened { segment: segment.clone(), position }
            }
            (Some(_), Some(_) | None) | (None, _) => Tail::Sealed,
        };
        let last_append_age_us = state.age.at_latest_us(disk.boot_time());
        let shared = Shared::new(disk, dir, id, cache, window, segments);
        shared.set_index_interval_bytes(options.index_interval_bytes);
        Self {
            shared: Arc::new(shared),
            options,
            state_file,
            health: Health::Good,
            tail,
            epoch: state.epoch,
            log_end: state.durable_end,
            durable: DurablePoint {
                end: state.durable_end,
                last_segment: state.last_segment,
                last_append_time_us: state.last_append_time_us,
            },
            last_append_time_us: state.last_append_time_us,
            stop: state.stop,
            age: state.age,
            last_append_age_us,
            saved_age_us: state.age.age_us,
            unsaved_bytes: 0,
            replaced: Vec::new(),
        }
    }

    /// Epoch of the log: every batch is stamped with it.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Identity of the log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.shared.id
    }

    /// The next offset to assign.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// What readers can see.
    #[must_use]
    pub fn window(&self) -> Window {
        self.shared.window()
    }

    /// Append time of the last batch, µs since the epoch: the next one must not be earlier.
    #[must_use]
    pub fn last_append_time_us(&self) -> Option<i64> {
        self.last_append_time_us
    }

    /// The options in force.
    #[must_use]
    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Whether a write or sync has failed, so that [`recover_from_failure`](Self::recover_from_failure) is due.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.health == Health::Failed
    }

    /// A reader of this log.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// Replaces the options, but for the cache budget, from the next operation on.
    pub fn set_options(&mut self, options: LogOptions) {
        self.options = options.bounded();
        self.shared.set_index_interval_bytes(self.options.index_interval_bytes);
    }

    /// Raises the epoch, so that batches stamped before are refused. Durable when it returns: one sync.
    ///
    /// # Errors
    /// [`StorageError::Failed`] before and after a failure; the disk's.
    pub fn raise_epoch(&mut self) -> Result<u32, StorageError> {
        self.check_health()?;
        match self.save_raised_epoch() {
            Ok(()) => Ok(self.epoch),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Closes the log, so that the next open need not look at its data: a few syncs.
    ///
    /// # Errors
    /// [`StorageError::Failed`] after a failure, the disk's: the next open is one after a kill.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.check_health()?;
        self.cut_tail()?;
        if let Tail::Open(active) = &self.tail {
            let segment = &active.segment;
            // Not evidence, and built again if it cannot be written.
            drop(self.save_index(segment, self.log_end));
        }
        self.save_state(Stop::Clean)
    }

    fn check_health(&self) -> Result<(), StorageError> {
        match self.health {
            Health::Good => Ok(()),
            Health::Failed => Err(StorageError::Failed),
        }
    }

    /// From here on nothing unpublished is trusted; gives `error` back.
    fn fail(&mut self, error: StorageError) -> StorageError {
        self.health = Health::Failed;
        error
    }

    fn state(&self, stop: Stop) -> State {
        let segments = self.shared.segments();
        let bases: Vec<Offset> = segments.iter().map(|segment| segment.base).collect();
        State {
            epoch: self.epoch,
            log_start: self.shared.window().log_start,
            durable_end: self.durable.end,
            last_segment: self.durable.last_segment,
            segments_crc: segments_crc(&bases),
            stop,
            last_append_time_us: self.durable.last_append_time_us,
            age: self.age,
        }
    }

    /// Writes the facts durably.
    fn save_state(&mut self, stop: Stop) -> Result<(), StorageError> {
        let state = self.state(stop);
        self.write_state(&state)
    }

    /// Raises the epoch; one that is not known to be durable is never used.
    fn save_raised_epoch(&mut self) -> Result<(), StorageError> {
        self.epoch += 1;
        self.save_state(Stop::Running).inspect_err(|_| self.epoch -= 1)
    }

    fn write_state(&mut self, state: &State) -> Result<(), StorageError> {
        self.state_file.write_synced(state)?;
        self.stop = state.stop;
        self.saved_age_us = self.age.age_us;
        self.unsaved_bytes = 0;
        Ok(())
    }

    /// Writes the index of `segment`, which ends at `end`, if all of it is at hand.
    fn save_index(&self, segment: &Segment, end: Offset) -> Result<(), StorageError> {
        let path = self.shared.dir.join(index_file_name(segment.base));
        let disk = &*self.shared.disk;
        let mut entries = Vec::new();
        if segment.recent_from > segment.base {
            let older = segment.base..segment.recent_from;
            let Some(found) = crate::segment::index::load(disk, &path, self.shared.id, older) else { return Ok(()) };
            entries = found;
        }
        entries.extend(segment.recent());
        crate::segment::index::save(disk, &path, self.shared.id, segment.base..end, &entries)
    }
}
