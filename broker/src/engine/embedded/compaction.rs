//! Compaction of one log: reading and writing on a thread that may block, paced; each finished file is put in place by the
//! writer, between two groups.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aqueduct_storage::{Compaction, CompactionError, CompactionPolicy, Installed, LogReader, Rewritten};
use futures_util::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;

use super::sync::spawn_blocking;
use crate::{
    engine::{Compacted, EngineError},
    keyed_records::RecordSets,
};

/// Bytes read and written in a second: a fraction of what a disk gives, so that appends and reads hardly notice.
const BYTES_PER_SECOND: u64 = 64 << 20;

/// Pauses shorter than this are put off: waking up costs more than they give.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// One compaction of a log at a time, until the log is closed.
#[derive(Clone, Default)]
pub(super) struct Turn {
    running: Arc<tokio::sync::Mutex<()>>,
    is_over: Arc<AtomicBool>,
}

impl Turn {
    /// Ends one that is running, waits until it has, and allows no further one.
    pub(super) async fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        drop(self.running.lock().await);
    }
}

/// A compaction to be done.
pub(super) struct Job {
    pub(super) reader: LogReader,
    pub(super) policy: CompactionPolicy,
    pub(super) segment_bytes: u64,
    pub(super) turn: Turn,
}

/// What goes to a blocking thread and comes back. The guard with it: a caller that goes away leaves the thread working.
struct Work {
    compaction: Option<Compaction>,
    pacer: Pacer,
    _running: OwnedMutexGuard<()>,
}

impl Job {
    /// Does it; `roll` seals the active segment, `install` puts a file in place.
    pub(super) async fn run(
        self,
        roll: impl FnOnce() -> BoxFuture<'static, Result<(), EngineError>> + Send,
        install: impl Fn(Rewritten) -> BoxFuture<'static, Result<Installed, EngineError>> + Send,
    ) -> Result<Compacted, EngineError> {
        let running = Arc::clone(&self.turn.running).lock_owned().await;
        let Self { reader, policy, segment_bytes, turn } = self;
        let (log, wanted) = (reader.clone(), policy.clone());
        if blocking(move || log.is_roll_due(&wanted)).await? {
            roll().await?;
        }
        let pacer = Pacer { begun: Instant::now(), bytes: 0, is_over: turn.is_over };
        let mut work = Work { compaction: None, pacer, _running: running };
        work = blocking(move || {
            work.compaction =
                reader.compact(policy, segment_bytes, &RecordSets, &mut |bytes| work.pacer.pace(bytes))?;
            Ok(work)
        })
        .await?;
        let mut compacted = Compacted::default();
        loop {
            let (came_back, rewritten) = blocking(move || {
                let Work { compaction, pacer, .. } = &mut work;
                let rewritten = match compaction {
                    Some(compaction) => compaction.next(&RecordSets, &mut |bytes| pacer.pace(bytes))?,
                    None => None,
                };
                Ok((work, rewritten))
            })
            .await?;
            work = came_back;
            let Some(rewritten) = rewritten else { return Ok(compacted) };
            match install(rewritten).await? {
                Installed::InPlace { bytes_freed, records_removed } => {
                    compacted.bytes_freed += bytes_freed;
                    compacted.records_removed += records_removed;
                }
                // What comes after builds on what was not put in place.
                Installed::Overtaken => return Ok(compacted),
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CompactionError> + Send + 'static,
) -> Result<T, EngineError> {
    let done = spawn_blocking(work).await.map_err(|panic| EngineError(panic.to_string()))?;
    done.map_err(|error| EngineError(error.to_string()))
}

/// Keeps the work to [`BYTES_PER_SECOND`].
struct Pacer {
    begun: Instant,
    bytes: u64,
    is_over: Arc<AtomicBool>,
}

impl Pacer {
    fn pace(&mut self, bytes: u64) -> ControlFlow<()> {
        if self.is_over.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        self.bytes += bytes;
        let due = Duration::from_micros(self.bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND);
        let pause = due.saturating_sub(self.begun.elapsed());
        if pause >= PAUSE_MIN {
            std::thread::sleep(pause);
        }
        ControlFlow::Continue(())
    }
}
