//! Between the messages of `Groups` and the types of [`crate::groups`].

use std::{num::NonZeroU64, ops::Range, time::Duration};

use aqueduct_proto::v1::{self, consume_request, consume_response};
use aqueduct_storage::Offset;
use futures_util::{Stream, StreamExt as _, future::ready};
use tonic::{Status, Streaming};

use crate::{
    groups::{
        Assigned, Credit, DailyWindow, Delivery, DeliveryHours, Event, FailedRecords, Forecast, Group, GroupError,
        HEARTBEAT_DEFAULT, JoinRequest, KEEP_MAX, Leave, LettersView, Loss, LossCause, MemberView, Mode, Moved,
        OnExhausted, PartitionLag, Pause, Policy, PolicyOpinion, Request, ResetRequest, ResetTo, RetryOpinion,
        RetryPolicy, Risk, Settle, StartAt, WINDOWS_MAX,
    },
    services::convert,
    status,
};

/// Shorter ones would be noise.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Longer ones would keep a dead member for hours.
const HEARTBEAT_MAX: Duration = Duration::from_secs(10 * 60);
/// A record that is to wait longer waits this long.
const NACK_DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bounds what one request may ask to be done.
const RANGES_MAX: usize = 65_536;
const NAME_BYTES_MAX: usize = 256;
/// The framework's own bound on a message, where none is set.
const DEFAULT_REQUEST_BYTES_MAX: usize = 4 << 20;

/// Whether a reset is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Execution {
    Do,
    Plan,
}

/// An empty string in a request means "any".
pub(super) fn non_empty(name: &str) -> Option<&str> {
    Some(name).filter(|name| !name.is_empty())
}

fn invalid(field: &'static str, reason: impl Into<String>) -> GroupError {
    GroupError::Invalid { field, reason: reason.into() }
}

// ---- policies

pub(super) fn opinion(policy: Option<v1::GroupPolicy>) -> Result<PolicyOpinion, GroupError> {
    let Some(policy) = policy else { return Ok(PolicyOpinion::default()) };
    let mode = match v1::GroupMode::try_from(policy.mode) {
        Ok(v1::GroupMode::Unspecified) => None,
        Ok(v1::GroupMode::Ordered) => Some(Mode::Ordered),
        Ok(v1::GroupMode::Shared) => Some(Mode::Shared),
        Ok(v1::GroupMode::Keyed) => Some(Mode::Keyed),
        Err(_) => return Err(invalid("policy.mode", format!("{} is not a mode", policy.mode))),
    };
    Ok(PolicyOpinion {
        mode,
        start: policy.start.and_then(start),
        ack_timeout: non_zero_ms(policy.ack_timeout_ms),
        retry: retry_opinion(policy.retry)?,
        hours: policy.hours.as_ref().map(hours).transpose()?,
    })
}

pub(super) fn alteration(request: &v1::AlterGroupRequest) -> Result<PolicyOpinion, GroupError> {
    Ok(PolicyOpinion {
        mode: None,
        start: request.start.and_then(start),
        ack_timeout: request.ack_timeout_ms.map(|ms| Duration::from_millis(ms.into())),
        retry: retry_opinion(request.retry)?,
        hours: request.hours.as_ref().map(hours).transpose()?,
    })
}

fn hours(hours: &v1::DeliveryHours) -> Result<DeliveryHours, GroupError> {
    let minute = |minute: u32| u16::try_from(minute).unwrap_or(u16::MAX);
    let window = |window: &v1::DailyWindow| DailyWindow {
        from_minute: minute(window.from_minute),
        to_minute: minute(window.to_minute),
    };
    // One more than is allowed says enough.
    let windows: Vec<DailyWindow> = hours.windows.iter().take(WINDOWS_MAX + 1).map(window).collect();
    DeliveryHours::new(&windows, hours.utc_offset_minutes)
}

fn retry_opinion(retry: Option<v1::RetryPolicy>) -> Result<RetryOpinion, GroupError> {
    let Some(retry) = retry else { return Ok(RetryOpinion::default()) };
    let on_exhausted = match v1::OnExhausted::try_from(retry.on_exhausted) {
        Ok(v1::OnExhausted::Unspecified) => None,
        Ok(v1::OnExhausted::Park) => Some(OnExhausted::Park),
        Ok(v1::OnExhausted::Halt) => Some(OnExhausted::Halt),
        Ok(v1::OnExhausted::ParkKey) => Some(OnExhausted::ParkKey),
        Err(_) => {
            return Err(invalid("policy.retry.on_exhausted", format!("{} is not known", retry.on_exhausted)));
        }
    };
    Ok(RetryOpinion {
        backoff_min: non_zero_ms(retry.backoff_min_ms),
        backoff_max: non_zero_ms(retry.backoff_max_ms),
        max_attempts: Some(retry.max_attempts).filter(|attempts| *attempts > 0),
        on_exhausted,
    })
}

