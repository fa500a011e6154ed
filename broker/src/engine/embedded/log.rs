//! A partition's log on this machine's disk: the asynchronous face of the synchronous writer.
//!
//! The writer is owned by whoever does its next turn: it lies in [`Desk`] while there is nothing to do, and travels
//! with the [`WriterTurn`] to a thread of the pool while there is. Commands that arrive meanwhile wait on the desk, and
//! the appends among them become the next group: one write, one sync. No timer forms groups; the disk does.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use aqueduct_storage::{
    self as storage, Batch, BatchHeader, CompactionPolicy, DataDir, Durability, Installed, LogOptions, LogReader,
    Offset, PartitionLog as Writer, Rewritten, Window,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    compaction,
    io_pool::{IoQueue, Turn},
    sync::{Mutex, spawn_blocking},
    verify,
};
use crate::engine::{
    AppendError, Compacted, EngineError, EngineLimits, Lease, PartitionLog, PartitionStats, ReadError, Shelter,
    Verified, VerifyEvent,
};

/// Bytes after which a group is written although more is waiting. Bounds the time to the next acknowledgement.
const GROUP_BYTES_MAX: u64 = 16 << 20;

/// Commands that may wait for the writer. The owner keeps far below it.
const COMMANDS_MAX: usize = 4096;

/// See the [module](self).
pub(super) struct EmbeddedLog {
    shared: Arc<Shared>,
}

struct Shared {
    desk: Mutex<Desk>,
    io: IoQueue,
    reader: LogReader,
    window: watch::Sender<Window>,
    epoch: AtomicU32,
    durability: Mutex<Durability>,
    segment_bytes: AtomicU64,
    compaction: compaction::Turn,
    data: Arc<DataDir>,
    checkpoint_path: PathBuf,
}

/// What waits, and the writer while it does nothing.
struct Desk {
    commands: VecDeque<Command>,
    place: WriterPlace,
}

enum WriterPlace {
    Idle(Box<Writer>),
    Working,
    /// Closed, or lost in a panic or with the pool: nothing is taken any more.
    Gone,
}

enum Command {
    Append(Append),
    Acquire(oneshot::Sender<Result<Lease, EngineError>>),
    Trim(Offset, oneshot::Sender<Result<Offset, EngineError>>),
    Retention(i64, oneshot::Sender<Result<(), EngineError>>),
    Roll(oneshot::Sender<Result<(), EngineError>>),
    Install(Box<Rewritten>, oneshot::Sender<Result<Installed, EngineError>>),
    Options(Box<LogOptions>),
    Close(oneshot::Sender<Result<(), EngineError>>),
}

struct Append {
    lease: Lease,
    expected_offset: Offset,
    batches: Vec<Batch>,
    done: oneshot::Sender<Result<(), AppendError>>,
}

impl EmbeddedLog {
    pub(super) fn new(writer: Writer, io: IoQueue, data: Arc<DataDir>, checkpoint_path: PathBuf) -> Self {
        let reader = writer.reader();
        let shared = Shared {
            io,
            window: watch::Sender::new(reader.window()),
            reader,
            epoch: AtomicU32::new(writer.epoch()),
            durability: Mutex::new(writer.options().durability),
            segment_bytes: AtomicU64::new(writer.options().segment_bytes),
            compaction: compaction::Turn::default(),
            desk: Mutex::new(Desk { commands: VecDeque::new(), place: WriterPlace::Idle(Box::new(writer)) }),
            data,
            checkpoint_path,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Puts new settings into force, in order with the appends.
    pub(super) fn set_options(&self, options: LogOptions) {
        *self.shared.durability.lock() = options.durability;
        self.shared.segment_bytes.store(options.segment_bytes, Ordering::Relaxed);
        // A writer that is gone has no use for settings.
        let _ = self.shared.submit(Command::Options(Box::new(options)));
    }

    fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, EngineError>>) -> Command,
    ) -> BoxFuture<'static, Result<T, EngineError>> {
        self.shared.call(command)
    }

    fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&LogReader) -> Result<T, storage::ReadError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, ReadError>> {
        let reader = self.shared.reader.clone();
        spawn_blocking(move || read(&reader).map_err(ReadError::from))
            .map(|joined| joined.unwrap_or_else(|e| Err(ReadError::Failed(e.to_string()))))
            .boxed()
    }
}

