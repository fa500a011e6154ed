//! Publishing a pipelined stream of requests: it is read while there is room, and says when there is none.

use std::sync::Arc;

use aqueduct_proto::v1::{self, publish_result::Outcome as Stored};
use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Status, Streaming};

use super::{
    delayed::Schedule,
    publish::{Admitted, Plan, admission, plan_for, result, store},
    publish_hold::{Caller, load, refusal, told},
    publish_plan::Part,
};
use crate::{
    BrokerCore,
    backlog::{self, GroupHold, Load, Passed},
    budget::{Held, Permit, RETRY_AFTER, charge},
    connection::Connection,
    error::{PublishError, TopicError},
    partition::Partition,
    status,
    to_the_end::joined,
    topics::Topic,
};

/// Requests of one stream that wait for the disk. Their bytes are bounded by the budgets.
const STREAM_REQUESTS_MAX: usize = 1024;

/// A stream of requests to one topic. It is read only while there is room in the budgets.
pub(super) fn publish_stream(
    core: Arc<BrokerCore>,
    caller: Caller,
    requests: Streaming<v1::PublishRequest>,
) -> BoxStream<'static, Result<v1::PublishStreamResponse, Status>> {
    let draining = core.draining();
    let publisher = Publisher {
        core,
        caller,
        requests: Requests::Open(Box::new(requests)),
        draining,
        topic_name: String::new(),
        topic_id: Bytes::new(),
        topic: None,
        in_flight: FuturesUnordered::new(),
        entering: None,
        waiting: None,
    };
    stream::unfold(publisher, |mut publisher| async move { Some((publisher.next().await?, publisher)) }).boxed()
}

struct Publisher {
    core: Arc<BrokerCore>,
    caller: Caller,
    requests: Requests,
    draining: watch::Receiver<bool>,
    topic_name: String,
    /// The identity that the first request with one has named: it holds for all.
    topic_id: Bytes,
    topic: Option<Arc<Topic>>,
    in_flight: FuturesUnordered<Answer>,
    /// A request of which it is not known yet whether a group holds it: nothing more is read.
    entering: Option<Entering>,
    /// A request that has been read but not admitted: nothing more is read.
    waiting: Option<HeldRequest>,
}

/// A request on its way into the budgets. Given up when it is dropped.
struct HeldRequest(JoinHandle<Answer>);

impl Drop for HeldRequest {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request of a stream, on its way to its partitions.
struct Placed {
    request_id: u64,
    topic: Arc<Topic>,
    parts: Vec<(Part, Arc<Partition>)>,
    /// Of all parts.
    load: Load,
    schedule: Option<Schedule>,
}

/// A request, and whether a group holds it.
type Entering = BoxFuture<'static, (Placed, Result<Passed, Arc<GroupHold>>)>;

async fn enter(placed: Placed) -> (Placed, Result<Passed, Arc<GroupHold>>) {
    let entered = placed.topic.gate().enter(placed.load).await;
    (placed, entered)
}

/// Resolves once the request is durable, or has failed.
pub(super) type Answer = BoxFuture<'static, v1::Outcome>;

enum Requests {
    Open(Box<Streaming<v1::PublishRequest>>),
    /// What is in flight is still answered; then this is the last word.
    Ended(Option<Status>),
}

type Response = Result<v1::PublishStreamResponse, Status>;

fn response(event: v1::publish_stream_response::Event) -> Response {
    Ok(v1::PublishStreamResponse { event: Some(event) })
}

impl Publisher {
    async fn next(&mut self) -> Option<Response> {
        use v1::publish_stream_response::Event;
        loop {
            let readable =
                self.waiting.is_none() && self.entering.is_none() && self.in_flight.len() < STREAM_REQUESTS_MAX;
            tokio::select! {
                biased;
                Some(outcome) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    return Some(response(Event::Outcome(outcome)));
                }
                admitted = admitted(&mut self.waiting), if self.waiting.is_some() => {
                    self.waiting = None;
                    self.in_flight.push(admitted);
                    return Some(response(Event::Resume(v1::Resume {})));
                }
                (placed, entered) = entered(&mut self.entering), if self.entering.is_some() => {
                    self.entering = None;
                    if let Some(hold) = self.admit(placed, entered).await {
                        return Some(response(Event::Hold(hold)));
                    }
                }
                request = self.requests.next(&mut self.draining), if readable && self.requests.is_open() => {
                    match request {
                        Ok(request) => if let Some(hold) = self.take(request).await {
                            return Some(response(Event::Hold(hold)));
                        },
                        Err(end) => self.requests = Requests::Ended(end.map(|end| self.named(end))),
                    }
                }
                else => match &mut self.requests {
                    Requests::Ended(last_word) => return last_word.take().map(Err),
                    Requests::Open(_) => return None,
                },
            }
        }
    }

