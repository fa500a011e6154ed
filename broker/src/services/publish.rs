//! Publishing: one request, or a pipelined stream of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aqueduct_proto::v1::{self, publish_request::Payload};
use aqueduct_storage::Batch;
use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, join_all},
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Status, Streaming};

use super::{
    convert,
    publish_plan::{Part, plan},
};
use crate::{
    BrokerCore,
    budget::{Admission, Held, Permit, RETRY_AFTER, charge},
    connection::Connection,
    error::{PublishError, TopicError},
    keyed_records,
    partition::{AppendReply, Partition},
    status,
    to_the_end::joined,
    topics::Topic,
};

/// Requests of one stream that wait for the disk. Their bytes are bounded by the budgets.
const STREAM_REQUESTS_MAX: usize = 1024;

/// Spreads records without a key over the partitions, request by request.
static NEXT_KEYLESS: AtomicU32 = AtomicU32::new(0);

async fn plan_for(core: &BrokerCore, topic: &Topic, request: v1::PublishRequest) -> Result<Vec<Part>, PublishError> {
    topic.check_id(&request.topic_id)?;
    let meta = topic.meta();
    let partitions = meta.partitions;
    let keyless = NEXT_KEYLESS.fetch_add(1, Ordering::Relaxed) % partitions;
    let limits = core.config.limits;
    let plan = move |request| {
        let parts = plan(request, partitions, keyless, &limits)?;
        if meta.cleanup.compacts() {
            parts.iter().try_for_each(|part| keyed_records::check_keys(&part.batch))?;
        }
        Ok(parts)
    };
    if !is_compressed(&request) {
        return plan(request);
    }
    // Unpacking a batch that is made for it takes milliseconds: whoever publishes anything else goes on meanwhile.
    let _turn = core.unpacking.acquire().await;
    joined(tokio::task::spawn_blocking(move || plan(request))).await
}

fn is_compressed(request: &v1::PublishRequest) -> bool {
    match &request.payload {
        Some(Payload::Batch(batch)) => !matches!(batch.codec(), v1::Codec::Unspecified | v1::Codec::None),
        Some(Payload::Records(_)) | None => false,
    }
}

/// Appends one request; answers once it is durable.
pub(super) async fn publish(
    core: &Arc<BrokerCore>,
    connection: &Connection,
    wait_max: Duration,
    request: v1::PublishRequest,
) -> Result<v1::PublishResponse, Status> {
    let topic = core.find_or_create(&request.topic).await?;
    let parts = plan_for(core, &topic, request).await?;
    let deadline = tokio::time::Instant::now() + wait_max;
    let append = async |index, batch| {
        let partition = topic.partition(index)?;
        let permit = admit_by(core, connection, &partition, &batch, deadline).await?;
        let appended = outcome(partition.append(batch, permit).await?).await?;
        Ok::<_, PublishError>(convert::ack_to_wire(&topic.meta(), &partition, appended))
    };
    let appends = parts.into_iter().map(async |Part { partition: index, batch, record_indexes }| {
        (index, record_indexes, append(index, batch).await)
    });
    let mut outcomes = join_all(appends).await;
    match outcomes.as_mut_slice() {
        // With one partition touched the call succeeds or fails as a whole.
        [(_, _, Err(error))] => Err(error.clone().into()),
        _ => Ok(v1::PublishResponse {
            results: outcomes.into_iter().map(|(index, indexes, outcome)| result(index, indexes, outcome)).collect(),
        }),
    }
}

fn result(
    partition: u32,
    record_indexes: Vec<u32>,
    outcome: Result<v1::PublishAck, PublishError>,
) -> v1::PublishResult {
    let outcome = match outcome {
        Ok(ack) => v1::publish_result::Outcome::Ack(ack),
        Err(error) => v1::publish_result::Outcome::Error(status::to_message(&error.into())),
    };
    v1::PublishResult { partition, record_indexes, outcome: Some(outcome) }
}

async fn outcome(reply: AppendReply) -> Result<crate::partition::Appended, PublishError> {
    // The owner answers everything it has taken, unless it panics.
    reply.await.unwrap_or_else(|_| Err(PublishError::Unknown("the owner of the partition has stopped".into())))
}

fn admission<'a>(core: &'a BrokerCore, connection: &'a Connection, partition: &'a Partition) -> Admission<'a> {
    Admission { connection: &connection.budget, topic: partition.budget(), broker: &core.budget }
}

async fn admit_by(
    core: &BrokerCore,
    connection: &Connection,
    partition: &Partition,
    batch: &Batch,
    deadline: tokio::time::Instant,
) -> Result<Permit, PublishError> {
    let admission = admission(core, connection, partition);
    let held: Held = match admission.try_admit(charge(batch)) {
        Ok(permit) => return Ok(permit),
        Err(held) => held,
    };
    tokio::time::timeout_at(deadline, admission.admit(charge(batch))).await.map_err(|_| held.into())
}

