//! The stream behind a subscription: opens it, reads it, and opens it again where it stopped.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aqueduct_proto::v1::{self, subscribe_response::Event};
use bytes::Bytes;
use futures_core::Stream as _;
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Code, Status, Streaming};

use super::{Item, Position, SubscriptionStats, Window, progress::Progress};
use crate::{
    codec::EventBatch,
    error::{BrokerError, Origin, RequestError, SubscribeError},
    lifecycle::Lifecycle,
    transport::{backoff::RECONNECT, link::Link},
    types::Gap,
};

/// How long a stream may be silent before it counts as dead: three of the broker's heartbeats.
const SILENCE_MAX: Duration = Duration::from_secs(30);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Opened = Result<tonic::Response<Streaming<v1::SubscribeResponse>>, Status>;

/// What comes out: batches, and notes about everything else.
#[derive(Debug)]
pub(crate) enum Step {
    Batch(EventBatch),
    Note(Item),
}

pub(super) struct Source {
    link: Link,
    topic: Arc<str>,
    topic_id: Bytes,
    request: v1::SubscribeRequest,
    progress: Progress,
    state: State,
    closed: Boxed<()>,
    /// Of one response: bounded by the broker's response limit.
    batches: VecDeque<v1::Batch>,
    batches_partition: u32,
    /// Waits behind the gap before it.
    unpacked: Option<EventBatch>,
    notes: VecDeque<Item>,
    /// Streams that ended without a message, in a row.
    attempt: u32,
    started: Started,
    stats: SubscriptionStats,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Started {
    /// The first stream has not answered yet: failures are the builder's.
    Never,
    Once,
}

enum State {
    Idle,
    Opening(Boxed<Opened>),
    Streaming { stream: Box<Streaming<v1::SubscribeResponse>>, watchdog: Pin<Box<Sleep>> },
    Pausing(Pin<Box<Sleep>>),
    Ended,
}

impl Source {
    pub(super) fn new(link: Link, lifecycle: Lifecycle, request: v1::SubscribeRequest) -> Self {
        Self {
            link,
            topic: request.topic.as_str().into(),
            topic_id: Bytes::new(),
            request,
            progress: Progress::default(),
            state: State::Idle,
            closed: Box::pin(async move { lifecycle.closed().await }),
            batches: VecDeque::new(),
            batches_partition: 0,
            unpacked: None,
            notes: VecDeque::new(),
            attempt: 0,
            started: Started::Never,
            stats: SubscriptionStats::default(),
        }
    }