    /// The framework's refusals get a reason, too.
    fn named(&self, end: Status) -> Status {
        status::of_the_framework(&end, self.core.config.limits.request_bytes_max()).unwrap_or(end)
    }

    /// Takes a request in: on its way to the disk, answered with an error, or held.
    async fn take(&mut self, request: v1::PublishRequest) -> Option<v1::Hold> {
        let request_id = request.request_id;
        let placed = match self.place(request).await {
            Ok(placed) => placed,
            Err(error) => {
                self.in_flight.push(refusal(request_id, error));
                return None;
            }
        };
        match placed.topic.gate().try_enter(placed.load) {
            Some(entered) => self.admit(placed, entered).await,
            None => {
                self.entering = Some(enter(placed).boxed());
                None
            }
        }
    }

    /// Goes on with a request of which it is known whether a group holds it.
    async fn admit(&mut self, placed: Placed, entered: Result<Passed, Arc<GroupHold>>) -> Option<v1::Hold> {
        let (core, caller) = (Arc::clone(&self.core), &self.caller);
        let passed = match entered {
            Ok(passed) => passed,
            // A member of the group is refused, like everybody if the topic is set so.
            Err(hold) if !caller.entrant(&core).waits_for(&hold) => {
                self.in_flight.push(refusal(placed.request_id, PublishError::GroupBacklog(hold)));
                return None;
            }
            Err(hold) => {
                self.waiting = Some(HeldRequest(tokio::spawn(pass_and_append(core, caller.clone(), placed))));
                return Some(told(backlog::REASON, hold.culprit(), backlog::RETRY_AFTER));
            }
        };
        let mut held = None;
        let mut permits = Vec::with_capacity(placed.parts.len());
        for (part, partition) in &placed.parts {
            let permit = match held {
                Some(_) => None,
                None => match admission(&core, &caller.connection, partition).try_admit(charge(&part.batch)) {
                    Ok(permit) => Some(permit),
                    Err(by) => {
                        held = Some(by);
                        None
                    }
                },
            };
            permits.push(permit);
        }
        let append = append_parts(core, caller.connection.clone(), placed, passed, permits);
        let Some(Held { reason, culprit }) = held else {
            let in_flight = append.await;
            self.in_flight.push(in_flight);
            return None;
        };
        // A task of its own: bytes that are granted are used at once, even if this client reads no answers.
        self.waiting = Some(HeldRequest(tokio::spawn(append)));
        Some(told(reason, culprit, RETRY_AFTER))
    }