fn non_zero_ms(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

fn start(start: v1::Start) -> Option<StartAt> {
    start.at.map(|at| match at {
        v1::start::At::Earliest(_) => StartAt::Earliest,
        v1::start::At::Latest(_) => StartAt::Latest,
        v1::start::At::Offset(offset) => StartAt::Offset(offset),
        v1::start::At::TimeUs(time_us) => StartAt::TimeUs(time_us),
    })
}

fn policy(policy: &Policy) -> v1::GroupPolicy {
    let mode = match policy.mode {
        Mode::Ordered => v1::GroupMode::Ordered,
        Mode::Shared => v1::GroupMode::Shared,
        Mode::Keyed => v1::GroupMode::Keyed,
    };
    let at = match policy.start {
        StartAt::Earliest => v1::start::At::Earliest(v1::start::Earliest {}),
        StartAt::Latest => v1::start::At::Latest(v1::start::Latest {}),
        StartAt::Offset(offset) => v1::start::At::Offset(offset),
        StartAt::TimeUs(time_us) => v1::start::At::TimeUs(time_us),
    };
    v1::GroupPolicy {
        mode: mode.into(),
        start: Some(v1::Start { at: Some(at) }),
        ack_timeout_ms: whole_ms(policy.ack_timeout),
        retry: Some(retry_policy(&policy.retry)),
        hours: policy.hours.are_limited().then(|| delivery_hours(&policy.hours)),
    }
}

fn delivery_hours(hours: &DeliveryHours) -> v1::DeliveryHours {
    let window = |window: DailyWindow| v1::DailyWindow {
        from_minute: window.from_minute.into(),
        to_minute: window.to_minute.into(),
    };
    v1::DeliveryHours {
        windows: hours.windows().map(window).collect(),
        utc_offset_minutes: hours.utc_offset_minutes().into(),
    }
}

fn retry_policy(retry: &RetryPolicy) -> v1::RetryPolicy {
    let on_exhausted = match retry.on_exhausted {
        OnExhausted::Park => v1::OnExhausted::Park,
        OnExhausted::Halt => v1::OnExhausted::Halt,
        OnExhausted::ParkKey => v1::OnExhausted::ParkKey,
    };
    v1::RetryPolicy {
        backoff_min_ms: whole_ms(retry.backoff_min),
        backoff_max_ms: whole_ms(retry.backoff_max),
        max_attempts: retry.max_attempts,
        on_exhausted: on_exhausted.into(),
    }
}

fn whole_ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

// ---- what is shown

pub(super) fn group(name: String, group: &Group, topics: Vec<String>, members: usize) -> v1::Group {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    v1::Group { name, policy: Some(policy(&group.policy)), created_us: group.created_us, topics, members }
}

pub(super) fn member(view: MemberView, topic: String) -> v1::Member {
    v1::Member {
        id: view.id,
        name: view.name,
        topic,
        partitions: view.partitions,
        leaving_partitions: view.leaving_partitions,
        open_records: view.open_records,
        joined_us: view.joined_us,
        timeouts: view.timeouts,
        parked: view.parked,
        last_settled_us: view.last_settled_us.unwrap_or(0),
        stalled_since_us: view.stalled_since_us.unwrap_or(0),
        keep_ms: whole_ms(view.keep),
        away_until_us: view.away_until_us.unwrap_or(0),
    }
}

pub(super) fn failed_records(topic: String, failed: &FailedRecords<'_>) -> v1::FailedRecords {
    v1::FailedRecords {
        topic,
        partition: failed.partition,
        offsets: Some(range(failed.range.clone())),
        attempts: failed.failure.attempts,
        first_error: failed.failure.first_error.to_string(),
        last_error: failed.failure.last_error.to_string(),
        first_failed_us: failed.failure.first_failed_us,
        last_failed_us: failed.failure.last_failed_us,
    }
}

pub(crate) fn lag(lag: PartitionLag) -> v1::PartitionLag {
    let Forecast { pace, catch_up, loss, risk } = lag.forecast;
    let cause = loss.map_or(v1::LossCause::Unspecified, |loss| match loss.cause {
        LossCause::Age => v1::LossCause::Age,
        LossCause::Bytes => v1::LossCause::Bytes,
    });
    let risk = match risk {
        Risk::None => v1::RetentionRisk::Unspecified,
        Risk::Near => v1::RetentionRisk::Near,
        Risk::Lost => v1::RetentionRisk::Lost,
    };
    v1::PartitionLag {
        lag_records: lag.records(),
        lag_bytes: lag.bytes,
        lag_seconds: lag.behind.as_secs_f64(),
        group: lag.group,
        topic: lag.topic,
        topic_id: lag.topic_id.to_vec().into(),
        partition: lag.partition,
        log_start_offset: lag.log_start,
        committed_offset: lag.committed,
        high_watermark: lag.high_watermark,
        member: lag.member.unwrap_or_default(),
        rate_in: pace.records_in,
        rate_out: pace.records_out,
        bytes_in: pace.bytes_in,
        catch_up_seconds: catch_up.map(|time| time.as_secs_f64()),
        retention_loss_seconds: loss.map(|loss| loss.within.as_secs_f64()),
        retention_loss_cause: cause.into(),
        retention_risk: risk.into(),
        holds_publishers_since_us: lag.holds_since_us,
    }
}

pub(super) fn partition_reset(moved: Moved) -> v1::PartitionReset {
    // Without a position it would have begun where it begins now.
    v1::PartitionReset { partition: moved.partition, from_offset: moved.from.unwrap_or(moved.to), to_offset: moved.to }
}

pub(super) fn reset_request(request: v1::ResetGroupRequest) -> Result<(ResetRequest, Execution), GroupError> {
    let v1::ResetGroupRequest { group, topic, partitions, to, dry_run } = request;
    let to = match to {
        Some(v1::reset_group_request::To::Start(at)) => start(at).map(ResetTo::Start),
        Some(v1::reset_group_request::To::Shift(shift)) => Some(ResetTo::Shift(shift)),
        None => None,
    };
    let to = to.ok_or_else(|| invalid("to", "must be given: a start, or a shift"))?;
    let execution = if dry_run { Execution::Plan } else { Execution::Do };
    Ok((ResetRequest { group, topic, partitions, to }, execution))
}

// ---- the stream of a member

/// The requests of a member. They end when its client goes, in whatever way; one that cannot be decoded is an error.
pub(super) fn requests(stream: Streaming<v1::ConsumeRequest>) -> impl Stream<Item = Result<Request, GroupError>> {
    let known = stream.map(|request| match request {
        Ok(request) => Some(self::request(request)),
        Err(status) => {
            let refused = status::of_the_framework(&status, DEFAULT_REQUEST_BYTES_MAX)?;
            Some(Err(invalid("event", refused.message())))
        }
    });
    known.take_while(|request| ready(request.is_some())).filter_map(ready)
}

fn request(request: v1::ConsumeRequest) -> Result<Request, GroupError> {
    use consume_request::Event as Wire;
    Ok(match request.event.ok_or_else(|| invalid("event", "is missing, or not known to this broker"))? {
        Wire::Join(join) => Request::Join(Box::new(join_request(join)?)),
        Wire::Credit(wire) => Request::Credit(credit(wire)),
        Wire::Ack(ack) => Request::Ack(settle(ack.ack_id, ack.partition, ack.generation, ack.ranges)?),
        Wire::Nack(nack) => Request::Nack {
            settle: settle(nack.ack_id, nack.partition, nack.generation, nack.ranges)?,
            pause: nack
                .delay_ms
                .map_or(Pause::Backoff, |ms| Pause::Fixed(Duration::from_millis(ms.into()).min(NACK_DELAY_MAX))),
            error: nack.error,
        },
        Wire::Park(park) => Request::Park {
            settle: settle(park.ack_id, park.partition, park.generation, park.ranges)?,
            reason: park.reason,
        },
        Wire::Extend(extend) => Request::Extend(settle(0, extend.partition, extend.generation, extend.ranges)?),
        Wire::Release(release) => Request::Release(settle(0, release.partition, release.generation, release.ranges)?),
        Wire::Heartbeat(_) => Request::Heartbeat,
        Wire::Leave(leave) => Request::Leave(if leave.for_good { Leave::ForGood } else { Leave::ForNow }),
    })
}

fn join_request(join: v1::Join) -> Result<JoinRequest, GroupError> {
    if join.member_name.len() > NAME_BYTES_MAX {
        return Err(invalid(
            "member_name",
            format!("has {} bytes; {NAME_BYTES_MAX} are allowed", join.member_name.len()),
        ));
    }
    let heartbeat = match join.heartbeat_ms {
        0 => HEARTBEAT_DEFAULT,
        ms => Duration::from_millis(ms.into()).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX),
    };
    let keep = Duration::from_millis(join.keep_ms.into());
    if keep > KEEP_MAX {
        let (given, most) = (join.keep_ms, KEEP_MAX.as_millis());
        return Err(invalid("keep_ms", format!("{given} is more than {most}")));
    }
    if !keep.is_zero() && join.member_name.is_empty() {
        return Err(invalid("member_name", "must be given where partitions are to wait for it (`keep_ms`)"));
    }
    Ok(JoinRequest {
        group: join.group,
        topic: join.topic,
        topic_id: join.topic_id,
        member_name: join.member_name,
        keep,
        opinion: opinion(join.policy)?,
        credit: join.credit.map(credit).unwrap_or_default(),
        heartbeat,
    })
}

