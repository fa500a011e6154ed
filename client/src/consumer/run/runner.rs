//! The loop behind [`Consumer::run`]: one owner of all open deliveries; handlers are tasks that only say how they ended.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, Sleep, sleep, sleep_until, timeout_at},
};

use super::{
    RunSummary,
    failure::{Failure, Remedy},
    job::{Job, Outcome, attempt, panic_text},
    lanes::{Lane, Lanes},
};
use crate::{
    consumer::{Consumer, Delivery},
    error::ConsumeError,
};

/// Deliveries and ends of handlers that are looked after before anything else is asked.
const STEPS_MAX: usize = 128;
/// For tasks that were stopped to come to their next `await`.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Terms {
    pub(super) concurrency: NonZeroUsize,
    /// `None` for the group's ack time-out.
    pub(super) timeout: Option<Duration>,
    pub(super) grace: Duration,
}

pub(super) struct Runner<H> {
    consumer: Consumer,
    handler: Arc<H>,
    terms: Terms,
    tasks: JoinSet<Outcome>,
    /// What the tasks are at.
    running: HashMap<Id, Running>,
    lanes: Lanes<Delivery>,
    summary: RunSummary,
}

struct Running {
    delivery: Delivery,
    lane: Option<Lane>,
}

/// A task that has ended.
type Ended = Result<(Id, Outcome), JoinError>;