impl PartitionLog for EmbeddedLog {
    fn acquire(&self) -> BoxFuture<'static, Result<Lease, EngineError>> {
        self.call(Command::Acquire)
    }

    fn append(
        &self,
        lease: Lease,
        expected_offset: Offset,
        batches: Vec<Batch>,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        let (done, answer) = oneshot::channel();
        let append = Append { lease, expected_offset, batches, done };
        if self.shared.submit(Command::Append(append)).is_err() {
            return futures_util::future::ready(Err(AppendError::Closed("it has been closed"))).boxed();
        }
        let (asked, io) = (Instant::now(), self.shared.io.clone());
        async move {
            let answered = io.lookout().wait(asked, answer).await;
            // The writer is dropped without an answer only by a panic, in the middle of whatever it was doing.
            answered.unwrap_or_else(|_| Err(AppendError::Unknown("the writer of the log has stopped".into())))
        }
        .boxed()
    }

    fn resolve_unknown(
        &self,
        _lease: Lease,
        offset: Offset,
        payload_crc: u32,
    ) -> BoxFuture<'static, Result<Option<Offset>, EngineError>> {
        // `acquire` has cut everything that was not acknowledged, so a batch is there only if it was.
        let headers = self.headers(offset, 1);
        async move {
            match headers.await {
                Ok(headers) => Ok(headers
                    .first()
                    .filter(|header| header.base_offset == offset && header.payload_crc == payload_crc)
                    .map(|header| header.base_offset)),
                Err(ReadError::OutOfRange { .. }) => Ok(None),
                Err(error) => Err(EngineError(error.to_string())),
            }
        }
        .boxed()
    }

    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'static, Result<Vec<Batch>, ReadError>> {
        if let Some(cached) = self.read_now(from, bytes_max) {
            return futures_util::future::ready(cached).boxed();
        }
        self.blocking(move |reader| reader.read(from, bytes_max))
    }

    fn read_now(&self, from: Offset, bytes_max: usize) -> Option<Result<Vec<Batch>, ReadError>> {
        self.shared.reader.read_cached(from, bytes_max).map_err(ReadError::from).transpose()
    }

    fn headers(&self, from: Offset, count_max: usize) -> BoxFuture<'static, Result<Vec<BatchHeader>, ReadError>> {
        self.blocking(move |reader| reader.headers(from, count_max))
    }

    fn watch(&self) -> watch::Receiver<Window> {
        self.shared.window.subscribe()
    }

    fn offset_for_time(&self, time_us: i64) -> BoxFuture<'static, Result<Option<Offset>, ReadError>> {
        self.blocking(move |reader| reader.offset_for_time(time_us))
    }

    fn append_time_at(&self, offset: Offset) -> BoxFuture<'static, Result<Option<i64>, ReadError>> {
        self.blocking(move |reader| reader.append_time_at(offset))
    }

    fn bytes_between(&self, from: Offset, to: Offset) -> BoxFuture<'static, Result<u64, ReadError>> {
        self.blocking(move |reader| reader.bytes_between(from, to))
    }

    fn shelter(&self, offset: Offset) -> Shelter {
        let reader = &self.shared.reader;
        let segment_bytes = self.shared.segment_bytes.load(Ordering::Relaxed);
        // The group that does not fit any more goes into the next segment.
        let until_full = |bytes: u64| segment_bytes.saturating_sub(bytes).saturating_sub(GROUP_BYTES_MAX);
        Shelter {
            bytes_after: reader.bytes_after_segment_of(offset),
            bytes_until_sealed: reader.last_segment_bytes_with(offset).map_or(0, until_full),
        }
    }

    fn trim(&self, before: Offset) -> BoxFuture<'static, Result<Offset, EngineError>> {
        self.call(|done| Command::Trim(before, done))
    }

    fn enforce_retention(&self, now_us: i64) -> BoxFuture<'static, Result<(), EngineError>> {
        self.call(|done| Command::Retention(now_us, done))
    }

    fn compact(&self, policy: CompactionPolicy) -> BoxFuture<'static, Result<Compacted, EngineError>> {
        let shared = Arc::clone(&self.shared);
        let (reader, segment_bytes) = (shared.reader.clone(), shared.segment_bytes.load(Ordering::Relaxed));
        let job = compaction::Job { reader, policy, segment_bytes, turn: shared.compaction.clone() };
        let writer = Arc::clone(&shared);
        let roll = move || writer.call(Command::Roll);
        let install = move |rewritten| shared.call(|done| Command::Install(Box::new(rewritten), done));
        job.run(roll, install).boxed()
    }

    fn load_checkpoint(&self) -> BoxFuture<'static, Result<Option<Bytes>, EngineError>> {
        let (data, path) = (Arc::clone(&self.shared.data), self.shared.checkpoint_path.clone());
        super::blocking(move || Ok(data.read_file(&path)?.map(Bytes::from)))
    }

    fn save_checkpoint(&self, state: Bytes) -> BoxFuture<'static, Result<(), EngineError>> {
        let (data, path) = (Arc::clone(&self.shared.data), self.shared.checkpoint_path.clone());
        super::blocking(move || data.write_file_atomic(&path, &state))
    }

    fn verify(&self, events: mpsc::Sender<VerifyEvent>) -> BoxFuture<'static, Result<Verified, EngineError>> {
        let (reader, data) = (self.shared.reader.clone(), Arc::clone(&self.shared.data));
        let checkpoint_path = self.shared.checkpoint_path.clone();
        super::blocking(move || verify::verify(&reader, &data, &checkpoint_path, events))
    }

    fn stats(&self) -> PartitionStats {
        PartitionStats {
            size_bytes: self.shared.reader.size_bytes(),
            segments: u32::try_from(self.shared.reader.segment_count()).unwrap_or(u32::MAX),
            epoch: self.shared.epoch.load(Ordering::Relaxed),
        }
    }

    fn durability(&self) -> Durability {
        *self.shared.durability.lock()
    }

    fn limits(&self) -> EngineLimits {
        EngineLimits { batch_bytes_max: 64 << 20, append_batches_max: 4096 }
    }

    fn close(&self) -> BoxFuture<'static, Result<(), EngineError>> {
        let shared = Arc::clone(&self.shared);
        async move {
            // What it has not put in place it takes away: first, while the directory is this log's.
            shared.compaction.end().await;
            shared.call(Command::Close).await
        }
        .boxed()
    }
}