    /// Finds the topic and the partitions.
    async fn place(&mut self, mut request: v1::PublishRequest) -> Result<Placed, PublishError> {
        let request_id = request.request_id;
        if self.topic_name.is_empty() {
            self.topic_name.clone_from(&request.topic);
        } else if !request.topic.is_empty() && request.topic != self.topic_name {
            let reason =
                format!("this stream publishes to {:?}; open another one for {:?}", self.topic_name, request.topic);
            return Err(PublishError::Invalid { field: "topic", reason });
        }
        if self.topic_id.is_empty() {
            self.topic_id.clone_from(&request.topic_id);
        } else if request.topic_id.is_empty() {
            request.topic_id.clone_from(&self.topic_id);
        }
        // A topic deleted and made again is another one; a stream without an id does not mind.
        self.topic = self.topic.take().filter(|topic| !topic.is_deleted());
        let topic = match &self.topic {
            Some(topic) => Arc::clone(topic),
            None => self.core.find_or_create(&self.topic_name).await?,
        };
        self.topic = Some(Arc::clone(&topic));
        let Plan { parts, schedule } = plan_for(&self.core, &self.caller.connection, &topic, request).await?;
        let place = |part: Part| Ok((topic.partition(part.partition)?, part));
        let placed = parts.into_iter().map(place).collect::<Result<Vec<_>, TopicError>>()?;
        let parts: Vec<_> = placed.into_iter().map(|(partition, part)| (part, partition)).collect();
        let load = parts.iter().map(|(part, _)| load(&part.batch)).sum();
        Ok(Placed { request_id, topic, parts, load, schedule })
    }
}

/// Waits for the group that holds the topic, then goes on like any other request.
async fn pass_and_append(core: Arc<BrokerCore>, caller: Caller, placed: Placed) -> Answer {
    match placed.topic.gate().pass(placed.load, caller.entrant(&core)).await {
        Ok(passed) => {
            let permits = placed.parts.iter().map(|_| None).collect();
            append_parts(core, caller.connection, placed, passed, permits).await
        }
        Err(hold) => refusal(placed.request_id, PublishError::GroupBacklog(hold)),
    }
}

/// Admits what has no permit yet and hands everything on, in order. The inner future is the answer.
async fn append_parts(
    core: Arc<BrokerCore>,
    connection: Connection,
    placed: Placed,
    passed: Passed,
    permits: Vec<Option<Permit>>,
) -> Answer {
    let Placed { request_id, topic, parts, schedule, .. } = placed;
    let mut replies = Vec::with_capacity(parts.len());
    for ((Part { batch, record_indexes, .. }, partition), permit) in parts.into_iter().zip(permits) {
        let permit = match permit {
            Some(permit) => permit,
            None => admission(&core, &connection, &partition).admit(charge(&batch)).await,
        };
        let (index, permit) = (partition.index(), permit.with(passed.clone()));
        let stored = store(&core, &connection, &topic, Admitted { partition, batch, permit, schedule }).await;
        replies.push((index, record_indexes, stored));
    }
    async move {
        let mut results = Vec::with_capacity(replies.len());
        for (partition, record_indexes, stored) in replies {
            results.push(result(partition, record_indexes, stored.await));
        }
        v1::Outcome { request_id, outcome: Some(as_outcome(results)) }
    }
    .boxed()
}

/// As with the unary call, a request that touched one partition succeeds or fails as a whole.
fn as_outcome(mut results: Vec<v1::PublishResult>) -> v1::outcome::Outcome {
    match results.as_mut_slice() {
        [v1::PublishResult { outcome: Some(Stored::Error(error)), .. }] => {
            v1::outcome::Outcome::Error(std::mem::take(error))
        }
        _ => v1::outcome::Outcome::Response(v1::PublishResponse { results }),
    }
}

/// The request that was to be looked at, once it is known whether it is held.
async fn entered(entering: &mut Option<Entering>) -> (Placed, Result<Passed, Arc<GroupHold>>) {
    match entering {
        Some(entering) => entering.await,
        None => futures_util::future::pending().await,
    }
}

/// The request that is held, once it has been admitted.
async fn admitted(waiting: &mut Option<HeldRequest>) -> Answer {
    let Some(HeldRequest(admission)) = waiting else { return futures_util::future::pending().await };
    joined(admission).await
}

impl Requests {
    fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// The next request; an error is the end, with the status to end the response stream with.
    async fn next(&mut self, draining: &mut watch::Receiver<bool>) -> Result<v1::PublishRequest, Option<Status>> {
        let Self::Open(requests) = self else { return Err(None) };
        tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => Err(Some(super::draining_status())),
            request = requests.next() => match request {
                Some(Ok(request)) => Ok(request),
                Some(Err(status)) => Err(Some(status)),
                None => Err(None),
            },
        }
    }
}
