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
    running: Arc<tokio::sync::Mutex<LastPass>>,
    is_over: Arc<AtomicBool>,
}

/// What has become of the last pass over a log.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum LastPass {
    #[default]
    GotThrough,
    /// It failed, its caller went away, or it is still running.
    Unfinished,
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
    last_pass: OwnedMutexGuard<LastPass>,
}

impl Job {
    /// Does it; `roll` seals the active segment, `install` puts a file in place.
    pub(super) async fn run(
        self,
        roll: impl FnOnce() -> BoxFuture<'static, Result<(), EngineError>> + Send,
        install: impl Fn(Rewritten) -> BoxFuture<'static, Result<Installed, EngineError>> + Send + Sync,
    ) -> Result<Compacted, EngineError> {
        let last_pass = Arc::clone(&self.turn.running).lock_owned().await;
        let pacer = Pacer { begun: Instant::now(), bytes: 0, is_over: Arc::clone(&self.turn.is_over) };
        let mut work = Work { compaction: None, pacer, last_pass };
        let mut compacted = Compacted::default();
        if *work.last_pass == LastPass::Unfinished {
            // Where no pass gets through, sealing would only make segments, one each time, and nothing would merge them.
            work = self.pass(work, &install, &mut compacted).await?;
        }
        let (log, policy) = (self.reader.clone(), self.policy.clone());
        let (came_back, is_roll_due) = work.on_a_thread(move |_| log.is_roll_due(&policy)).await?;
        work = came_back;
        if is_roll_due {
            work.check_is_not_over().map_err(failed)?;
            roll().await?;
        }
        drop(self.pass(work, &install, &mut compacted).await?);
        Ok(compacted)
    }

    /// Compacts what there is, and adds what that has come to.
    async fn pass(
        &self,
        mut work: Work,
        install: &(impl Fn(Rewritten) -> BoxFuture<'static, Result<Installed, EngineError>> + Sync),
        compacted: &mut Compacted,
    ) -> Result<Work, EngineError> {
        *work.last_pass = LastPass::Unfinished;
        let (reader, policy, segment_bytes) = (self.reader.clone(), self.policy.clone(), self.segment_bytes);
        let begin = move |Work { compaction, pacer, .. }: &mut Work| {
            *compaction = reader.compact(policy, segment_bytes, &RecordSets, &mut |bytes| pacer.pace(bytes))?;
            Ok(())
        };
        (work, ()) = work.on_a_thread(begin).await?;
        loop {
            let next = |Work { compaction, pacer, .. }: &mut Work| match compaction {
                Some(compaction) => compaction.next(&RecordSets, &mut |bytes| pacer.pace(bytes)),
                None => Ok(None),
            };
            let (came_back, rewritten) = work.on_a_thread(next).await?;
            work = came_back;
            let Some(rewritten) = rewritten else { break };
            match install(rewritten).await? {
                Installed::InPlace { bytes_freed, records_removed } => {
                    compacted.bytes_freed += bytes_freed;
                    compacted.records_removed += records_removed;
                }
                // What comes after builds on what was not put in place.
                Installed::Overtaken => break,
            }
        }
        *work.last_pass = LastPass::GotThrough;
        Ok(work)
    }
}

impl Work {
    /// Does `step` on a thread that may block, unless the turn is over.
    async fn on_a_thread<T: Send + 'static>(
        mut self,
        step: impl FnOnce(&mut Self) -> Result<T, CompactionError> + Send + 'static,
    ) -> Result<(Self, T), EngineError> {
        let work = move || {
            self.check_is_not_over()?;
            let done = step(&mut self)?;
            Ok((self, done))
        };
        let done = spawn_blocking(work).await.map_err(|panic| EngineError(panic.to_string()))?;
        done.map_err(failed)
    }

    fn check_is_not_over(&self) -> Result<(), CompactionError> {
        if self.pacer.is_over.load(Ordering::Relaxed) { Err(CompactionError::Stopped) } else { Ok(()) }
    }
}

fn failed(error: CompactionError) -> EngineError {
    EngineError(error.to_string())
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

#[cfg(test)]
mod tests;
