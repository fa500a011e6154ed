//! An event in the hands of a handler.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    ops::Deref,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::failure::Failure;
use crate::{consumer::Delivery, dead_letters::Death, record::Event};

/// An event to be handled. What the handler returns settles it.
pub struct Job {
    event: Event,
    death: Option<Box<Death>>,
    attempt: u32,
    extended: Arc<Notify>,
}

impl Job {
    pub(super) fn new(delivery: &Delivery) -> Self {
        Self {
            event: delivery.event().clone(),
            death: delivery.redriven().cloned().map(Box::new),
            attempt: delivery.attempt(),
            extended: Arc::default(),
        }
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The event, to keep.
    pub fn into_event(self) -> Event {
        self.event
    }

    /// 1 for the first delivery of this record, or the first since it was redriven.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How it had failed before it was redriven; `None` for a record that was never a dead letter.
    pub fn redriven(&self) -> Option<&Death> {
        self.death.as_deref()
    }

    /// Still working on it: the handler's time-out begins again.
    pub fn extend(&self) {
        self.extended.notify_one();
    }
}

impl Deref for Job {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("event", &self.event).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// How a handler has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Handled,
    Failed(Failure),
    TimedOut { after: Duration },
    Panicked { text: String },
}

impl Outcome {
    fn of(result: Result<(), impl Into<Failure>>) -> Self {
        match result {
            Ok(()) => Self::Handled,
            Err(error) => Self::Failed(error.into()),
        }
    }
}

/// Handles `job`, but for no longer than `timeout` after it began or was last extended.
pub(super) async fn attempt<F, E>(handler: &impl Fn(Job) -> F, job: Job, timeout: Duration) -> Outcome
where
    F: Future<Output = Result<(), E>>,
    E: Into<Failure>,
{
    let extended = Arc::clone(&job.extended);
    let mut until = Instant::now() + timeout;
    let mut handling = std::pin::pin!(handler(job));
    // Many handlers never wait: no timer is made for them.
    if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(handling.as_mut().poll(cx))).await {
        return Outcome::of(result);
    }
    loop {
        tokio::select! {
            biased;
            result = &mut handling => return Outcome::of(result),
            () = extended.notified() => until = Instant::now() + timeout,
            () = sleep_until(until) => return Outcome::TimedOut { after: timeout },
        }
    }
}

/// What a panic says of itself.
pub(super) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a text").to_owned()
}
