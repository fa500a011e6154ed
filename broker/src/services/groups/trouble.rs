//! What a description says of a group that does not go on as it should.

use aqueduct_proto::v1;

use crate::{
    delays::Extent,
    groups::{GroupDescription, MemberView, RetriesView, TakenOut, WaitCause, WaitView},
    status,
};

/// `topic` is the name of the topic that it is about.
pub(super) fn wait(
    topic: String,
    view: WaitView,
    description: &GroupDescription,
    closed_until_us: Option<i64>,
) -> v1::PartitionWait {
    let WaitView { topic: of, partition, cause } = view;
    let message = cause.to_string();
    let name = |id| {
        let member = description.members.iter().find(|member| member.id == id);
        member.map_or_else(String::new, MemberView::label)
    };
    let only_one = || {
        let has_it = |member: &&MemberView| member.topic == of && member.partitions.contains(&partition);
        let mut with = description.members.iter().filter(has_it);
        with.next().filter(|_| with.next().is_none()).map(MemberView::label)
    };
    let (reason, offset, until_us, member) = match cause {
        WaitCause::TooFarAhead { first, with } => (v1::WaitReason::OpenRecords, Some(first), None, with.map(name)),
        WaitCause::TooManyInRetry { .. } => (v1::WaitReason::FailedRecords, None, None, None),
        WaitCause::Retry { offset, until_us, .. } => (v1::WaitReason::Retry, Some(offset), Some(until_us), None),
        WaitCause::Halted { offset, .. } => (v1::WaitReason::Halted, Some(offset), None, None),
        WaitCause::OutsideHours => (v1::WaitReason::Hours, None, closed_until_us, None),
        WaitCause::Keys { first, .. } => (v1::WaitReason::Keys, Some(first), None, None),
        WaitCause::InRetry { until_us, .. } => (v1::WaitReason::Keys, None, until_us, None),
        WaitCause::LookingThrough => (v1::WaitReason::LookingThrough, None, None, None),
        WaitCause::MembersBusy => (v1::WaitReason::MembersBusy, None, None, only_one()),
        WaitCause::OutOfService => (v1::WaitReason::OutOfService, None, None, None),
    };
    v1::PartitionWait {
        topic,
        partition,
        reason: reason.into(),
        offset,
        until_us: until_us.unwrap_or(0),
        member: member.unwrap_or_default(),
        message,
    }
}

/// `topic` is the name of the topic that it is about.
pub(super) fn retries(topic: String, view: RetriesView) -> v1::WaitingRetries {
    v1::WaitingRetries {
        topic,
        due: view.due,
        later: view.later,
        later_is_at_least: view.extent == Extent::Part,
        next_due_us: view.next_due_us.unwrap_or(0),
        last_error: view.last_error.unwrap_or_default(),
    }
}

pub(super) fn taken_out(taken_out: TakenOut) -> v1::TakenOutMember {
    let TakenOut { id, name, topic, at_us, why } = taken_out;
    v1::TakenOutMember { id, name, topic, at_us, reason: status::reason_of(&why), message: why.to_string() }
}
