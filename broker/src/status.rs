//! The one place that chooses gRPC codes, machine-readable reasons and details for errors.
//!
//! `UNAVAILABLE` is sent only when nothing was written; `UNKNOWN` means that it may have been.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    backlog::{self, Backlog, GroupHold},
    engine::{EngineError, ReadError},
    error::{FetchError, PublishError, TopicError},
    groups::{GroupError, JournalError},
};

/// The domain of every `ErrorInfo`.
pub(crate) const ERROR_DOMAIN: &str = "aqueduct";

/// When to try again what failed for a passing reason.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// An error on its way to the wire.
pub(crate) struct StatusParts {
    code: Code,
    details: ErrorDetails,
}

impl StatusParts {
    /// `reason` is in SCREAMING_SNAKE_CASE and stable: clients decide by it.
    pub(crate) fn new(code: Code, reason: &'static str, metadata: &[(&str, String)]) -> Self {
        let metadata: HashMap<String, String> =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Self { code, details: ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata) }
    }

    pub(crate) fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }

    pub(crate) fn field(mut self, field: &str, reason: &str) -> Self {
        self.details.add_bad_request_violation(field, reason);
        self
    }

    pub(crate) fn status(self, message: impl Into<String>) -> Status {
        Status::with_error_details(self.code, message, self.details)
    }
}

/// The same error as a message inside a response.
pub(crate) fn to_message(status: &Status) -> tonic_types::Status {
    if !status.details().is_empty()
        && let Ok(message) = tonic_types::Status::decode(status.details())
    {
        return message;
    }
    tonic_types::Status { code: status.code().into(), message: status.message().to_owned(), details: Vec::new() }
}

/// What the framework says about a request that it could not even decode, with a code and a reason like every other
/// refusal. It says no more than a code of its own; `None` if the status is none of those.
pub(crate) fn of_the_framework(status: &Status, request_bytes_max: usize) -> Option<Status> {
    // What this broker says itself has a reason already.
    if !status.details().is_empty() {
        return None;
    }
    let parts = match status.code() {
        Code::Internal => StatusParts::new(Code::InvalidArgument, "MALFORMED_REQUEST", &[]),
        Code::OutOfRange => {
            let limit = [("what", "a request".to_owned()), ("limit", request_bytes_max.to_string())];
            StatusParts::new(Code::ResourceExhausted, "TOO_LARGE", &limit)
        }
        Code::Unimplemented => StatusParts::new(Code::Unimplemented, "UNSUPPORTED", &[]),
        _ => return None,
    };
    let message = match status.message() {
        "" => "no such method",
        message => message,
    };
    Some(parts.status(message))
}

/// A request that waits for its rest in memory, where there is no more room for it.
#[cfg(feature = "server")]
pub(crate) fn too_much_incoming(bytes: u64) -> Status {
    let culprit = "requests that have not come in completely (the limit is `incoming_budget_bytes`)";
    StatusParts::new(Code::ResourceExhausted, "INCOMING_BUDGET", &[("culprit", culprit.to_owned())])
        .retry_after(RETRY_DELAY)
        .status(format!("there is no room for a request of {bytes} bytes; held by {culprit}"))
}

/// A request that has begun, and not ended in time.
#[cfg(feature = "server")]
pub(crate) fn request_incomplete(timeout: Duration) -> Status {
    StatusParts::new(Code::DeadlineExceeded, "REQUEST_INCOMPLETE", &[])
        .status(format!("the rest of the request has not come within {timeout:?} (`request_timeout`)"))
}

impl From<TopicError> for Status {
    fn from(error: TopicError) -> Self {
        topic_parts(&error).status(error.to_string())
    }
}

