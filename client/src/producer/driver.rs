//! The task behind a producer: opens publish streams, reads answers, and opens the next stream when one breaks.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aqueduct_proto::v1::{self, outcome, publish_result, publish_stream_response::Event};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Code;

use super::{receipt::BatchAck, requests::Requests, shared::Shared};
use crate::{
    error::{BrokerError, Origin, RequestError},
    lifecycle::{Lifecycle, Running},
    transport::{backoff::RECONNECT, link::Link},
};

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Link,
    pub(super) lifecycle: Lifecycle,
    /// The producer's name, if it has one.
    pub(super) name: Option<String>,
    pub(super) delivery_timeout: Duration,
}

/// Why a session is over.
enum End {
    /// Everything is stored or given up, and nothing more will come.
    Finished,
    /// The stream is of no use any more; the next one may be.
    Broken(Option<BrokerError>),
    /// The broker does not want this producer.
    Refused(BrokerError),
}

impl Driver {
    /// Ends when the producer is closed or dropped and everything admitted has its outcome.
    pub(super) async fn run(self, _running: Running) {
        tokio::select! {
            () = self.sessions() => {}
            () = self.expire() => {}
            () = self.drain_on_close() => {}
        }
    }

    async fn sessions(&self) {
        let mut attempt = 0;
        loop {
            if self.wait_for_work().await == Work::Finished {
                return;
            }
            let stored_before = self.shared.counters.batches_stored.load(Ordering::Relaxed);
            let end = match self.reopen_if_needed().await {
                Ok(()) => self.session().await,
                Err(end) => end,
            };
            match end {
                End::Finished => return,
                End::Refused(error) => {
                    tracing::warn!(topic = %self.shared.topic.name, %error, "the broker refuses this producer");
                    self.shared.update(|pipeline, now, settled| pipeline.refused(&error, now, settled));
                }
                End::Broken(error) => {
                    tracing::debug!(topic = %self.shared.topic.name, error = ?error, "publish stream broken");
                    self.shared.update(|pipeline, now, settled| pipeline.disconnected(error.as_ref(), now, settled));
                }
            }
            let stored = self.shared.counters.batches_stored.load(Ordering::Relaxed);
            attempt = if stored == stored_before { attempt + 1 } else { 0 };
            sleep(RECONNECT.jittered(attempt)).await;
            self.shared.counters.reconnects.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn wait_for_work(&self) -> Work {
        loop {
            // Registered before looking, so that nothing that comes in between is missed.
            let notified = self.shared.work.notified();
            {
                let mut state = self.shared.state.lock();
                if state.pipeline.is_finished() {
                    return Work::Finished;
                }
                if !state.pipeline.is_empty() {
                    return Work::Pending;
                }
                state.pipeline.sleep();
            }
            notified.await;
        }
    }

    async fn reopen_if_needed(&self) -> Result<(), End> {
        let (needed, topic) = {
            let state = self.shared.state.lock();
            (state.pipeline.needs_reopening(), state.pipeline.topic_name())
        };
        let Some(name) = self.name.clone().filter(|_| needed) else { return Ok(()) };
        match open_producer(&self.link, topic, name).await {
            Ok(opened) => {
                let next_sequence = |partition| {
                    let position = opened.positions.iter().find(|position| position.partition == partition);
                    position.map_or(0, |position| position.next_sequence)
                };
                let (id, epoch) = (opened.producer_id.clone(), opened.epoch);
                self.shared.update(|pipeline, now, settled| {
                    pipeline.reopened(id, epoch, next_sequence, now, settled);
                });
                Ok(())
            }
            Err(RequestError::Rejected(error)) => Err(judge(*error)),
            Err(error) => Err(End::Broken(Some(BrokerError::transport(error.to_string())))),
        }
    }

    /// One publish stream, from opening to its end.
    async fn session(&self) -> End {
        let session = {
            let mut state = self.shared.state.lock();
            state.pipeline.connecting();
            state.session += 1;
            state.waker = None;
            state.session
        };
        let mut client = self.link.log();
        let requests = Requests::new(Arc::clone(&self.shared), session);
        let opened = timeout(self.delivery_timeout, Box::pin(client.publish_stream(requests))).await;
        let mut answers = match opened {
            Err(_) => return End::Broken(Some(BrokerError::transport("the publish stream was not opened in time"))),
            Ok(Err(status)) => return judge(self.link.judge(status)),
            Ok(Ok(response)) => response.into_inner(),
        };
        self.link.report_success();
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Err(status) => return judge(self.link.judge(status)),
                    Ok(None) if self.is_finished() => return End::Finished,
                    Ok(None) => return End::Broken(None),
                    Ok(Some(answer)) => self.answered(answer),
                },
                () = self.shared.interrupt.notified() => {
                    let state = self.shared.state.lock();
                    if state.pipeline.is_finished() {
                        return End::Finished;
                    }
                    if state.pipeline.needs_restart() {
                        return End::Broken(None);
                    }
                }
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.shared.state.lock().pipeline.is_finished()
    }

    fn answered(&self, answer: v1::PublishStreamResponse) {
        match answer.event {
            Some(Event::Outcome(outcome)) => {
                let request_id = outcome.request_id;
                let answer = read_outcome(outcome);
                self.shared.update(|pipeline, now, settled| pipeline.answered(request_id, answer, now, settled));
            }
            Some(Event::Hold(hold)) => {
                tracing::debug!(topic = %self.shared.topic.name, reason = hold.reason, culprit = hold.culprit, "held");
                self.shared.update(|pipeline, _, _| pipeline.held(hold.into()));
            }
            Some(Event::Resume(_)) => self.shared.update(|pipeline, _, _| pipeline.resumed()),
            // From a newer broker: nothing that this client must act on.
            None => {}
        }
    }

    /// Gives up what has waited for longer than the delivery time-out.
    async fn expire(&self) {
        // Whatever is admitted after a look expires a whole time-out later: nothing can be missed by sleeping that long.
        // The lower bound keeps batches that are late but may not be given up (held) from spinning.
        let step_min = (self.delivery_timeout / 20).max(Duration::from_millis(1));
        loop {
            let now = Instant::now();
            let latest = now + self.delivery_timeout;
            let at = self.shared.state.lock().pipeline.next_expiry().unwrap_or(latest);
            sleep_until(at.clamp(now + step_min, latest.max(now + step_min))).await;
            let due = self.shared.state.lock().pipeline.next_expiry().is_some_and(|at| at <= Instant::now());
            if due {
                self.shared.update(|pipeline, now, settled| pipeline.expire(now, settled));
            }
        }
    }

    async fn drain_on_close(&self) {
        self.lifecycle.closed().await;
        self.shared.update(|pipeline, _, _| pipeline.drain());
        std::future::pending().await
    }
}

#[derive(PartialEq, Eq)]
enum Work {
    Pending,
    Finished,
}

/// Asks for a named producer's identity.
pub(super) async fn open_producer(
    link: &Link,
    topic: String,
    name: String,
) -> Result<v1::OpenProducerResponse, RequestError> {
    let request = v1::OpenProducerRequest { topic, name };
    let mut client = link.log();
    link.unary(async move { client.open_producer(request).await }).await
}

fn read_outcome(outcome: v1::Outcome) -> Result<BatchAck, BrokerError> {
    let malformed = || BrokerError { origin: Origin::Broker, ..BrokerError::transport("an outcome says nothing") };
    let response = match outcome.outcome {
        Some(outcome::Outcome::Response(response)) => response,
        Some(outcome::Outcome::Error(status)) => return Err(BrokerError::from_proto(&status)),
        None => return Err(uncertain(malformed())),
    };
    // Requests name their partition, so there is one result.
    match response.results.into_iter().next().and_then(|result| result.outcome) {
        Some(publish_result::Outcome::Ack(ack)) => BatchAck::from_proto(&ack).ok_or_else(|| uncertain(malformed())),
        Some(publish_result::Outcome::Error(status)) => Err(BrokerError::from_proto(&status)),
        // Nothing of it was to be delivered later.
        Some(publish_result::Outcome::Scheduled(_)) | None => Err(uncertain(malformed())),
    }
}

fn uncertain(error: BrokerError) -> BrokerError {
    BrokerError { code: Code::Unknown, ..error }
}

/// What the end of a whole stream means.
fn judge(error: BrokerError) -> End {
    match (error.origin, error.code) {
        (
            Origin::Broker,
            Code::NotFound
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::OutOfRange,
        ) => End::Refused(error),
        _ => End::Broken(Some(error)),
    }
}
