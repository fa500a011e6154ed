//! The engine that keeps everything in a directory of this machine, with `aqueduct-storage`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aqueduct_storage::{
    self as storage, CacheBudget, DataDir, DataDirError, Disk, LogId, LogOptions, OpenError as LogOpenError,
    PartitionLog as Writer, TopicMeta,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};

use self::{
    io_pool::IoPool,
    log::EmbeddedLog,
    sync::{Mutex, spawn_blocking, thread},
};
use super::{AppendError, EngineError, MetaStore, PartitionLog, ReadError, TopicLogs};
use crate::{clock, error::OpenError};

mod compaction;
pub(crate) mod inventory;
mod io_pool;
mod log;
mod lookout;
#[cfg(all(test, feature = "shuttle"))]
pub(crate) mod models;
mod sync;
#[cfg(test)]
mod tests;
mod verify;

const BROKER_ID_FILE: &str = "system/broker.id";
const PRODUCERS_FILE: &str = "producers.state";

/// Settings of the embedded engine.
#[derive(Debug, Clone)]
pub(crate) struct EmbeddedOptions {
    /// Threads that write and sync. Syncs of different files run in parallel, so more than the cores is useful.
    pub io_threads: usize,
    /// Size at which a segment is sealed, unless the topic says otherwise, in bytes.
    pub segment_bytes: u64,
    /// Memory for the tails of all partitions together, in bytes.
    pub tail_cache_bytes: u64,
}

/// See the [module](self).
pub(crate) struct EmbeddedEngine {
    data: Arc<DataDir>,
    pool: IoPool,
    options: EmbeddedOptions,
    cache: Arc<CacheBudget>,
    broker_id: [u8; 16],
    /// Logs of topics that are open, so that new settings reach them.
    open: Mutex<BTreeMap<String, Vec<Option<Arc<EmbeddedLog>>>>>,
}

impl EmbeddedEngine {
    /// Opens the data directory at `path` of `disk`, and makes it if there is none. Blocking.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it; otherwise what the disk says.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: &Path, options: EmbeddedOptions) -> Result<Self, OpenError> {
        let data = DataDir::open(disk, path)?;
        let broker_id = match data.read_file(Path::new(BROKER_ID_FILE)).map_err(EngineError::from)? {
            Some(bytes) => <[u8; 16]>::try_from(bytes.as_slice()).map_err(|_| {
                let found = bytes.len();
                EngineError(format!("{}/{BROKER_ID_FILE} has {found} bytes instead of 16", path.display()))
            })?,
            None => {
                let id = *uuid::Uuid::now_v7().as_bytes();
                data.write_file_atomic(Path::new(BROKER_ID_FILE), &id).map_err(EngineError::from)?;
                id
            }
        };
        let pool = IoPool::start(options.io_threads)
            .map_err(|e| EngineError(format!("cannot start the threads that write: {e}")))?;
        let cache = CacheBudget::new(options.tail_cache_bytes);
        Ok(Self { data: Arc::new(data), pool, options, cache, broker_id, open: Mutex::default() })
    }

    /// The identity of this data directory.
    pub(crate) fn broker_id(&self) -> [u8; 16] {
        self.broker_id
    }

    fn opener(&self) -> Opener {
        Opener {
            data: Arc::clone(&self.data),
            io: self.pool.queue(),
            segment_bytes: self.options.segment_bytes,
            cache: Arc::clone(&self.cache),
        }
    }
}