fn topic_parts(error: &TopicError) -> StatusParts {
    let topic = |name: &str| vec![("topic", name.to_owned())];
    match error {
        TopicError::Name { source, .. } => {
            StatusParts::new(Code::InvalidArgument, "INVALID_NAME", &[]).field("topic", &source.to_string())
        }
        TopicError::ShuttingDown => StatusParts::new(Code::Unavailable, "SHUTTING_DOWN", &[]).retry_after(RETRY_DELAY),
        TopicError::Unknown(name) => StatusParts::new(Code::NotFound, "TOPIC_NOT_FOUND", &topic(name)),
        TopicError::System(name) => StatusParts::new(Code::FailedPrecondition, "SYSTEM_TOPIC", &topic(name)),
        TopicError::UnknownPartition { topic, partition, partitions } => StatusParts::new(
            Code::NotFound,
            "PARTITION_NOT_FOUND",
            &[("topic", topic.clone()), ("partition", partition.to_string()), ("partitions", partitions.to_string())],
        ),
        TopicError::Exists(name) => StatusParts::new(Code::AlreadyExists, "TOPIC_EXISTS", &topic(name)),
        TopicError::WrongId { topic: name } => {
            StatusParts::new(Code::FailedPrecondition, "TOPIC_ID_MISMATCH", &topic(name))
        }
        TopicError::Config { field, reason } => {
            StatusParts::new(Code::InvalidArgument, "INVALID_CONFIG", &[]).field(field, reason)
        }
        TopicError::InUse { topic: name, .. } => {
            StatusParts::new(Code::FailedPrecondition, "TOPIC_IN_USE", &topic(name))
        }
        TopicError::PartitionFailed { topic, partition, .. } => StatusParts::new(
            Code::Internal,
            "PARTITION_FAILED",
            &[("topic", topic.clone()), ("partition", partition.to_string())],
        ),
        TopicError::Engine(_) => StatusParts::new(Code::Internal, "ENGINE", &[]),
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        TopicError::Engine(error).into()
    }
}

impl From<PublishError> for Status {
    fn from(error: PublishError) -> Self {
        let parts = match &error {
            PublishError::Topic(error) => topic_parts(error),
            PublishError::Invalid { field, reason } => {
                StatusParts::new(Code::InvalidArgument, "INVALID_REQUEST", &[]).field(field, reason)
            }
            PublishError::TooLarge { what, actual, limit, .. } => StatusParts::new(
                Code::InvalidArgument,
                "TOO_LARGE",
                &[("what", (*what).to_owned()), ("actual", actual.to_string()), ("limit", limit.to_string())],
            ),
            PublishError::SequenceGap { expected, actual } => StatusParts::new(
                Code::FailedPrecondition,
                "SEQUENCE_GAP",
                &[("expected_sequence", expected.to_string()), ("sequence", actual.to_string())],
            ),
            PublishError::NotInTime { .. } => StatusParts::new(Code::Unavailable, "NOT_IN_TIME", &[]),
            PublishError::SequenceTooOld { actual, .. } => {
                StatusParts::new(Code::FailedPrecondition, "SEQUENCE_TOO_OLD", &[("sequence", actual.to_string())])
            }
            PublishError::ProducerFenced { current, .. } => {
                StatusParts::new(Code::FailedPrecondition, "PRODUCER_FENCED", &[("epoch", current.to_string())])
            }
            PublishError::Overloaded { reason, culprit, retry_after } => {
                StatusParts::new(Code::ResourceExhausted, reason, &[("culprit", culprit.clone())])
                    .retry_after(*retry_after)
            }
            PublishError::GroupBacklog(hold) => backlog_parts(hold),
            PublishError::DiskFull => {
                StatusParts::new(Code::ResourceExhausted, "DISK_FULL", &[("culprit", "the disk of the broker".into())])
                    .retry_after(Duration::from_secs(1))
            }
            PublishError::Unavailable { topic, partition, .. } => StatusParts::new(
                Code::Unavailable,
                "PARTITION_UNAVAILABLE",
                &[("topic", topic.clone()), ("partition", partition.to_string())],
            )
            .retry_after(RETRY_DELAY),
            PublishError::Unknown(_) => StatusParts::new(Code::Unknown, "OUTCOME_UNKNOWN", &[]),
        };
        parts.status(error.to_string())
    }
}

