//! Handling events with a function: beside each other, in order where the group promises it, and to the end.

mod failure;
mod job;
mod lanes;
mod runner;

use std::{
    fmt,
    future::{Future, IntoFuture},
    num::NonZeroUsize,
    pin::Pin,
    time::Duration,
};

pub use failure::Failure;
pub use job::Job;

use self::runner::Runner;
use super::Consumer;
use crate::error::ConsumeError;

/// Handlers get this much time to end after a shutdown has begun, unless said otherwise.
const GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// What a run has done, in events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunSummary {
    /// Handled and acked.
    pub handled: u64,
    /// Given back for another attempt, for whatever reason: these three are among them.
    pub retried: u64,
    /// Handlers that did not end in time.
    pub timed_out: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Moved to the dead letters because the handler said so.
    pub parked: u64,
    /// Still in work at the end of the grace: stopped, and given back without counting an attempt.
    pub interrupted: u64,
    /// Failures of the consumer that did not end the run; see [`Consumer::run`].
    pub passed_over: u64,
}

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { handled, retried, timed_out, panicked, parked, interrupted, passed_over: _ } = self;
        write!(f, "{handled} handled, {retried} retried ({timed_out} timed out, {panicked} panicked), ")?;
        write!(f, "{parked} parked, {interrupted} interrupted")
    }
}

/// A consumer that is about to run handlers; awaiting it runs them. Made by [`Consumer::run`].
#[must_use = "nothing is handled before it is awaited"]
pub struct Run<H> {
    consumer: Consumer,
    handler: H,
    concurrency: usize,
    timeout: Option<Duration>,
    grace: Duration,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Consumer {
    /// Handles events with `handler`, up to `concurrency` of them beside each other (at least 1), until a shutdown.
    ///
    /// ```
    /// # async fn example(client: aqueduct_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use aqueduct_client::{Failure, Job};
    ///
    /// async fn ship(job: Job) -> Result<(), Failure> {
    ///     println!("{} of {}, attempt {}", job.offset, job.partition, job.attempt());
    ///     Ok(())
    /// }
    ///
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// # stop.send(()).ok();
    /// let inbox = client.consumer("orders", "shipping").build().await?;
    /// let summary = inbox.run(16, ship).until(stopped).await?;
    /// println!("{summary}"); // 1042 handled, 3 retried (1 timed out, 0 panicked), 1 parked, 0 interrupted
    /// # Ok(()) }
    /// ```
    ///
    /// **What a handler returns settles its event**: `Ok` acks it. `Err` with anything that can be displayed gives it back
    /// for another attempt after the group's backoff; [`Failure`] can also say when, or that there will be none. A panic is
    /// such an error with the panic's text, and so is a [`timeout`](Run::timeout) that runs out. Until then the event is
    /// this member's, however long the handler takes and however many events wait in front of it: the broker is told so.
    /// Each handler is a task of its own. In `shared` and `keyed` groups what waits here cannot go to an idle member: where
    /// handlers are slow, a small [`prefetch_records`](super::ConsumerBuilder::prefetch_records) shares better.
    ///
    /// **Order** is what the group promises. In an `ordered` group the events of one partition are handled one after
    /// another, and different partitions beside each other: more concurrency than partitions is idle. In a `keyed` group
    /// events with one key are handled one after another, and all others beside each other. In a `shared` group
    /// anything goes beside anything. What failed comes again before anything that must not overtake it.
    ///
    /// **It ends** when [`until`](Run::until) says so, or the client is closed: then nothing more is taken, what no handler
    /// has begun goes back without counting an attempt, and running handlers get a [`grace`](Run::grace). Whatever has not
    /// ended by then is stopped at its next `await` and goes back, too. It returns once every ack is on the broker's disk.
    /// Dropped before that, it stops its handlers; what they were at counts as an attempt.
    ///
    /// # Errors
    /// [`ConsumeError::Request`] if the broker does not want this member any more: running handlers get their grace.
    /// [`ConsumeError::Unsettled`] if the broker went away before it had stored the last acks. Other errors concern one
    /// partition or a few events ([`ConsumeError::Partition`], [`Damaged`](ConsumeError::Damaged),
    /// [`Decode`](ConsumeError::Decode)): they are logged and counted, and the run goes on.
    pub fn run<H, F, E>(self, concurrency: usize, handler: H) -> Run<H>
    where
        H: Fn(Job) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Failure> + 'static,
    {
        let shutdown = Box::pin(std::future::pending());
        Run { consumer: self, handler, concurrency, timeout: None, grace: GRACE_DEFAULT, shutdown }
    }
}

impl<H> Run<H> {
    /// A handler that takes longer is stopped, and its event comes again. [`Job::extend`] begins this time anew. Default: the
    /// group's ack time-out.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long running handlers may take to end after a shutdown has begun. Default: 10 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Shuts down when `shutdown` resolves: a signal, the end of a channel, a time. Default: never.
    pub fn until(mut self, shutdown: impl Future + Send + 'static) -> Self {
        self.shutdown = Box::pin(async {
            shutdown.await;
        });
        self
    }
}

impl<H, F, E> IntoFuture for Run<H>
where
    H: Fn(Job) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure> + 'static,
{
    type Output = Result<RunSummary, ConsumeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { consumer, handler, concurrency, timeout, grace, shutdown } = self;
        let concurrency = NonZeroUsize::new(concurrency).unwrap_or(NonZeroUsize::MIN);
        let runner = Runner::new(consumer, handler, runner::Terms { concurrency, timeout, grace });
        Box::pin(runner.run(shutdown))
    }
}

impl<H> fmt::Debug for Run<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("consumer", &self.consumer)
            .field("concurrency", &self.concurrency)
            .field("timeout", &self.timeout)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}
