//! Publishing one request: what it comes to, room for it, and where it is stored.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aqueduct_proto::v1::{self, publish_request::Payload, publish_result::Outcome as Stored};
use aqueduct_storage::Batch;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use tonic::Status;

use super::{
    convert,
    delayed::{self, Place, Schedule},
    publish_hold::{Caller, load, pass_by},
    publish_plan::{Part, plan},
};
use crate::{
    BrokerCore,
    budget::{Admission, Held, Permit, charge},
    connection::Connection,
    error::PublishError,
    keyed_records,
    partition::{AppendReply, Partition},
    status,
    to_the_end::joined,
    topics::Topic,
};

/// Spreads records without a key over the partitions, request by request.
static NEXT_KEYLESS: AtomicU32 = AtomicU32::new(0);

/// What a request comes to: its batches, and when they are wanted.
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    pub(super) schedule: Option<Schedule>,
}

pub(super) async fn plan_for(
    core: &BrokerCore,
    connection: &Connection,
    topic: &Topic,
    request: v1::PublishRequest,
) -> Result<Plan, PublishError> {
    topic.check_id(&request.topic_id)?;
    let schedule = Schedule::of(&request, core.topics.clock().now_us())?;
    let parts = parts_for(core, connection, topic, request).await?;
    for part in &parts {
        check_producer(topic, part, schedule)?;
    }
    Ok(Plan { parts, schedule })
}

fn check_producer(topic: &Topic, part: &Part, schedule: Option<Schedule>) -> Result<(), PublishError> {
    let Some(producer) = part.batch.header.producer else { return Ok(()) };
    let reason = if schedule.is_some() {
        "cannot be numbered: a retry of what is delivered later would not be recognised"
    } else if topic.partition(part.partition)?.own_producer() == producer.id {
        "is the broker's own in this partition"
    } else {
        return Ok(());
    };
    Err(PublishError::Invalid { field: "producer", reason: reason.to_owned() })
}

async fn parts_for(
    core: &BrokerCore,
    connection: &Connection,
    topic: &Topic,
    request: v1::PublishRequest,
) -> Result<Vec<Part>, PublishError> {
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
    let _decoder = core.unpacking.acquire(connection.id, 1).await;
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
    caller: &Caller,
    wait_max: Duration,
    request: v1::PublishRequest,
) -> Result<v1::PublishResponse, Status> {
    let topic = core.find_or_create(&request.topic).await?;
    let connection = &caller.connection;
    let Plan { parts, schedule } = plan_for(core, connection, &topic, request).await?;
    let deadline = tokio::time::Instant::now() + wait_max;
    let append = async |index, batch| {
        let partition = topic.partition(index)?;
        let passed = pass_by(core, caller, topic.gate(), load(&batch), deadline).await?;
        let permit = admit_by(core, connection, &partition, &batch, deadline).await?.with(passed);
        store(core, connection, &topic, Admitted { partition, batch, permit, schedule }).await.await
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

/// A batch that there is room for.
pub(super) struct Admitted {
    pub(super) partition: Arc<Partition>,
    pub(super) batch: Batch,
    pub(super) permit: Permit,
    pub(super) schedule: Option<Schedule>,
}

/// Hands a batch to its partition's owner or to the store of what is delivered later, in the order of these calls. The
/// inner future resolves once it is durable.
pub(super) async fn store(
    core: &Arc<BrokerCore>,
    connection: &Connection,
    topic: &Arc<Topic>,
    admitted: Admitted,
) -> BoxFuture<'static, Result<Stored, PublishError>> {
    let Admitted { partition, batch, permit, schedule } = admitted;
    let Some(schedule) = schedule else {
        let reply = partition.append(batch, permit).await;
        let topic = Arc::clone(topic);
        let stored = async move {
            let appended = outcome(reply?).await?;
            Ok(Stored::Ack(convert::ack_to_wire(&topic.meta(), &partition, appended)))
        };
        return stored.boxed();
    };
    let (core, topic, connection) = (Arc::clone(core), Arc::clone(topic), connection.id);
    let index = partition.index();
    let mut put = async move {
        let place = Place { topic: &topic, partition: index, connection };
        let scheduled = delayed::put(&core, place, batch, schedule).await.map(Stored::Scheduled);
        drop(permit);
        scheduled
    }
    .boxed();
    // Its place in the order is taken when it is first polled.
    match (&mut put).now_or_never() {
        Some(scheduled) => futures_util::future::ready(scheduled).boxed(),
        None => put,
    }
}

pub(super) fn result(
    partition: u32,
    record_indexes: Vec<u32>,
    outcome: Result<Stored, PublishError>,
) -> v1::PublishResult {
    let outcome = outcome.unwrap_or_else(|error| Stored::Error(status::to_message(&error.into())));
    v1::PublishResult { partition, record_indexes, outcome: Some(outcome) }
}

async fn outcome(reply: AppendReply) -> Result<crate::partition::Appended, PublishError> {
    // The owner answers everything it has taken, unless it panics.
    reply.await.unwrap_or_else(|_| Err(PublishError::Unknown("the owner of the partition has stopped".into())))
}

pub(super) fn admission<'a>(
    core: &'a BrokerCore,
    connection: &'a Connection,
    partition: &'a Partition,
) -> Admission<'a> {
    Admission {
        connection: &connection.budget,
        topic: partition.budget(),
        broker: &core.budget,
        connection_id: connection.id,
        clock: core.topics.clock(),
    }
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