/// The command was not taken: the log is closed, or its queue is full.
struct NotTaken;

impl Shared {
    fn call<T: Send + 'static>(
        self: &Arc<Self>,
        command: impl FnOnce(oneshot::Sender<Result<T, EngineError>>) -> Command,
    ) -> BoxFuture<'static, Result<T, EngineError>> {
        let (done, answer) = oneshot::channel();
        let submitted = self.submit(command(done));
        async move {
            if submitted.is_err() {
                return Err(EngineError("the log is closed".into()));
            }
            answer.await.unwrap_or_else(|_| Err(EngineError("the writer of the log has stopped".into())))
        }
        .boxed()
    }

    /// Queues a command, and sends the writer on its way if it lies idle.
    fn submit(self: &Arc<Self>, command: Command) -> Result<(), NotTaken> {
        let mut desk = self.desk.lock();
        // Appends are bounded by their owner, which has few in flight; whoever else calls is not.
        let is_full = desk.commands.len() >= COMMANDS_MAX && !matches!(command, Command::Append(_));
        if matches!(desk.place, WriterPlace::Gone) || is_full {
            return Err(NotTaken);
        }
        desk.commands.push_back(command);
        match std::mem::replace(&mut desk.place, WriterPlace::Working) {
            WriterPlace::Idle(writer) => {
                drop(desk);
                self.io.push(Box::new(WriterTurn { writer: Some(writer), shared: Arc::clone(self) }));
            }
            other => desk.place = other,
        }
        Ok(())
    }

    /// Takes nothing more; what waits learns that it will not be done.
    fn shut(&self) {
        let waiting = {
            let mut desk = self.desk.lock();
            desk.place = WriterPlace::Gone;
            std::mem::take(&mut desk.commands)
        };
        drop(waiting);
    }

    fn publish_window(&self) {
        let window = self.reader.window();
        self.window.send_if_modified(|current| std::mem::replace(current, window) != window);
    }
}

/// The writer with what waits for it, on a thread of the pool.
struct WriterTurn {
    /// `None` once it lies on the desk again, or is closed.
    writer: Option<Box<Writer>>,
    shared: Arc<Shared>,
}

impl Turn for WriterTurn {
    fn run(mut self: Box<Self>) -> Option<Box<dyn Turn>> {
        let group = self.next_group();
        if !group.is_empty() {
            self.append(group);
        } else if let Some(command) = self.next_command() {
            self.execute(command);
        }
        self.rest_or_go_on()
    }
}

impl WriterTurn {
    /// The appends at the head of the queue, up to [`GROUP_BYTES_MAX`].
    fn next_group(&self) -> Vec<Append> {
        let mut desk = self.shared.desk.lock();
        let mut group = Vec::new();
        let mut group_bytes = 0;
        while group_bytes < GROUP_BYTES_MAX
            && let Some(command) = desk.commands.pop_front()
        {
            match command {
                Command::Append(append) => {
                    group_bytes += append.batches.iter().map(Batch::stored_bytes).sum::<u64>();
                    group.push(append);
                }
                other => {
                    desk.commands.push_front(other);
                    break;
                }
            }
        }
        group
    }