fn backlog_parts(hold: &GroupHold) -> StatusParts {
    let GroupHold { topic, backlog: Backlog { group, bounds, .. }, lag, .. } = hold;
    let seconds = |age: Duration| format!("{:.3}", age.as_secs_f64());
    let mut facts = vec![
        ("culprit", hold.culprit()),
        ("group", group.clone()),
        ("topic", topic.clone()),
        ("lag_records", lag.records.to_string()),
        ("lag_bytes", lag.bytes.to_string()),
        ("lag_seconds", seconds(lag.age)),
    ];
    facts.extend(bounds.records.map(|records| ("bound_records", records.to_string())));
    facts.extend(bounds.bytes.map(|bytes| ("bound_bytes", bytes.to_string())));
    facts.extend(bounds.age.map(|age| ("bound_seconds", seconds(age))));
    StatusParts::new(Code::ResourceExhausted, backlog::REASON, &facts).retry_after(backlog::RETRY_AFTER)
}

impl From<FetchError> for Status {
    fn from(error: FetchError) -> Self {
        let parts = match &error {
            FetchError::Topic(error) => topic_parts(error),
            FetchError::Invalid { field, reason } => {
                StatusParts::new(Code::InvalidArgument, "INVALID_REQUEST", &[]).field(field, reason)
            }
            FetchError::Read { topic, partition, source } => read_parts(topic, *partition, source),
            FetchError::Undecodable { topic, partition, offset, .. } => StatusParts::new(
                Code::DataLoss,
                "UNDECODABLE",
                &[("topic", topic.clone()), ("partition", partition.to_string()), ("offset", offset.to_string())],
            ),
        };
        parts.status(error.to_string())
    }
}

impl From<GroupError> for Status {
    fn from(error: GroupError) -> Self {
        StatusParts::from(&error).status(error.to_string())
    }
}

