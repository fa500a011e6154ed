//! What can go wrong with groups. [`crate::status`] maps it to gRPC.

use aqueduct_storage::Offset;

use crate::{
    engine::ReadError,
    error::{NameError, TopicError},
};

/// Why an operation on a group, or a member's stream, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GroupError {
    /// See [`NameError`].
    #[error("group {name:?}: {source}")]
    Name {
        /// As given.
        name: String,
        /// The rule it breaks.
        source: NameError,
    },
    /// No such group.
    #[error("group {0:?} does not exist; it is made by `aqueduct group create {0}`, or by its first member")]
    Unknown(String),
    /// A group of that name exists.
    #[error("group {0:?} exists already")]
    Exists(String),
    /// A member wants another policy than its group has.
    #[error("group {group:?} has {field} {has}, not {wanted}: leave it out, or alter the group")]
    PolicyDisagrees {
        /// Its name.
        group: String,
        /// Which part of the policy.
        field: &'static str,
        /// The group's.
        has: String,
        /// The member's.
        wanted: String,
    },
    /// A field of the request is missing or wrong.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A topic of the broker's own that this group cannot consume.
    #[error("topic {topic:?} is not consumed by this group: {reason}")]
    NotConsumable {
        /// Its name.
        topic: String,
        /// Why not, and what to do instead.
        reason: &'static str,
    },
    /// Not while somebody is consuming.
    #[error("group {group:?} has {members} active members; stop them first")]
    MembersActive {
        /// Its name.
        group: String,
        /// How many.
        members: usize,
    },
    /// An offset that the partition does not have.
    #[error("partition {partition}: offset {offset} is outside [{log_start}, {high_watermark}]")]
    OutOfRange {
        /// Its number.
        partition: u32,
        /// What was asked for, or stored.
        offset: Offset,
        /// First readable offset.
        log_start: Offset,
        /// First offset that is not readable yet.
        high_watermark: Offset,
    },
    /// `Commit` only goes forward.
    #[error(
        "partition {partition}: the committed offset is {committed} already; moving back to {offset} takes a reset"
    )]
    CommitBackwards {
        /// Its number.
        partition: u32,
        /// What was asked for.
        offset: Offset,
        /// What is stored.
        committed: Offset,
    },
    /// The partition has moved on since this delivery.
    #[error("generation {generation} of partition {partition} is over: its records are delivered to the new owner")]
    StaleGeneration {
        /// Its number.
        partition: u32,
        /// As sent.
        generation: u64,
    },
    /// Some of these records are not with this member any more.
    #[error(
        "records of partition {partition} were taken back from this member, because it was late or gave them back: they \
         are delivered again"
    )]
    TakenBack {
        /// Its number.
        partition: u32,
    },
    /// A record has failed too often, and the group's policy lets nothing overtake it.
    #[error(
        "partition {partition} is halted: offset {offset} has failed {attempts} times, last with {last_error:?}; alter the \
         group (more attempts, or park) or move it past the offset with a reset, and join again"
    )]
    Halted {
        /// Its number.
        partition: u32,
        /// Of the record.
        offset: Offset,
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt ended with.
        last_error: String,
    },
    /// Records could not be moved to the dead letters, or back from there. They are where they were, and may be there, too.
    #[error("records could not be stored in {topic:?}: {reason}")]
    NotMoved {
        /// Where they were to go.
        topic: String,
        /// Why not.
        reason: String,
    },
    /// It was not known where to begin.
    #[error("partition {partition} was out of service when the group joined; join again once it is back")]
    NoPosition {
        /// Its number.
        partition: u32,
    },
    /// Nothing was heard from the member.
    #[error("nothing came from this member for {silent_ms} ms, so it was taken for gone; send heartbeats")]
    MemberSilent {
        /// For how long.
        silent_ms: u128,
    },
    /// The member is delivered to and settles nothing.
    #[error(
        "nothing was settled in {timeouts} ack time-outs of {ack_timeout_ms} ms in a row, so the partitions go to others; \
         join again once the handler goes on"
    )]
    MemberStuck {
        /// In a row.
        timeouts: u32,
        /// The group's.
        ack_timeout_ms: u128,
    },
    /// The client takes nothing from its stream.
    #[error("nothing was taken from this stream for {unread_ms} ms; join again and read it")]
    MemberNotReading {
        /// For how long.
        unread_ms: u128,
    },
    /// Another stream has joined under the same static name.
    #[error("another member has joined as {name:?} and takes its place; give each member a name of its own")]
    MemberReplaced {
        /// The name of both.
        name: String,
    },
    /// A bound of the broker.
    #[error("this broker takes at most {limit} {what}")]
    TooMany {
        /// Groups, members …
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The topic went away while the group consumed it.
    #[error("topic {0:?} was deleted")]
    TopicDeleted(String),
    /// The broker is stopping. Nothing was changed.
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// Group state could not be made durable, or not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// See [`TopicError`].
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// See [`ReadError`].
    #[error("{topic}/{partition}: {source}")]
    Read {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: u32,
        /// From the engine.
        source: ReadError,
    },
}

impl GroupError {
    /// Whether a member's stream ends with it because of what that member does, or does not do.
    pub(crate) fn is_about_conduct(&self) -> bool {
        matches!(
            self,
            Self::MemberSilent { .. }
                | Self::MemberStuck { .. }
                | Self::MemberNotReading { .. }
                | Self::MemberReplaced { .. }
        )
    }
}

/// What can happen to the log of group state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JournalError {
    /// No room. Nothing was written.
    #[error("the disk of the broker is full: the group's change was not stored")]
    Full,
    /// It may have been written, and it may not.
    #[error("the outcome of storing the group's change is unknown: {0}")]
    Unknown(String),
    /// The log takes no writes for now. Nothing was written.
    #[error("group state cannot be stored for now: {0}")]
    Unavailable(String),
    /// Another broker has taken it over. Nothing was written.
    #[error("another broker owns the groups since epoch {epoch}")]
    Fenced {
        /// Of the lease in force.
        epoch: u32,
    },
    /// What was stored is torn, missing or not understood: where groups stand cannot be told.
    #[error(
        "the stored state of groups is damaged ({0}); restore `system/groups` from a backup: no group starts over by itself"
    )]
    Damaged(String),
}