impl<H, F, E> Runner<H>
where
    H: Fn(Job) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure> + 'static,
{
    pub(super) fn new(consumer: Consumer, handler: H, terms: Terms) -> Self {
        Self {
            consumer,
            handler: Arc::new(handler),
            terms,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            lanes: Lanes::default(),
            summary: RunSummary::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Result<RunSummary, ConsumeError> {
        self.consumer.shared.read_by_handlers();
        let ended_by = self.handle(shutdown).await;
        self.drain().await;
        let Self { consumer, summary, .. } = self;
        let closed = consumer.close().await;
        ended_by?;
        closed.map(|()| summary)
    }

    /// Takes events and handles them until a shutdown or the consumer's end.
    async fn handle(&mut self, mut shutdown: Pin<Box<dyn Future<Output = ()> + Send>>) -> Result<(), ConsumeError> {
        let mut tick = Box::pin(sleep(self.tick()));
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                () = &mut tick => self.keep(&mut tick),
                end = poll_fn(|cx| self.poll_work(cx)) => return end,
            }
        }
    }

    /// Settles what has been handled, and begins what has arrived. Ready when nothing more comes.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConsumeError>> {
        for _ in 0..STEPS_MAX {
            if let Poll::Ready(Some(ended)) = self.tasks.poll_join_next_with_id(cx) {
                self.ended(ended);
                continue;
            }
            if self.running.len() >= self.terms.concurrency.get() || !self.lanes.have_room() {
                return Poll::Pending;
            }
            let lanes = &self.lanes;
            match ready!(self.consumer.poll_delivery(cx, |claim| lanes.is_free(claim.partition))) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(delivery)) => self.enter(delivery),
                Some(Err(error)) => self.pass_over(error)?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets running handlers end; stops them when the grace is over.
    async fn drain(&mut self) {
        self.consumer.shared.begin_draining();
        self.lanes.take_waiting().into_iter().for_each(Delivery::release);
        let end = Instant::now() + self.terms.grace;
        let mut tick = Box::pin(sleep(self.tick()));
        while !self.tasks.is_empty() {
            tokio::select! {
                biased;
                () = sleep_until(end) => break,
                () = &mut tick => self.keep(&mut tick),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
            }
        }
        self.tasks.abort_all();
        let stopped = Instant::now() + STOP_PATIENCE;
        while let Ok(Some(ended)) = timeout_at(stopped, self.tasks.join_next_with_id()).await {
            self.ended(ended);
        }
        self.running.drain().for_each(|(_, Running { delivery, .. })| {
            self.summary.interrupted += 1;
            delivery.release();
        });
    }

    fn enter(&mut self, delivery: Delivery) {
        let mode = self.consumer.policy().mode;
        let lane = Lane::of(mode, delivery.claim().partition, delivery.record.key.as_ref());
        if let Some(delivery) = self.lanes.enter(lane.as_ref(), delivery) {
            self.begin(Running { delivery, lane });
        }
    }

    fn begin(&mut self, running: Running) {
        let timeout = self.terms.timeout.unwrap_or_else(|| self.ack_timeout());
        let (handler, job) = (Arc::clone(&self.handler), Job::new(&running.delivery));
        let task = self.tasks.spawn(async move { attempt(&*handler, job, timeout).await });
        self.running.insert(task.id(), running);
    }

    /// Settles what a task was at, and begins what had to wait for it.
    fn ended(&mut self, ended: Ended) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => (error.id(), panic_of(error)),
        };
        let Some(Running { delivery, lane }) = self.running.remove(&id) else { return };
        let comes_again = self.settle(delivery, outcome);
        let Some(lane) = lane else { return };
        if comes_again {
            // None of these must overtake it.
            self.lanes.clear(&lane).into_iter().for_each(Delivery::release);
        } else if let Some(delivery) = self.lanes.leave(&lane) {
            self.begin(Running { delivery, lane: Some(lane) });
        }
    }

    /// Says what becomes of an event; returns whether it comes again. `None` for a handler that was stopped.
    fn settle(&mut self, delivery: Delivery, outcome: Option<Outcome>) -> bool {
        let summary = &mut self.summary;
        let failure = match outcome {
            None => {
                summary.interrupted += 1;
                delivery.release();
                return true;
            }
            Some(Outcome::Handled) => {
                summary.handled += 1;
                delivery.ack();
                return false;
            }
            Some(Outcome::Failed(failure)) => failure,
            Some(Outcome::TimedOut { after }) => {
                summary.timed_out += 1;
                Failure::retry(format!("the handler did not end within its time-out of {after:?}"))
            }
            Some(Outcome::Panicked { text }) => {
                summary.panicked += 1;
                Failure::retry(format!("the handler panicked: {text}"))
            }
        };
        tracing::debug!(partition = delivery.partition, offset = delivery.offset, ?failure, "event not handled");
        let Failure { remedy, error } = failure;
        match remedy {
            Remedy::Retry => delivery.nack(error),
            Remedy::RetryAfter(delay) => delivery.nack_after(delay, error),
            Remedy::Park => {
                summary.parked += 1;
                delivery.park(error);
                return false;
            }
        }
        summary.retried += 1;
        true
    }

    /// # Errors
    /// `error`, if nothing more can come after it.
    fn pass_over(&mut self, error: ConsumeError) -> Result<(), ConsumeError> {
        match error {
            ConsumeError::Request(_) | ConsumeError::Unsettled { .. } => Err(error),
            ConsumeError::Partition { .. } | ConsumeError::Damaged { .. } | ConsumeError::Decode(_) => {
                tracing::warn!(topic = %self.consumer.shared.topic, %error, "passed over");
                self.summary.passed_over += 1;
                Ok(())
            }
        }
    }

    /// Tells the broker that what is in work here, or waits for that, is still being worked on.
    fn keep(&self, tick: &mut Pin<Box<Sleep>>) {
        self.running.values().map(|running| &running.delivery).chain(self.lanes.waiting()).for_each(Delivery::extend);
        tick.as_mut().reset(Instant::now() + self.tick());
    }

    fn tick(&self) -> Duration {
        self.ack_timeout() / 3
    }

    fn ack_timeout(&self) -> Duration {
        let shared = &self.consumer.shared;
        shared.ack_timeout(&shared.state.lock())
    }
}

/// `None` for a task that was stopped.
fn panic_of(error: JoinError) -> Option<Outcome> {
    error.try_into_panic().ok().map(|payload| Outcome::Panicked { text: panic_text(&*payload) })
}
