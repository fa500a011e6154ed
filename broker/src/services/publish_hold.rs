//! Publishers and the groups that hold them: who asks, who waits, and what they are told.

use std::{sync::Arc, time::Duration};

use aqueduct_proto::v1;
use aqueduct_storage::Batch;
use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout_at};

use super::publish_stream::Answer;
use crate::{
    BrokerCore,
    backlog::{Entrant, Gate, Load, Passed},
    connection::{ClientId, Connection},
    error::PublishError,
    status,
};

/// Who publishes.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) connection: Connection,
    pub(super) client: ClientId,
}

impl Caller {
    pub(super) fn entrant<'a>(&self, core: &'a BrokerCore) -> Entrant<'a> {
        Entrant { connection: self.connection.id, client: self.client, clients: core.groups.clients() }
    }
}

/// What a batch adds to what groups have to read.
pub(super) fn load(batch: &Batch) -> Load {
    Load { records: batch.header.record_count.into(), bytes: batch.stored_bytes() }
}

/// Waits until `deadline` for a group that holds publishers.
pub(super) async fn pass_by(
    core: &BrokerCore,
    caller: &Caller,
    gate: &Arc<Gate>,
    load: Load,
    deadline: Instant,
) -> Result<Passed, PublishError> {
    if let Some(Ok(passed)) = gate.try_enter(load) {
        return Ok(passed);
    }
    match timeout_at(deadline, gate.pass(load, caller.entrant(core))).await {
        Ok(passed) => passed.map_err(PublishError::GroupBacklog),
        Err(_) => Err(gate.hold().map_or_else(nobody_knows, PublishError::GroupBacklog)),
    }
}

/// The disk has not stored what is on its way in all that time.
fn nobody_knows() -> PublishError {
    PublishError::Overloaded {
        reason: "TOPIC_BUDGET",
        culprit: "the disk: as much is on its way to it as the backlog of the topic allows".to_owned(),
        retry_after: crate::budget::RETRY_AFTER,
    }
}

pub(super) fn told(reason: &str, culprit: String, retry_after: Duration) -> v1::Hold {
    let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
    v1::Hold { reason: reason.to_owned(), culprit, retry_after_ms }
}

/// The answer to a request of a stream that was not stored.
pub(super) fn refusal(request_id: u64, error: PublishError) -> Answer {
    let error = v1::outcome::Outcome::Error(status::to_message(&error.into()));
    futures_util::future::ready(v1::Outcome { request_id, outcome: Some(error) }).boxed()
}