    fn next_command(&self) -> Option<Command> {
        self.shared.desk.lock().commands.pop_front()
    }

    fn append(&mut self, group: Vec<Append>) {
        let Some(writer) = self.writer.as_mut() else { return };
        let mut tail = writer.log_end();
        let mut waiters = Vec::with_capacity(group.len());
        let mut batches = Vec::with_capacity(group.iter().map(|append| append.batches.len()).sum());
        for append in group {
            if append.lease.epoch != writer.epoch() {
                let _ = append.done.send(Err(AppendError::Fenced { epoch: writer.epoch() }));
            } else if append.expected_offset != tail || writer.is_failed() {
                let _ = append.done.send(Err(AppendError::TailMoved { tail }));
            } else {
                tail = append.batches.last().map_or(tail, |batch| batch.header.next_offset());
                batches.extend(append.batches);
                waiters.push(append.done);
            }
        }
        if batches.is_empty() {
            waiters.into_iter().for_each(|done| drop(done.send(Ok(()))));
            return;
        }
        let segments = self.shared.reader.segment_count();
        let outcome = writer.append_group(&batches).map_err(AppendError::from);
        // Whoever holds an acknowledgement can fetch the record: the window moves first.
        self.shared.publish_window();
        for done in waiters {
            let _ = done.send(outcome.clone());
        }
        if self.shared.reader.segment_count() > segments {
            self.remove_surplus();
        }
    }

    /// Retention by bytes, as soon as there is a segment more. Left to its next round, a busy log exceeds its bytes by
    /// gigabytes, and whoever publishes waits a second until they are removed, 60 ms for each segment that is in memory.
    fn remove_surplus(&mut self) {
        let Some(writer) = self.writer.as_mut() else { return };
        if let Err(error) = writer.enforce_retention_bytes() {
            tracing::error!("retention failed: {error}");
        }
        self.shared.publish_window();
    }

    fn execute(&mut self, command: Command) {
        let Some(writer) = self.writer.as_mut() else { return };
        match command {
            Command::Append(append) => self.append(vec![append]),
            Command::Acquire(done) => {
                let lease = acquire(writer);
                self.shared.epoch.store(writer.epoch(), Ordering::Relaxed);
                self.shared.publish_window();
                let _ = done.send(lease);
            }
            Command::Trim(before, done) => {
                let trimmed = writer.trim(before).map_err(EngineError::from);
                self.shared.publish_window();
                let _ = done.send(trimmed);
            }
            Command::Retention(now_us, done) => {
                let outcome = writer.enforce_retention(now_us).map(|_| ()).map_err(EngineError::from);
                self.shared.publish_window();
                let _ = done.send(outcome);
            }
            Command::Roll(done) => {
                let _ = done.send(writer.roll().map_err(EngineError::from));
            }
            Command::Install(rewritten, done) => {
                let _ = done.send(writer.install(*rewritten).map_err(EngineError::from));
            }
            Command::Options(options) => writer.set_options(*options),
            Command::Close(done) => {
                // First: whatever happens while it closes, nobody waits for a turn that never comes.
                self.shared.shut();
                let closed = self.writer.take().map_or(Ok(()), |writer| writer.close().map_err(EngineError::from));
                let _ = done.send(closed);
            }
        }
    }

    /// Lays the writer back on the desk, unless something waits there.
    fn rest_or_go_on(mut self: Box<Self>) -> Option<Box<dyn Turn>> {
        let shared = Arc::clone(&self.shared);
        let mut desk = shared.desk.lock();
        if self.writer.is_some() && !desk.commands.is_empty() {
            return Some(self);
        }
        // From here on the next turn owns the writer: this one must leave the desk alone.
        if let Some(writer) = self.writer.take() {
            desk.place = WriterPlace::Idle(writer);
        }
        None
    }
}

impl Drop for WriterTurn {
    fn drop(&mut self) {
        // Only a panic, or the end of the pool, drops a turn that still has the writer: the log must be opened again.
        if self.writer.is_some() {
            self.shared.shut();
        }
    }
}

fn acquire(writer: &mut Writer) -> Result<Lease, EngineError> {
    if writer.is_failed() {
        writer.recover_from_failure()?;
    }
    let epoch = writer.raise_epoch()?;
    Ok(Lease { epoch, tail: writer.log_end(), last_append_time_us: writer.last_append_time_us() })
}
