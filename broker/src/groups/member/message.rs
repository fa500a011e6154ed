//! What a member and its client say to each other.

use std::{num::NonZeroU64, ops::Range, time::Duration};

use aqueduct_storage::{Batch, Offset};
use bytes::Bytes;

use crate::groups::{
    assignment::MemberId,
    error::GroupError,
    policy::{Policy, PolicyOpinion},
    state::TopicId,
    window::Pause,
};

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Join(Box<JoinRequest>),
    Credit(Credit),
    Ack(Settle),
    Nack { settle: Settle, pause: Pause, error: String },
    Park { settle: Settle, reason: String },
    Extend(Settle),
    Release(Settle),
    Heartbeat,
    Leave(Leave),
}

/// How a member goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// If it has a static name, its partitions wait for it.
    ForNow,
    ForGood,
}

/// The first request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinRequest {
    pub(crate) group: String,
    pub(crate) topic: String,
    /// Empty, or what the topic must have.
    pub(crate) topic_id: Bytes,
    pub(crate) member_name: String,
    /// How long its partitions wait for a member of the same name when it has gone; zero: they do not.
    pub(crate) keep: Duration,
    pub(crate) opinion: PolicyOpinion,
    pub(crate) credit: Credit,
    pub(crate) heartbeat: Duration,
}

/// Room at the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

/// What became of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settle {
    /// Set if an answer is wanted.
    pub(crate) ack_id: Option<NonZeroU64>,
    pub(crate) partition: u32,
    pub(crate) generation: u64,
    pub(crate) ranges: Vec<Range<Offset>>,
}

/// To the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Joined {
        topic_id: TopicId,
        member: MemberId,
        policy: Policy,
        partitions: u32,
    },
    Assignment {
        assigned: Vec<Assigned>,
        revoked: Vec<u32>,
    },
    Delivery(Delivery),
    Settled {
        ack_id: NonZeroU64,
        committed: Offset,
        error: Option<GroupError>,
    },
    /// Delivery of this partition goes on from `offset`.
    Rewound {
        partition: u32,
        generation: u64,
        offset: Offset,
    },
    Gap {
        partition: u32,
        lost: Range<Offset>,
        cause: Loss,
    },
    Failure {
        partition: u32,
        error: GroupError,
    },
    Heartbeat,
}

/// Why offsets are not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Removed by retention or truncation.
    Retention,
    /// The bytes on disk fail their checksum.
    Damage,
}

/// A partition that the member has from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) partition: u32,
    pub(crate) generation: u64,
    pub(crate) committed: Offset,
}

/// Records for the member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) partition: u32,
    pub(crate) generation: u64,
    pub(crate) batch: Batch,
    /// The offsets that are delivered.
    pub(crate) ranges: Vec<Range<Offset>>,
    pub(crate) attempt: u32,
    pub(crate) high_watermark: Offset,
}
