//! Reading for a session: one partition's log, and a wake-up when it grows.

use std::{collections::HashMap, sync::Arc};

use aqueduct_storage::{Batch, Offset, Window};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{oneshot, watch};

use super::{
    keys::{self, Among, KeyedBatch, Retries, Unpacker},
    lines::Lines,
    message::Loss,
    session::{Session, Turn, WallClock},
};
use crate::{
    clock::Clock,
    engine::{PartitionLog, ReadError},
    groups::{error::GroupError, sources::Sources, state::REDRIVEN},
    outgoing::Allowance,
    partition::Partition,
};

/// The logs that a session reads. At most one read that has to wait is under way; what memory has is read at once.
pub(super) struct Feeds {
    sources: Sources,
    feeds: HashMap<u32, Feed>,
    /// Resolve to the partition whose window has moved.
    wakes: FuturesUnordered<BoxFuture<'static, Option<u32>>>,
    reading: Option<BoxFuture<'static, Read>>,
    unpacker: Unpacker,
    clock: Clock,
}

/// One partition.
struct Feed {
    generation: u64,
    partition: Arc<Partition>,
    log: Arc<dyn PartitionLog>,
    window: watch::Receiver<Window>,
    /// Dropping it ends the wake-up that waits.
    waiting: Option<oneshot::Sender<()>>,
}

/// What [`Feeds::next`] has seen.
pub(super) enum Happened {
    /// A read has ended.
    Read(Read),
    /// The window of this partition has moved.
    Moved(u32),
}

/// A read that has ended.
pub(super) struct Read {
    turn: Turn,
    allowance: Allowance,
    outcome: Result<Vec<KeyedBatch>, ReadError>,
    /// As it takes memory.
    bytes: usize,
    high_watermark: Offset,
}

impl Feeds {
    pub(super) fn new(sources: Sources, unpacker: Unpacker, clock: Clock) -> Self {
        Self { sources, feeds: HashMap::new(), wakes: FuturesUnordered::new(), reading: None, unpacker, clock }
    }

    /// Begins to read a partition that `session` has got.
    pub(super) fn start(&mut self, partition: u32, session: &mut Session) {
        let Some(generation) = session.generation(partition) else { return };
        let found = self.sources.partition(partition).and_then(|found| Ok((Arc::clone(found.log()?), found)));
        match found {
            Ok((log, found)) => {
                let window = log.watch();
                self.feeds.insert(partition, Feed { generation, partition: found, log, window, waiting: None });
                session.queue(partition);
            }
            Err(error) => session.fail(partition, generation, error),
        }
    }

    /// Lets go of partitions that `session` has no more.
    pub(super) fn retain(&mut self, session: &Session) {
        self.feeds.retain(|partition, feed| session.generation(*partition) == Some(feed.generation));
    }

    /// Reads what is next in turn and hands it to `session`, until it wants no more or the disk has to be asked.
    pub(super) fn pump(&mut self, session: &mut Session, lines: &mut Lines) {
        while self.reading.is_none() {
            let Some(turn) = session.next_turn(self.clock.now()) else { return };
            let Some(feed) = self.feeds.get_mut(&turn.partition) else { continue };
            let window = *feed.window.borrow_and_update();
            if turn.cursor < window.log_start {
                session.gap(turn, window.log_start, Loss::Retention);
                continue;
            }
            let batch_bytes = feed.partition.batch_bytes();
            let Some(allowance) = lines.try_allowance(turn.seat, turn.bytes_max, batch_bytes) else {
                // The client has not taken what was read for it.
                session.hold(turn.seat);
                session.queue(turn.partition);
                continue;
            };
            let high_watermark = window.high_watermark;
            // The log is asked even where nothing new was heard of: what was read before may have been ahead of the news.
            match feed.log.read_now(turn.cursor, allowance.bytes()) {
                Some(Ok(batches)) if batches.is_empty() => {
                    self.wakes.extend(feed.wake(turn.partition));
                    session.read_to_the_end(turn.partition);
                }
                Some(outcome) => {
                    let read = Plain { turn, allowance, outcome, high_watermark }.measured(&feed.partition);
                    match read.keyed_at_once(session, among(turn, &self.sources, &self.clock)) {
                        Ok(read) => self.hand_over(read, session, lines),
                        Err(read) => {
                            self.reading =
                                Some(read.keyed(among(turn, &self.sources, &self.clock), self.unpacker.clone()).boxed())
                        }
                    }
                }
                None if turn.cursor == high_watermark => {
                    self.wakes.extend(feed.wake(turn.partition));
                    session.read_to_the_end(turn.partition);
                }
                None => {
                    let read = feed.log.read(turn.cursor, allowance.bytes());
                    let partition = Arc::clone(&feed.partition);
                    let (keeps_keys, among) = (session.keeps_keys(), among(turn, &self.sources, &self.clock));
                    let unpacker = self.unpacker.clone();
                    let read = async move {
                        let outcome = read.await;
                        let read = Plain { turn, allowance, outcome, high_watermark }.measured(&partition);
                        if keeps_keys { read.keyed(among, unpacker).await } else { read.without_keys() }
                    };
                    self.reading = Some(read.boxed());
                }
            }
        }
    }

