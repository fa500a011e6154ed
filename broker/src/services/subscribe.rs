//! Streaming a topic: history first, then live, from every partition in turns.
//!
//! The reader keeps a cursor per partition and nothing else. A batch is read when the connection can take it: a slow
//! subscriber costs its share of [outgoing memory](crate::outgoing) and holds nobody up.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use aqueduct_proto::v1::{self, subscribe_response::Event};
use aqueduct_storage::{Offset, Window};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::Status;

use super::{convert, draining_status, fetch::read_error};
use crate::{
    BrokerCore,
    engine::{PartitionLog, ReadError},
    error::{FetchError, TopicError},
    outgoing::{Allowance, Outgoing},
    partition::Partition,
    status,
    topics::Topic,
};

/// What one partition sends before it is another one's turn, in bytes.
const TURN_BYTES: usize = 256 << 10;

const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(10);
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

type Response = Result<v1::SubscribeResponse, Status>;

/// Opens a subscription.
///
/// # Errors
/// Anything that is wrong with the request, [`ReadError::OutOfRange`] for a start above the high watermark among it.
pub(super) async fn subscribe(
    core: &Arc<BrokerCore>,
    outgoing: Outgoing,
    request: v1::SubscribeRequest,
) -> Result<BoxStream<'static, Response>, FetchError> {
    let topic = core.topics.find(&request.topic)?;
    topic.check_id(&request.topic_id)?;
    let mut cursors = Vec::new();
    for wanted in wanted_partitions(&topic, &request) {
        let partition = topic.partition(wanted.partition)?;
        let log = Arc::clone(partition.log()?);
        let window = *log.watch().borrow();
        let offset = resolve(&partition, &*log, wanted.start, window).await?;
        let end = wanted.end_offset.or(request.until_end.then_some(window.high_watermark));
        cursors.push(Cursor { partition, window: log.watch(), log, offset, end, live: false });
    }
    let heartbeat = match request.heartbeat_ms {
        0 => HEARTBEAT_DEFAULT,
        ms => Duration::from_millis(ms.into()).max(HEARTBEAT_MIN),
    };
    let started = started(&topic, &cursors);
    let subscriber = Subscriber {
        ready: (0..cursors.len()).collect(),
        open: cursors.len(),
        cursors,
        idle: FuturesUnordered::new(),
        outbox: VecDeque::from([started]),
        heartbeat,
        deleted: topic.deleted(),
        draining: core.draining(),
        topic: topic.meta().name.clone(),
        outgoing,
        ended: false,
    };
    Ok(stream::unfold(subscriber, |mut subscriber| async move { Some((subscriber.next().await?, subscriber)) }).boxed())
}

/// The partitions of the request with their starts; all of the topic's if it names none.
fn wanted_partitions(topic: &Topic, request: &v1::SubscribeRequest) -> Vec<v1::PartitionStart> {
    let start_of = |start: Option<v1::Start>| start.or(request.start);
    if request.partitions.is_empty() {
        let all = 0..topic.meta().partitions;
        return all
            .map(|partition| v1::PartitionStart { partition, start: start_of(None), end_offset: None })
            .collect();
    }
    let wanted = request.partitions.iter();
    wanted.map(|one| v1::PartitionStart { start: start_of(one.start), ..*one }).collect()
}

/// The offset at which a start lies now; absent means latest.
pub(crate) async fn resolve(
    partition: &Partition,
    log: &dyn PartitionLog,
    start: Option<v1::Start>,
    window: Window,
) -> Result<Offset, FetchError> {
    match start.and_then(|start| start.at) {
        None | Some(v1::start::At::Latest(_)) => Ok(window.high_watermark),
        Some(v1::start::At::Earliest(_)) => Ok(window.log_start),
        Some(v1::start::At::TimeUs(time_us)) => {
            let offset = log.offset_for_time(time_us).await.map_err(|source| read_error(partition, source))?;
            Ok(offset.unwrap_or(window.high_watermark))
        }
        Some(v1::start::At::Offset(requested)) if requested > window.high_watermark => {
            Err(read_error(partition, ReadError::OutOfRange { requested, window }))
        }
        // One below the log start is answered with a gap.
        Some(v1::start::At::Offset(requested)) => Ok(requested),
    }
}

fn started(topic: &Topic, cursors: &[Cursor]) -> v1::SubscribeResponse {
    let position = |cursor: &Cursor| v1::PartitionPosition {
        partition: cursor.partition.index(),
        offset: cursor.offset,
        end_offset: cursor.end,
    };
    let positions = cursors.iter().map(position).collect();
    let topic_id = topic.meta().id.to_vec().into();
    let event = Some(Event::Started(v1::SubscriptionStarted { topic_id, positions }));
    v1::SubscribeResponse { event, ..v1::SubscribeResponse::default() }
}

/// Where a subscription stands in one partition.
struct Cursor {
    partition: Arc<Partition>,
    log: Arc<dyn PartitionLog>,
    window: watch::Receiver<Window>,
    /// The next offset to send.
    offset: Offset,
    /// Exclusive.
    end: Option<Offset>,
    /// Has been told that it is caught up, and has not fallen behind by more than a turn since.
    live: bool,
}

/// What a turn of a cursor left.
enum After {
    /// There is more to read.
    Ready,
    /// At the high watermark.
    Idle,
    /// At its end, or broken.
    Done,
}

struct Subscriber {
    topic: String,
    cursors: Vec<Cursor>,
    /// Cursors with something to read, in order of their turns.
    ready: VecDeque<usize>,
    /// Resolves to the cursor whose window has moved.
    idle: FuturesUnordered<BoxFuture<'static, usize>>,
    /// Cursors that are not done.
    open: usize,
    /// Answers of the last turn: at most three.
    outbox: VecDeque<v1::SubscribeResponse>,
    heartbeat: Duration,
    deleted: watch::Receiver<bool>,
    draining: watch::Receiver<bool>,
    outgoing: Outgoing,
    ended: bool,
}