/// What clients decide by when a stream ends with `error`.
pub(crate) fn reason_of(error: &GroupError) -> String {
    let StatusParts { details, .. } = error.into();
    details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

impl From<&GroupError> for StatusParts {
    fn from(error: &GroupError) -> Self {
        let group = |name: &str| vec![("group", name.to_owned())];
        match error {
            GroupError::Name { source, .. } => {
                StatusParts::new(Code::InvalidArgument, "INVALID_NAME", &[]).field("group", &source.to_string())
            }
            GroupError::Unknown(name) => StatusParts::new(Code::NotFound, "GROUP_NOT_FOUND", &group(name)),
            GroupError::Exists(name) => StatusParts::new(Code::AlreadyExists, "GROUP_EXISTS", &group(name)),
            GroupError::PolicyDisagrees { group, field, .. } => StatusParts::new(
                Code::FailedPrecondition,
                "POLICY_DISAGREES",
                &[("group", group.clone()), ("field", (*field).to_owned())],
            ),
            GroupError::Invalid { field, reason } => {
                StatusParts::new(Code::InvalidArgument, "INVALID_REQUEST", &[]).field(field, reason)
            }
            GroupError::NotConsumable { topic, .. } => not_consumable(topic),
            GroupError::MembersActive { group, members } => StatusParts::new(
                Code::FailedPrecondition,
                "MEMBERS_ACTIVE",
                &[("group", group.clone()), ("members", members.to_string())],
            ),
            GroupError::OutOfRange { partition, offset, log_start, high_watermark } => StatusParts::new(
                Code::OutOfRange,
                "OFFSET_OUT_OF_RANGE",
                &[
                    ("partition", partition.to_string()),
                    ("requested", offset.to_string()),
                    ("log_start", log_start.to_string()),
                    ("high_watermark", high_watermark.to_string()),
                ],
            ),
            GroupError::CommitBackwards { partition, committed, .. } => StatusParts::new(
                Code::FailedPrecondition,
                "COMMIT_BACKWARDS",
                &[("partition", partition.to_string()), ("committed_offset", committed.to_string())],
            ),
            GroupError::StaleGeneration { partition, .. } => {
                StatusParts::new(Code::Aborted, "STALE_GENERATION", &[("partition", partition.to_string())])
            }
            GroupError::TakenBack { partition } => {
                StatusParts::new(Code::Aborted, "TAKEN_BACK", &[("partition", partition.to_string())])
            }
            GroupError::Halted { partition, offset, attempts, .. } => StatusParts::new(
                Code::FailedPrecondition,
                "PARTITION_HALTED",
                &[
                    ("partition", partition.to_string()),
                    ("offset", offset.to_string()),
                    ("attempts", attempts.to_string()),
                ],
            ),
            GroupError::NotMoved { topic, .. } => {
                StatusParts::new(Code::Unavailable, "NOT_MOVED", &[("topic", topic.clone())])
            }
            GroupError::NoPosition { partition } => {
                StatusParts::new(Code::Unavailable, "NO_POSITION", &[("partition", partition.to_string())])
            }
            GroupError::MemberSilent { .. } => StatusParts::new(Code::Aborted, "MEMBER_SILENT", &[]),
            GroupError::MemberStuck { timeouts, .. } => member_stuck(*timeouts),
            GroupError::MemberNotReading { .. } => StatusParts::new(Code::Aborted, "MEMBER_NOT_READING", &[]),
            GroupError::MemberReplaced { name } => member_replaced(name),
            GroupError::TooMany { what, limit } => StatusParts::new(
                Code::ResourceExhausted,
                "TOO_MANY",
                &[("what", (*what).to_owned()), ("limit", limit.to_string())],
            ),
            GroupError::TopicDeleted(name) => {
                StatusParts::new(Code::NotFound, "TOPIC_NOT_FOUND", &[("topic", name.clone())])
            }
            GroupError::ShuttingDown => {
                StatusParts::new(Code::Unavailable, "SHUTTING_DOWN", &[]).retry_after(RETRY_DELAY)
            }
            GroupError::Journal(error) => journal_parts(error),
            GroupError::Topic(error) => topic_parts(error),
            GroupError::Read { topic, partition, source } => read_parts(topic, *partition, source),
        }
    }
}

fn member_stuck(timeouts: u32) -> StatusParts {
    StatusParts::new(Code::Aborted, "MEMBER_STUCK", &[("timeouts", timeouts.to_string())])
}

fn member_replaced(name: &str) -> StatusParts {
    StatusParts::new(Code::FailedPrecondition, "MEMBER_REPLACED", &[("member_name", name.to_owned())])
}

fn not_consumable(topic: &str) -> StatusParts {
    StatusParts::new(Code::FailedPrecondition, "NOT_CONSUMABLE", &[("topic", topic.to_owned())])
}

fn journal_parts(error: &JournalError) -> StatusParts {
    match error {
        JournalError::Full => {
            StatusParts::new(Code::ResourceExhausted, "DISK_FULL", &[("culprit", "the disk of the broker".into())])
                .retry_after(Duration::from_secs(1))
        }
        JournalError::Unknown(_) => StatusParts::new(Code::Unknown, "OUTCOME_UNKNOWN", &[]),
        JournalError::Unavailable(_) => {
            StatusParts::new(Code::Unavailable, "GROUPS_UNAVAILABLE", &[]).retry_after(RETRY_DELAY)
        }
        JournalError::Fenced { epoch } => {
            StatusParts::new(Code::Unavailable, "GROUPS_FENCED", &[("epoch", epoch.to_string())])
        }
        JournalError::Damaged(_) => StatusParts::new(Code::DataLoss, "GROUPS_DAMAGED", &[]),
    }
}

fn read_parts(topic: &str, partition: u32, error: &ReadError) -> StatusParts {
    let place = [("topic", topic.to_owned()), ("partition", partition.to_string())];
    let with = |more: &[(&'static str, String)]| -> Vec<(&str, String)> { place.iter().chain(more).cloned().collect() };
    match error {
        ReadError::OutOfRange { requested, window } => StatusParts::new(
            Code::OutOfRange,
            "OFFSET_OUT_OF_RANGE",
            &with(&[
                ("requested", requested.to_string()),
                ("log_start", window.log_start.to_string()),
                ("high_watermark", window.high_watermark.to_string()),
            ]),
        ),
        ReadError::Damaged { from, to, .. } | ReadError::Lost { from, to } => StatusParts::new(
            Code::DataLoss,
            "OFFSETS_DAMAGED",
            &with(&[("from", from.to_string()), ("to", to.to_string())]),
        ),
        ReadError::Failed(_) => StatusParts::new(Code::Internal, "READ_FAILED", &place),
    }
}