    /// Resolves when a read has ended or a window has moved. Cancel-safe.
    pub(super) async fn next(&mut self) -> Happened {
        let Self { reading, wakes, feeds, .. } = self;
        loop {
            tokio::select! {
                read = ended(reading) => return Happened::Read(read),
                Some(woken) = wakes.next(), if !wakes.is_empty() => {
                    let Some(partition) = woken else { continue };
                    if let Some(feed) = feeds.get_mut(&partition) {
                        feed.waiting = None;
                    }
                    return Happened::Moved(partition);
                }
            }
        }
    }

    /// Hands what was read to `session`.
    pub(super) fn hand_over(&mut self, read: Read, session: &mut Session, lines: &Lines) {
        let Read { turn, allowance, outcome, bytes, high_watermark } = read;
        if outcome.is_ok() {
            // They go with whatever is sent next, so that they come back a little early, but never while nothing is taken.
            lines.send(turn.seat, allowance, bytes);
        }
        match outcome {
            Ok(batches) => session.deliver(turn, batches, high_watermark, self.clock.now()),
            Err(ReadError::OutOfRange { window, .. }) if turn.cursor < window.log_start => {
                session.gap(turn, window.log_start, Loss::Retention);
            }
            Err(ReadError::OutOfRange { window, .. }) => {
                session.fail(turn.partition, turn.generation, beyond(turn, window));
            }
            Err(ReadError::Damaged { from, to, what }) if to > turn.cursor => {
                tracing::error!(
                    topic = self.sources.topic.meta().name,
                    partition = turn.partition,
                    from,
                    to,
                    "damaged offsets cannot be delivered: {what}"
                );
                session.gap(turn, to, Loss::Damage);
            }
            Err(ReadError::Lost { to, .. }) if to > turn.cursor => session.gap(turn, to, Loss::Damage),
            Err(source @ (ReadError::Damaged { .. } | ReadError::Lost { .. } | ReadError::Failed(_))) => {
                let topic = self.sources.topic.meta().name.clone();
                let error = GroupError::Read { topic, partition: turn.partition, source };
                session.fail(turn.partition, turn.generation, error);
            }
        }
    }
}

/// A read of which nobody knows the keys yet.
struct Plain {
    turn: Turn,
    allowance: Allowance,
    outcome: Result<Vec<Batch>, ReadError>,
    high_watermark: Offset,
}

/// As [`Plain`], and how much it is.
struct Measured {
    read: Plain,
    bytes: usize,
}

impl Plain {
    fn measured(self, partition: &Partition) -> Measured {
        let bytes = self.outcome.as_ref().map_or(0, |batches| partition.bytes_of(batches));
        Measured { read: self, bytes }
    }
}

impl Measured {
    /// With keys, if `session` needs them and they are found quickly.
    fn keyed_at_once(self, session: &Session, among: Among) -> Result<Read, Self> {
        if !session.keeps_keys() {
            return Ok(self.without_keys());
        }
        let is_quick = self.read.outcome.as_ref().is_ok_and(|batches| batches.iter().all(keys::is_quick));
        if is_quick { Ok(self.into_read(|batches| keys::with_keys(batches, among))) } else { Err(self) }
    }

    async fn keyed(self, among: Among, unpacker: Unpacker) -> Read {
        let Self { read: Plain { turn, allowance, outcome, high_watermark }, bytes } = self;
        let outcome = match outcome {
            Ok(batches) if batches.iter().all(keys::is_quick) => Ok(keys::with_keys(batches, among)),
            Ok(batches) => Ok(unpacker.with_keys(batches, among).await),
            Err(error) => Err(error),
        };
        Read { turn, allowance, outcome, bytes, high_watermark }
    }

    fn without_keys(self) -> Read {
        self.into_read(|batches| batches.into_iter().map(KeyedBatch::from).collect())
    }

    fn into_read(self, keys: impl FnOnce(Vec<Batch>) -> Vec<KeyedBatch>) -> Read {
        let Self { read: Plain { turn, allowance, outcome, high_watermark }, bytes } = self;
        Read { turn, allowance, outcome: outcome.map(keys), bytes, high_watermark }
    }
}

/// Where the records of `turn` are, as of now.
fn among(turn: Turn, sources: &Sources, clock: &Clock) -> Among {
    match turn.partition {
        REDRIVEN => {
            let now = WallClock { at: clock.now(), at_us: clock.now_us() };
            Among::Retries(Retries { now, since_us: sources.topic.meta().created_us })
        }
        _ => Among::Published,
    }
}

async fn ended(reading: &mut Option<BoxFuture<'static, Read>>) -> Read {
    let Some(under_way) = reading else { return std::future::pending().await };
    let read = under_way.await;
    *reading = None;
    read
}

impl Feed {
    /// Waits for the window to move beyond what was seen last, unless something waits already.
    fn wake(&mut self, partition: u32) -> Option<BoxFuture<'static, Option<u32>>> {
        if self.waiting.is_some() {
            return None;
        }
        let (waiting, stop) = oneshot::channel();
        self.waiting = Some(waiting);
        let mut window = self.window.clone();
        let moved = async move {
            tokio::select! {
                changed = window.changed() => match changed {
                    Ok(()) => Some(partition),
                    // The log is closed. Whoever closed it ends this member, too.
                    Err(_) => std::future::pending().await,
                },
                _ = stop => None,
            }
        };
        Some(moved.boxed())
    }
}

fn beyond(turn: Turn, window: Window) -> GroupError {
    let Window { log_start, high_watermark } = window;
    GroupError::OutOfRange { partition: turn.partition, offset: turn.cursor, log_start, high_watermark }
}