    /// Waits for the answer to the first stream.
    pub(super) fn poll_started(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SubscribeError>> {
        loop {
            if self.started == Started::Once {
                return Poll::Ready(Ok(()));
            }
            match self.poll_response(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Progressed::Yes)) => {}
                Poll::Ready(Ok(Progressed::Ended)) => return Poll::Ready(Err(RequestError::Closed.into())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub(super) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Step, SubscribeError>>> {
        loop {
            if let Some(note) = self.notes.pop_front() {
                return Poll::Ready(Some(Ok(Step::Note(note))));
            }
            if let Some(batch) = self.unpacked.take() {
                return Poll::Ready(Some(Ok(Step::Batch(batch))));
            }
            if let Some(batch) = self.batches.pop_front() {
                match self.take(batch) {
                    Some(step) => return Poll::Ready(Some(step)),
                    None => continue,
                }
            }
            match self.poll_response(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Progressed::Yes)) => {}
                Poll::Ready(Ok(Progressed::Ended)) => return Poll::Ready(None),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Checks and unpacks one batch. A gap before it is reported first.
    fn take(&mut self, batch: v1::Batch) -> Option<Result<Step, SubscribeError>> {
        let partition = self.batches_partition;
        let base = batch.base_offset;
        let mut batch = match EventBatch::new(&self.topic, partition, batch) {
            Ok(batch) => batch,
            Err(error) => {
                // The position stays before the damage: whoever goes on decides where.
                self.progress.failed(partition);
                self.batches.clear();
                return Some(Err(error.into()));
            }
        };
        let accepted = self.progress.accept(partition, base, batch.next_offset())?;
        batch.narrow(accepted.from, accepted.until);
        match accepted.gap {
            None => Some(Ok(Step::Batch(batch))),
            Some(gap) => {
                self.count(gap);
                self.unpacked = Some(batch);
                Some(Ok(Step::Note(Item::Gap(gap))))
            }
        }
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Progressed, SubscribeError>> {
        loop {
            if self.progress.is_finished() {
                self.state = State::Ended;
            }
            match &mut self.state {
                State::Ended => return Poll::Ready(Ok(Progressed::Ended)),
                State::Idle => self.state = State::Opening(self.open()),
                State::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(response)) => {
                        let stream = Box::new(response.into_inner());
                        self.state = State::Streaming { stream, watchdog: Box::pin(sleep(SILENCE_MAX)) };
                    }
                    Poll::Ready(Err(status)) => self.broken(Some(status))?,
                },
                State::Pausing(pause) => match pause.as_mut().poll(cx) {
                    Poll::Pending => break,
                    Poll::Ready(()) => self.state = State::Idle,
                },
                State::Streaming { stream, watchdog } => match Pin::new(&mut **stream).poll_next(cx) {
                    Poll::Ready(Some(Ok(response))) => {
                        watchdog.as_mut().reset(Instant::now() + SILENCE_MAX);
                        self.received(response)?;
                        return Poll::Ready(Ok(Progressed::Yes));
                    }
                    Poll::Ready(Some(Err(status))) => self.broken(Some(status))?,
                    Poll::Ready(None) => self.broken(None)?,
                    Poll::Pending => match watchdog.as_mut().poll(cx) {
                        Poll::Pending => break,
                        Poll::Ready(()) => self.broken(None)?,
                    },
                },
            }
        }
        // Only a subscription that would wait looks whether its client has been closed.
        match self.closed.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.close();
                Poll::Ready(Ok(Progressed::Ended))
            }
        }
    }

    fn open(&self) -> Boxed<Opened> {
        let mut request = self.request.clone();
        if self.started == Started::Once {
            request.topic_id = self.topic_id.clone();
            request.partitions = self.progress.resume();
            request.until_end = false; // the ends are offsets by now
        }
        let mut client = self.link.log();
        let timeout = self.link.request_timeout();
        let opening = async move {
            let opening = tokio::time::timeout(timeout, client.subscribe(request)).await;
            opening.unwrap_or_else(|_| Err(Status::deadline_exceeded("the subscription was not opened in time")))
        };
        Box::pin(opening)
    }

    fn received(&mut self, response: v1::SubscribeResponse) -> Result<(), SubscribeError> {
        let partition = response.partition;
        let window = Window { log_start: response.log_start, high_watermark: response.high_watermark };
        self.progress.window(partition, window);
        match response.event {
            Some(Event::Started(started)) => {
                self.link.report_success();
                self.topic_id = started.topic_id;
                self.progress.started(&started.positions);
                if self.started == Started::Once {
                    self.stats.reconnects += 1;
                    self.notes.push_back(Item::Reconnected);
                }
                self.started = Started::Once;
            }
            Some(Event::Batches(set)) => {
                self.attempt = 0;
                self.batches_partition = partition;
                self.batches = set.batches.into();
            }
            Some(Event::Gap(gap)) => {
                let gap = Gap::from_proto(partition, &gap);
                self.progress.gap(&gap);
                self.count(gap);
                self.notes.push_back(Item::Gap(gap));
            }
            Some(Event::CaughtUp(_)) => {
                self.notes.push_back(Item::CaughtUp { partition, high_watermark: window.high_watermark });
            }
            Some(Event::End(_)) => {
                self.progress.ended(partition);
                self.notes.push_back(Item::End { partition });
            }
            Some(Event::Error(status)) => {
                let error = BrokerError::from_proto(&status);
                if passes(error.code) {
                    self.pause();
                } else {
                    self.progress.failed(partition);
                    return Err(SubscribeError::partition(partition, error));
                }
            }
            Some(Event::Heartbeat(_)) => self.attempt = 0,
            // From a newer broker.
            None => {}
        }
        Ok(())
    }

    /// The stream is gone: for good if the broker says so, else until the next attempt.
    fn broken(&mut self, status: Option<Status>) -> Result<(), SubscribeError> {
        let error = status.map(|status| self.link.judge(status));
        let fatal = match &error {
            None => self.started == Started::Never,
            Some(error) => self.started == Started::Never || (error.origin == Origin::Broker && !passes(error.code)),
        };
        if !fatal {
            self.pause();
            return Ok(());
        }
        self.state = State::Ended;
        let error = error.unwrap_or_else(|| BrokerError::transport("the stream ended before it began"));
        Err(match crate::error::OffsetOutOfRange::parse(0, None, &error) {
            Some(out_of_range) => out_of_range.into(),
            None => RequestError::from(error).into(),
        })
    }

    fn pause(&mut self) {
        let delay = RECONNECT.jittered(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        self.state = State::Pausing(Box::pin(sleep(delay)));
    }

    fn count(&mut self, gap: Gap) {
        self.stats.gaps += 1;
        self.stats.gap_records += gap.records();
    }

    pub(super) fn close(&mut self) {
        self.state = State::Ended;
        self.batches.clear();
        self.unpacked = None;
        self.notes.clear();
    }

    pub(super) fn positions(&self) -> Vec<Position> {
        self.progress.positions()
    }

    pub(super) fn window(&self, partition: u32) -> Option<Window> {
        self.progress.window_of(partition)
    }

    pub(super) fn stats(&self) -> SubscriptionStats {
        self.stats
    }
}

enum Progressed {
    Yes,
    Ended,
}

/// Whether an error may be over at the next attempt.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Aborted | Code::Cancelled | Code::DeadlineExceeded
    )
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("topic", &self.topic)
            .field("positions", &self.positions())
            .finish_non_exhaustive()
    }
}