impl MetaStore for Arc<EmbeddedEngine> {
    fn open_topics(&self) -> BoxFuture<'static, Result<Vec<TopicLogs>, EngineError>> {
        let engine = Arc::clone(self);
        blocking_engine(move || {
            let metas = engine.data.topics();
            let jobs: Vec<(usize, u32)> = metas
                .iter()
                .enumerate()
                .flat_map(|(topic, meta)| (0..meta.partitions).map(move |partition| (topic, partition)))
                .collect();
            let mut logs = in_parallel(&jobs, engine.options.io_threads, |&(topic, partition)| {
                engine.opener().open_partition(&metas[topic], partition)
            })
            .into_iter();
            let topics = metas
                .into_iter()
                .map(|meta| {
                    let opened: Vec<_> = logs.by_ref().take(meta.partitions as usize).collect();
                    engine.topic_logs(meta, opened)
                })
                .collect();
            Ok(topics)
        })
    }

    fn create_topic(&self, meta: TopicMeta) -> BoxFuture<'static, Result<TopicLogs, EngineError>> {
        let engine = Arc::clone(self);
        blocking_engine(move || {
            // The logs of the partitions come to be when they are opened: a crash in between leaves a topic whose
            // partitions are empty, which is what was asked for.
            engine.data.create_topic(&meta)?;
            let partitions: Vec<u32> = (0..meta.partitions).collect();
            let opener = engine.opener();
            let opened = in_parallel(&partitions, engine.options.io_threads, |&p| opener.open_partition(&meta, p));
            if let Some(Err(error)) = opened.iter().find(|log| log.is_err()) {
                let error = error.clone();
                drop(opened);
                engine.data.delete_topic(&meta.name)?;
                return Err(error);
            }
            Ok(engine.topic_logs(meta, opened))
        })
    }

    fn update_topic(&self, meta: TopicMeta) -> BoxFuture<'static, Result<Vec<Arc<dyn PartitionLog>>, EngineError>> {
        let engine = Arc::clone(self);
        blocking_engine(move || {
            engine.data.update_topic(&meta)?;
            let opener = engine.opener();
            let first_new = {
                let open = engine.open.lock();
                let logs = open.get(&meta.name).map(Vec::as_slice).unwrap_or_default();
                logs.iter().flatten().for_each(|log| log.set_options(opener.options(&meta)));
                u32::try_from(logs.len()).unwrap_or(u32::MAX)
            };
            let added = (first_new..meta.partitions)
                .map(|partition| opener.open_partition(&meta, partition).map(Arc::new))
                .collect::<Result<Vec<_>, _>>()?;
            engine.open.lock().entry(meta.name).or_default().extend(added.iter().cloned().map(Some));
            Ok(added.into_iter().map(|log| log as Arc<dyn PartitionLog>).collect())
        })
    }

    fn delete_topic(&self, meta: TopicMeta) -> BoxFuture<'static, Result<(), EngineError>> {
        let engine = Arc::clone(self);
        blocking_engine(move || {
            engine.open.lock().remove(&meta.name);
            Ok(engine.data.delete_topic(&meta.name)?)
        })
    }

    fn system_log(&self, name: &'static str) -> BoxFuture<'static, Result<Arc<dyn PartitionLog>, EngineError>> {
        let engine = Arc::clone(self);
        blocking_engine(move || {
            Ok(Arc::new(engine.opener().open_system(name, engine.broker_id)?) as Arc<dyn PartitionLog>)
        })
    }

    fn load(&self, name: &'static str) -> BoxFuture<'static, Result<Option<Bytes>, EngineError>> {
        let data = Arc::clone(&self.data);
        blocking(move || Ok(data.read_file(&state_path(name))?.map(Bytes::from)))
    }

    fn save(&self, name: &'static str, state: Bytes) -> BoxFuture<'static, Result<(), EngineError>> {
        let data = Arc::clone(&self.data);
        blocking(move || data.write_file_atomic(&state_path(name), &state))
    }

    fn name(&self) -> &'static str {
        "embedded"
    }

    fn close(&self, _deadline: Duration) -> BoxFuture<'static, Result<(), EngineError>> {
        self.open.lock().clear();
        // Clients of before may keep the engine in memory; they must not keep its directory from the next one.
        self.data.unlock();
        futures_util::future::ready(Ok(())).boxed()
    }
}

impl EmbeddedEngine {
    fn topic_logs(&self, meta: TopicMeta, opened: Vec<Result<EmbeddedLog, EngineError>>) -> TopicLogs {
        let opened: Vec<_> = opened.into_iter().map(|log| log.map(Arc::new)).collect();
        self.open.lock().insert(meta.name.clone(), opened.iter().map(|log| log.as_ref().ok().cloned()).collect());
        let partitions = opened.into_iter().map(|log| log.map(|log| log as Arc<dyn PartitionLog>)).collect();
        TopicLogs { meta, partitions }
    }
}

/// Opens logs, or makes them where there are none.
struct Opener {
    data: Arc<DataDir>,
    io: io_pool::IoQueue,
    segment_bytes: u64,
    cache: Arc<CacheBudget>,
}

impl Opener {
    fn options(&self, meta: &TopicMeta) -> LogOptions {
        LogOptions {
            segment_bytes: meta.segment_bytes.unwrap_or(self.segment_bytes),
            retention_bytes: meta.retention_bytes.filter(|_| meta.cleanup.deletes()),
            retention_age: meta.retention_age.filter(|_| meta.cleanup.deletes()),
            durability: meta.durability,
            cache_budget: Some(Arc::clone(&self.cache)),
            ..LogOptions::default()
        }
    }

    fn open_partition(&self, meta: &TopicMeta, partition: u32) -> Result<EmbeddedLog, EngineError> {
        let dir = self.data.partition_dir(&meta.name, partition)?;
        self.open(dir, log_id(meta.id, partition), self.options(meta))
    }

