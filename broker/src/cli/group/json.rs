//! What `--output json` prints of groups.

use aqueduct_client::{
    FailedRecords, GroupDescription, GroupInfo, PartitionWait, TakenOutMember, Timestamp, WaitReason, WaitingRetries,
};
use serde::Serialize;

use crate::cli::backlog::HoldJson;
use crate::cli::lag::LagJson;
use crate::cli::start;

#[derive(Serialize)]
pub(super) struct GroupJson<'a> {
    pub(super) name: &'a str,
    pub(super) mode: Option<String>,
    pub(super) start: Option<String>,
    pub(super) ack_timeout_seconds: Option<f64>,
    pub(super) backoff_min_seconds: Option<f64>,
    pub(super) backoff_max_seconds: Option<f64>,
    pub(super) max_attempts: Option<u32>,
    pub(super) on_exhausted: Option<String>,
    pub(super) hours: Option<String>,
    pub(super) topics: &'a [String],
    pub(super) members: u32,
    pub(super) created_us: i64,
}

impl<'a> From<&'a GroupInfo> for GroupJson<'a> {
    fn from(group: &'a GroupInfo) -> Self {
        Self {
            name: &group.name,
            mode: group.policy.mode.map(|mode| mode.to_string()),
            start: group.policy.start.map(start::describe),
            ack_timeout_seconds: group.policy.ack_timeout.map(|timeout| timeout.as_secs_f64()),
            backoff_min_seconds: group.policy.retry.backoff_min.map(|pause| pause.as_secs_f64()),
            backoff_max_seconds: group.policy.retry.backoff_max.map(|pause| pause.as_secs_f64()),
            max_attempts: group.policy.retry.max_attempts,
            on_exhausted: group.policy.retry.on_exhausted.map(|then| then.to_string()),
            hours: group.policy.hours.map(|hours| hours.to_string()),
            topics: &group.topics,
            members: group.members,
            created_us: group.created.as_micros(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct DescriptionJson<'a> {
    #[serde(flatten)]
    pub(super) group: GroupJson<'a>,
    pub(super) member_details: Vec<MemberJson<'a>>,
    pub(super) lag: Vec<LagJson<'a>>,
    pub(super) failed: Vec<FailedJson<'a>>,
    pub(super) closed_until_us: Option<i64>,
    pub(super) holds: Vec<HoldJson<'a>>,
    pub(super) waits: Vec<WaitJson<'a>>,
    pub(super) retries: Vec<RetriesJson<'a>>,
    pub(super) taken_out: Vec<TakenOutJson<'a>>,
}

#[derive(Serialize)]
pub(super) struct WaitJson<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) reason: Option<&'static str>,
    pub(super) offset: Option<u64>,
    pub(super) until_us: Option<i64>,
    pub(super) member: Option<&'a str>,
    pub(super) message: &'a str,
}

impl<'a> From<&'a PartitionWait> for WaitJson<'a> {
    fn from(wait: &'a PartitionWait) -> Self {
        Self {
            topic: &wait.topic,
            partition: wait.partition,
            reason: wait.reason.map(WaitReason::as_str),
            offset: wait.offset,
            until_us: wait.until.map(Timestamp::as_micros),
            member: wait.member.as_deref(),
            message: &wait.message,
        }
    }
}

#[derive(Serialize)]
pub(super) struct RetriesJson<'a> {
    pub(super) topic: &'a str,
    pub(super) due: u64,
    pub(super) later: u64,
    pub(super) later_is_at_least: bool,
    pub(super) next_due_us: Option<i64>,
    pub(super) last_error: Option<&'a str>,
}

impl<'a> From<&'a WaitingRetries> for RetriesJson<'a> {
    fn from(retries: &'a WaitingRetries) -> Self {
        Self {
            topic: &retries.topic,
            due: retries.due,
            later: retries.later,
            later_is_at_least: retries.later_is_at_least,
            next_due_us: retries.next_due.map(Timestamp::as_micros),
            last_error: retries.last_error.as_deref(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct TakenOutJson<'a> {
    pub(super) id: u64,
    pub(super) name: &'a str,
    pub(super) topic: &'a str,
    pub(super) at_us: i64,
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
}

impl<'a> From<&'a TakenOutMember> for TakenOutJson<'a> {
    fn from(member: &'a TakenOutMember) -> Self {
        Self {
            id: member.id,
            name: &member.name,
            topic: &member.topic,
            at_us: member.at.as_micros(),
            reason: &member.reason,
            message: &member.message,
        }
    }
}

#[derive(Serialize)]
pub(super) struct FailedJson<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) from_offset: u64,
    pub(super) to_offset: u64,
    pub(super) attempts: u32,
    pub(super) first_error: &'a str,
    pub(super) last_error: &'a str,
    pub(super) first_failed_us: i64,
    pub(super) last_failed_us: i64,
}

impl<'a> From<&'a FailedRecords> for FailedJson<'a> {
    fn from(failed: &'a FailedRecords) -> Self {
        Self {
            topic: &failed.topic,
            partition: failed.partition,
            from_offset: failed.from,
            to_offset: failed.to,
            attempts: failed.attempts,
            first_error: &failed.first_error,
            last_error: &failed.last_error,
            first_failed_us: failed.first_failed.as_micros(),
            last_failed_us: failed.last_failed.as_micros(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct MemberJson<'a> {
    pub(super) id: u64,
    pub(super) name: &'a str,
    pub(super) topic: &'a str,
    pub(super) partitions: &'a [u32],
    pub(super) leaving_partitions: &'a [u32],
    pub(super) open_records: u64,
    pub(super) timeouts: u64,
    pub(super) parked: u64,
    pub(super) joined_us: i64,
    pub(super) last_settled_us: Option<i64>,
    pub(super) stalled_since_us: Option<i64>,
    pub(super) keep_seconds: f64,
    pub(super) away_until_us: Option<i64>,
}

impl<'a> From<&'a GroupDescription> for DescriptionJson<'a> {
    fn from(description: &'a GroupDescription) -> Self {
        Self {
            group: GroupJson::from(&description.group),
            member_details: description
                .members
                .iter()
                .map(|member| MemberJson {
                    id: member.id,
                    name: &member.name,
                    topic: &member.topic,
                    partitions: &member.partitions,
                    leaving_partitions: &member.leaving_partitions,
                    open_records: member.open_records,
                    timeouts: member.timeouts,
                    parked: member.parked,
                    joined_us: member.joined.as_micros(),
                    last_settled_us: member.last_settled.map(Timestamp::as_micros),
                    stalled_since_us: member.stalled_since.map(Timestamp::as_micros),
                    keep_seconds: member.keep.as_secs_f64(),
                    away_until_us: member.away_until.map(Timestamp::as_micros),
                })
                .collect(),
            lag: description.lag.iter().map(LagJson::from).collect(),
            failed: description.failed.iter().map(FailedJson::from).collect(),
            closed_until_us: description.closed_until.map(Timestamp::as_micros),
            holds: description.holds.iter().map(HoldJson::from).collect(),
            waits: description.waits.iter().map(WaitJson::from).collect(),
            retries: description.retries.iter().map(RetriesJson::from).collect(),
            taken_out: description.taken_out.iter().map(TakenOutJson::from).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ResetJson<'a> {
    pub(super) group: &'a str,
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) from_offset: u64,
    pub(super) to_offset: u64,
    pub(super) dry_run: bool,
}