impl Subscriber {
    async fn next(&mut self) -> Option<Response> {
        let silent_until = Instant::now() + self.heartbeat;
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Some(Ok(response));
            }
            if self.ended || self.open == 0 {
                return None;
            }
            if *self.draining.borrow() {
                return self.end(draining_status());
            }
            if *self.deleted.borrow() {
                return self.end(TopicError::Unknown(self.topic.clone()).into());
            }
            if let Some(&index) = self.ready.front() {
                tokio::select! {
                    biased;
                    allowance = self.outgoing.allowance(TURN_BYTES, self.cursors[index].partition.batch_bytes()) => {
                        self.ready.pop_front();
                        self.turn(index, allowance).await;
                    }
                    _ = self.deleted.changed() => {}
                    _ = self.draining.changed() => {}
                    () = sleep_until(silent_until) => return Some(Ok(heartbeat())),
                }
                continue;
            }
            tokio::select! {
                biased;
                Some(index) = self.idle.next(), if !self.idle.is_empty() => self.ready.push_back(index),
                // What has changed is looked at above.
                _ = self.deleted.changed() => {}
                _ = self.draining.changed() => {}
                () = sleep_until(silent_until) => return Some(Ok(heartbeat())),
            }
        }
    }

    fn end(&mut self, status: Status) -> Option<Response> {
        self.ended = true;
        Some(Err(status))
    }

    async fn turn(&mut self, index: usize, allowance: Allowance) {
        let cursor = &mut self.cursors[index];
        match cursor.turn(&mut self.outbox, &self.outgoing, allowance).await {
            After::Ready => self.ready.push_back(index),
            After::Done => self.open -= 1,
            After::Idle => {
                let mut window = cursor.window.clone();
                let offset = cursor.offset;
                let moved = async move {
                    // The sender lives as long as the log; without it the topic is gone, which is noticed elsewhere.
                    if window
                        .wait_for(|window| window.high_watermark > offset || window.log_start > offset)
                        .await
                        .is_err()
                    {
                        futures_util::future::pending::<()>().await;
                    }
                    index
                };
                self.idle.push(moved.boxed());
            }
        }
    }
}

fn heartbeat() -> v1::SubscribeResponse {
    let event = Some(Event::Heartbeat(v1::Heartbeat {}));
    v1::SubscribeResponse { event, ..v1::SubscribeResponse::default() }
}

impl Cursor {
    async fn turn(
        &mut self,
        outbox: &mut VecDeque<v1::SubscribeResponse>,
        outgoing: &Outgoing,
        allowance: Allowance,
    ) -> After {
        if self.end.is_some_and(|end| self.offset >= end) {
            outbox.push_back(self.response(Event::End(v1::End {})));
            return After::Done;
        }
        let read = match self.log.read_now(self.offset, allowance.bytes()) {
            Some(read) => read,
            None => self.log.read(self.offset, allowance.bytes()).await,
        };
        match read {
            Ok(batches) if batches.is_empty() => {
                if !std::mem::replace(&mut self.live, true) {
                    outbox.push_back(self.response(Event::CaughtUp(v1::CaughtUp {})));
                }
                After::Idle
            }
            Ok(batches) => {
                self.offset = batches.last().map_or(self.offset, |last| last.header.next_offset());
                outgoing.send(allowance, self.partition.bytes_of(&batches));
                let batches = batches.into_iter().map(convert::batch_to_wire).collect();
                outbox.push_back(self.response(Event::Batches(v1::BatchSet { batches })));
                let behind = self.offset < self.window.borrow().high_watermark;
                self.live &= !behind;
                // A live reader goes back to waiting without being told again.
                if behind || !self.live || self.end.is_some() { After::Ready } else { After::Idle }
            }
            Err(ReadError::OutOfRange { window, .. }) if self.offset < window.log_start => {
                let reason = v1::gap::Reason::Retention.into();
                let gap = v1::Gap { from: self.offset, to: window.log_start, reason };
                self.offset = window.log_start;
                outbox.push_back(self.response(Event::Gap(gap)));
                After::Ready
            }
            Err(ReadError::Damaged { from, to, what }) if to > self.offset => {
                tracing::error!(
                    topic = self.partition.topic_name(),
                    partition = self.partition.index(),
                    from,
                    to,
                    "damaged offsets cannot be delivered: {what}"
                );
                // Named, and then the rest: damage must not keep what lies behind it from anybody.
                let gap = v1::Gap { from: self.offset.max(from), to, reason: v1::gap::Reason::Damaged.into() };
                self.offset = to;
                outbox.push_back(self.response(Event::Gap(gap)));
                After::Ready
            }
            Err(ReadError::Lost { to, .. }) if to > self.offset => {
                let gap = v1::Gap { from: self.offset, to, reason: v1::gap::Reason::Damaged.into() };
                self.offset = to;
                outbox.push_back(self.response(Event::Gap(gap)));
                After::Ready
            }
            Err(error) => {
                let status = Status::from(read_error(&self.partition, error));
                outbox.push_back(self.response(Event::Error(status::to_message(&status))));
                After::Done
            }
        }
    }

    fn response(&self, event: Event) -> v1::SubscribeResponse {
        let window = *self.window.borrow();
        v1::SubscribeResponse {
            partition: self.partition.index(),
            event: Some(event),
            log_start: window.log_start,
            high_watermark: window.high_watermark,
        }
    }
}
