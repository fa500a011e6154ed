//! What keeps a group from going on.

use aqueduct_proto::v1;

use crate::types::{Offset, Timestamp};

/// A partition that some member has, and that is not delivered further for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionWait {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: u32,
    /// Why; `None` for a reason that this client does not know.
    pub reason: Option<WaitReason>,
    /// The record that is waited for, or the first that waits.
    pub offset: Option<Offset>,
    /// Until when, if nobody acts; `None`: until somebody does.
    pub until: Option<Timestamp>,
    /// The member that has that record, or the only one that has the partition and takes no more: its name, or `#` and its
    /// number.
    pub member: Option<String>,
    /// What happens, and what to do, in the words of the broker.
    pub message: String,
}

/// Why a partition is not delivered further for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitReason {
    /// As many records as may be have been delivered from the first that is not settled on.
    OpenRecords,
    /// Keyed: as many records as may be have failed, or follow one of their key that has.
    FailedRecords,
    /// In order: a record that has failed is tried again, and nothing overtakes it.
    Retry,
    /// In order: a record has used up its attempts, and nothing may overtake it.
    Halted,
    /// It is outside the hours of the group.
    Hours,
    /// Keyed: records follow earlier ones of their keys; among the retries, they have failed, or follow one that has. Others
    /// are delivered.
    Keys,
    /// No member takes more: their credit is used up, or they do not read.
    MembersBusy,
    /// Its log cannot be read.
    OutOfService,
    /// Keyed: it is not known yet which keys have failed records or dead letters. It goes on by itself.
    LookingThrough,
}

impl WaitReason {
    /// `open-records`, `failed-records`, `retry`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenRecords => "open-records",
            Self::FailedRecords => "failed-records",
            Self::Retry => "retry",
            Self::Halted => "halted",
            Self::Hours => "hours",
            Self::Keys => "keys",
            Self::MembersBusy => "members-busy",
            Self::OutOfService => "out-of-service",
            Self::LookingThrough => "looking-through",
        }
    }
}

/// Records of one topic that have left the way of the others, and that the group tries again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRetries {
    /// Where they come from.
    pub topic: String,
    /// Due, and not settled; letters that were redriven are among them, and in a keyed group without members all that wait.
    pub due: u64,
    /// Wait for their time. A record on its way may be counted here and as due.
    pub later: u64,
    /// There are at least so many: more waits at the broker than it counts at once.
    pub later_is_at_least: bool,
    /// When the next of them is due, or at the latest if that is not all of them.
    pub next_due: Option<Timestamp>,
    /// What the attempt ended with at the one that was put off last.
    pub last_error: Option<String>,
}

/// A member whose stream the broker has ended because of what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOutMember {
    /// Which it was.
    pub id: u64,
    /// As it called itself; may be empty.
    pub name: String,
    /// What it consumed.
    pub topic: String,
    /// When.
    pub at: Timestamp,
    /// For programs: `MEMBER_STUCK`, `MEMBER_SILENT`, `MEMBER_NOT_READING`, `MEMBER_REPLACED`.
    pub reason: String,
    /// Why, and what to do, in the words of the broker.
    pub message: String,
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn time(time_us: i64) -> Option<Timestamp> {
    (time_us != 0).then(|| Timestamp::from_micros(time_us))
}

impl From<v1::PartitionWait> for PartitionWait {
    fn from(wait: v1::PartitionWait) -> Self {
        let reason = match wait.reason() {
            v1::WaitReason::Unspecified => None,
            v1::WaitReason::OpenRecords => Some(WaitReason::OpenRecords),
            v1::WaitReason::FailedRecords => Some(WaitReason::FailedRecords),
            v1::WaitReason::Retry => Some(WaitReason::Retry),
            v1::WaitReason::Halted => Some(WaitReason::Halted),
            v1::WaitReason::Hours => Some(WaitReason::Hours),
            v1::WaitReason::Keys => Some(WaitReason::Keys),
            v1::WaitReason::MembersBusy => Some(WaitReason::MembersBusy),
            v1::WaitReason::OutOfService => Some(WaitReason::OutOfService),
            v1::WaitReason::LookingThrough => Some(WaitReason::LookingThrough),
        };
        Self {
            topic: wait.topic,
            partition: wait.partition,
            reason,
            offset: wait.offset,
            until: time(wait.until_us),
            member: non_empty(wait.member),
            message: wait.message,
        }
    }
}

impl From<v1::WaitingRetries> for WaitingRetries {
    fn from(retries: v1::WaitingRetries) -> Self {
        Self {
            topic: retries.topic,
            due: retries.due,
            later: retries.later,
            later_is_at_least: retries.later_is_at_least,
            next_due: time(retries.next_due_us),
            last_error: non_empty(retries.last_error),
        }
    }
}

impl From<v1::TakenOutMember> for TakenOutMember {
    fn from(member: v1::TakenOutMember) -> Self {
        Self {
            id: member.id,
            name: member.name,
            topic: member.topic,
            at: Timestamp::from_micros(member.at_us),
            reason: member.reason,
            message: member.message,
        }
    }
}