fn credit(credit: v1::Credit) -> Credit {
    Credit { bytes: credit.bytes, records: credit.records }
}

fn settle(ack_id: u64, partition: u32, generation: u64, ranges: Vec<v1::OffsetRange>) -> Result<Settle, GroupError> {
    let ranges = offset_ranges(ranges)?;
    Ok(Settle { ack_id: NonZeroU64::new(ack_id), partition, generation, ranges })
}

pub(super) fn offset_ranges(ranges: Vec<v1::OffsetRange>) -> Result<Vec<Range<Offset>>, GroupError> {
    if ranges.len() > RANGES_MAX {
        return Err(invalid("ranges", format!("there are {}; {RANGES_MAX} are allowed", ranges.len())));
    }
    Ok(ranges.into_iter().map(|range| range.from..range.to).collect())
}

pub(super) fn dead_letters(view: LettersView) -> v1::DeadLetters {
    v1::DeadLetters {
        group: view.group,
        topic: view.topic,
        dead_letter_topic: view.lie_in,
        unsettled: view.unsettled.into_iter().map(range).collect(),
        oldest_us: view.oldest_us.unwrap_or(0),
    }
}

pub(super) fn event(event: Event) -> v1::ConsumeResponse {
    use consume_response::Event as Wire;
    let event = match event {
        Event::Joined { topic_id, member, policy: of_group, partitions } => Wire::Joined(v1::Joined {
            topic_id: topic_id.to_vec().into(),
            member_id: member,
            policy: Some(policy(&of_group)),
            partitions,
        }),
        Event::Assignment { assigned, revoked } => Wire::Assignment(v1::Assignment {
            assigned: assigned.into_iter().map(assigned_partition).collect(),
            revoked,
        }),
        Event::Delivery(delivered) => Wire::Delivery(delivery(delivered)),
        Event::Settled { ack_id, committed, error } => Wire::Settled(v1::Settled {
            ack_id: ack_id.get(),
            committed_offset: committed,
            error: error.map(error_message),
        }),
        Event::Gap { partition, lost, cause } => {
            let reason = match cause {
                Loss::Retention => v1::gap::Reason::Retention,
                Loss::Damage => v1::gap::Reason::Damaged,
            };
            let gap = Some(v1::Gap { from: lost.start, to: lost.end, reason: reason.into() });
            Wire::Gap(v1::PartitionGap { partition, gap })
        }
        Event::Failure { partition, error } => {
            Wire::Failure(v1::PartitionFailure { partition, error: Some(error_message(error)) })
        }
        Event::Rewound { partition, generation, offset } => {
            Wire::Rewound(v1::Rewound { partition, generation, offset })
        }
        Event::Heartbeat => Wire::Heartbeat(v1::ConsumeHeartbeat {}),
    };
    v1::ConsumeResponse { event: Some(event) }
}

fn assigned_partition(assigned: Assigned) -> v1::AssignedPartition {
    let Assigned { partition, generation, committed } = assigned;
    v1::AssignedPartition { partition, generation, committed_offset: committed }
}

fn delivery(delivery: Delivery) -> v1::Delivery {
    v1::Delivery {
        partition: delivery.partition,
        generation: delivery.generation,
        batch: Some(convert::batch_to_wire(delivery.batch)),
        ranges: delivery.ranges.into_iter().map(range).collect(),
        attempt: delivery.attempt,
        high_watermark: delivery.high_watermark,
    }
}

fn range(range: Range<Offset>) -> v1::OffsetRange {
    v1::OffsetRange { from: range.start, to: range.end }
}

fn error_message(error: GroupError) -> tonic_types::Status {
    status::to_message(&Status::from(error))
}