/// A stream of requests to one topic. It is read only while there is room in the budgets.
pub(super) fn publish_stream(
    core: Arc<BrokerCore>,
    connection: Connection,
    requests: Streaming<v1::PublishRequest>,
) -> BoxStream<'static, Result<v1::PublishStreamResponse, Status>> {
    let draining = core.draining();
    let publisher = Publisher {
        core,
        connection,
        requests: Requests::Open(Box::new(requests)),
        draining,
        topic_name: String::new(),
        topic_id: Bytes::new(),
        topic: None,
        in_flight: FuturesUnordered::new(),
        waiting: None,
    };
    stream::unfold(publisher, |mut publisher| async move { Some((publisher.next().await?, publisher)) }).boxed()
}

struct Publisher {
    core: Arc<BrokerCore>,
    connection: Connection,
    requests: Requests,
    draining: watch::Receiver<bool>,
    topic_name: String,
    /// The identity that the first request with one has named: it holds for all.
    topic_id: Bytes,
    topic: Option<Arc<Topic>>,
    in_flight: FuturesUnordered<Answer>,
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

/// Resolves once the request is durable, or has failed.
type Answer = BoxFuture<'static, v1::Outcome>;

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
            let readable = self.waiting.is_none() && self.in_flight.len() < STREAM_REQUESTS_MAX;
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
                let error = v1::outcome::Outcome::Error(status::to_message(&error.into()));
                let outcome = v1::Outcome { request_id, outcome: Some(error) };
                self.in_flight.push(futures_util::future::ready(outcome).boxed());
                return None;
            }
        };
        let mut held = None;
        let mut parts = Vec::with_capacity(placed.len());
        for (part, partition) in placed {
            let permit = match held {
                Some(_) => None,
                None => match admission(&self.core, &self.connection, &partition).try_admit(charge(&part.batch)) {
                    Ok(permit) => Some(permit),
                    Err(by) => {
                        held = Some(by);
                        None
                    }
                },
            };
            parts.push((part, partition, permit));
        }
        let topic = self.topic.clone()?;
        let append = append_parts(Arc::clone(&self.core), self.connection.clone(), topic, request_id, parts);
        let Some(Held { reason, culprit }) = held else {
            let in_flight = append.await;
            self.in_flight.push(in_flight);
            return None;
        };
        // A task of its own: bytes that are granted are used at once, even if this client reads no answers.
        self.waiting = Some(HeldRequest(tokio::spawn(append)));
        let retry_after_ms = u32::try_from(RETRY_AFTER.as_millis()).unwrap_or(u32::MAX);
        Some(v1::Hold { reason: reason.to_owned(), culprit, retry_after_ms })
    }

    /// Finds the topic and the partitions.
    async fn place(&mut self, mut request: v1::PublishRequest) -> Result<Vec<(Part, Arc<Partition>)>, PublishError> {
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
        let parts = plan_for(&self.core, &topic, request).await?;
        let place = |part: Part| Ok((topic.partition(part.partition)?, part));
        let placed = parts.into_iter().map(place).collect::<Result<Vec<_>, TopicError>>()?;
        Ok(placed.into_iter().map(|(partition, part)| (part, partition)).collect())
    }
}

/// Admits what has no permit yet and hands everything to the owners, in order. The inner future is the answer.
async fn append_parts(
    core: Arc<BrokerCore>,
    connection: Connection,
    topic: Arc<Topic>,
    request_id: u64,
    parts: Vec<(Part, Arc<Partition>, Option<Permit>)>,
) -> Answer {
    let mut replies = Vec::with_capacity(parts.len());
    for (Part { batch, record_indexes, .. }, partition, permit) in parts {
        let permit = match permit {
            Some(permit) => permit,
            None => admission(&core, &connection, &partition).admit(charge(&batch)).await,
        };
        let reply = partition.append(batch, permit).await;
        replies.push((partition, record_indexes, reply));
    }
    async move {
        let mut results = Vec::with_capacity(replies.len());
        for (partition, record_indexes, reply) in replies {
            let appended = match reply {
                Ok(reply) => outcome(reply).await,
                Err(error) => Err(error),
            };
            let ack = appended.map(|appended| convert::ack_to_wire(&topic.meta(), &partition, appended));
            results.push(result(partition.index(), record_indexes, ack));
        }
        v1::Outcome { request_id, outcome: Some(as_outcome(results)) }
    }
    .boxed()
}

/// As with the unary call, a request that touched one partition succeeds or fails as a whole.
fn as_outcome(mut results: Vec<v1::PublishResult>) -> v1::outcome::Outcome {
    match results.as_mut_slice() {
        [v1::PublishResult { outcome: Some(v1::publish_result::Outcome::Error(error)), .. }] => {
            v1::outcome::Outcome::Error(std::mem::take(error))
        }
        _ => v1::outcome::Outcome::Response(v1::PublishResponse { results }),
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