    fn open_system(&self, name: &str, broker_id: [u8; 16]) -> Result<EmbeddedLog, EngineError> {
        let dir = self.data.system_dir(name)?;
        let options = LogOptions { segment_bytes: 4 << 20, tail_cache_bytes: 0, ..LogOptions::default() };
        self.open(dir, log_id(broker_id, storage::payload_crc(name.as_bytes())), options)
    }

    fn open(&self, dir: PathBuf, id: LogId, options: LogOptions) -> Result<EmbeddedLog, EngineError> {
        let disk = Arc::clone(self.data.disk());
        let writer = match Writer::open(Arc::clone(&disk), &dir, id, options.clone(), clock::now_us()) {
            Ok((writer, report)) => {
                for note in &report.notes {
                    tracing::info!(log = %dir.display(), "recovery: {note}");
                }
                for damage in &report.damage {
                    tracing::error!(
                        log = %dir.display(), from = damage.from, to = damage.to, segment = %damage.segment.display(),
                        position = damage.position, "damaged offsets cannot be read: {}", damage.what
                    );
                }
                writer
            }
            Err(LogOpenError::Missing { .. }) => Writer::create(disk, &dir, id, options)?,
            Err(error) => return Err(error.into()),
        };
        // Small files are named relative to the data directory.
        let checkpoint = dir.strip_prefix(self.data.path()).unwrap_or(&dir).join(PRODUCERS_FILE);
        Ok(EmbeddedLog::new(writer, self.io.clone(), Arc::clone(&self.data), checkpoint))
    }
}

/// The identity of a log, to which its checksums are bound: different for each partition of each topic ever made.
fn log_id(mut id: [u8; 16], number: u32) -> LogId {
    for (byte, mask) in id[12..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= mask;
    }
    LogId(id)
}

fn state_path(name: &str) -> PathBuf {
    Path::new("system").join(name).with_extension("state")
}

/// Runs `job` for each item on up to `threads` threads; the results are in the order of the items.
fn in_parallel<I: Sync, O: Send>(items: &[I], threads: usize, job: impl Fn(&I) -> O + Sync) -> Vec<O> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(index)
        {
            done.push((index, job(item)));
        }
        done
    };
    let mut results: Vec<(usize, O)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, storage::StorageError> + Send + 'static,
) -> BoxFuture<'static, Result<T, EngineError>> {
    blocking_engine(move || job().map_err(EngineError::from))
}

fn blocking_engine<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> BoxFuture<'static, Result<T, EngineError>> {
    spawn_blocking(job).map(|joined| joined.unwrap_or_else(|e| Err(EngineError(e.to_string())))).boxed()
}

impl From<storage::StorageError> for EngineError {
    fn from(error: storage::StorageError) -> Self {
        Self(error.to_string())
    }
}

impl From<LogOpenError> for EngineError {
    fn from(error: LogOpenError) -> Self {
        Self(error.to_string())
    }
}

impl From<DataDirError> for EngineError {
    fn from(error: DataDirError) -> Self {
        Self(error.to_string())
    }
}

impl From<DataDirError> for OpenError {
    fn from(error: DataDirError) -> Self {
        match error {
            DataDirError::Locked { pid, path } => Self::Locked { directory: path.display().to_string(), pid },
            other => Self::Engine(EngineError::from(other)),
        }
    }
}

impl From<storage::AppendError> for AppendError {
    fn from(error: storage::AppendError) -> Self {
        match error {
            storage::AppendError::Rejected(storage::Rejection::OffsetMismatch { expected, .. }) => {
                Self::TailMoved { tail: expected }
            }
            storage::AppendError::Rejected(storage::Rejection::WrongEpoch { current, .. }) => {
                Self::Fenced { epoch: current }
            }
            storage::AppendError::Rejected(rejection) => Self::Rejected(rejection.to_string()),
            storage::AppendError::Full => Self::Full,
            storage::AppendError::Failed => Self::Closed("it has failed and waits to be acquired again"),
            storage::AppendError::OutcomeUnknown(error) => Self::Unknown(error.to_string()),
        }
    }
}

impl From<storage::ReadError> for ReadError {
    fn from(error: storage::ReadError) -> Self {
        match error {
            storage::ReadError::OffsetOutOfRange { requested, log_start, high_watermark } => {
                Self::OutOfRange { requested, window: storage::Window { log_start, high_watermark } }
            }
            storage::ReadError::Corrupt(damage) => Self::Damaged {
                from: damage.from,
                to: damage.to,
                what: format!("{} at byte {}: {}", damage.segment.display(), damage.position, damage.what),
            },
            storage::ReadError::Lost { from, to } => Self::Lost { from, to },
            storage::ReadError::Storage(error) => Self::Failed(error.to_string()),
        }
    }
}
