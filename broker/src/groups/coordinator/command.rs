//! What the coordinator can be asked.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use aqueduct_storage::Offset;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::Coordinator;
use crate::{
    groups::{
        assignment::MemberId,
        error::GroupError,
        member::Newcomer,
        policy::{Policy, PolicyOpinion, StartAt},
        progress::Progress,
        roster::Standing,
        state::{Group, PositionKey, TopicId},
        waits::PartitionWait,
    },
    topics::Topic,
};

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, GroupError>>;

/// A question that changes nothing.
pub(crate) type Question = Box<dyn FnOnce(&mut Coordinator) + Send>;

/// One message to the coordinator.
pub(crate) enum Command {
    Ask(Question),
    Create {
        group: String,
        opinion: PolicyOpinion,
        reply: Reply<Group>,
    },
    Alter {
        group: String,
        opinion: PolicyOpinion,
        reply: Reply<Group>,
    },
    Delete {
        group: String,
        reply: Reply<()>,
    },
    /// Prepares a join: makes the group if there is none, and says which positions it lacks.
    Admit {
        group: String,
        opinion: PolicyOpinion,
        topic: TopicId,
        partitions: u32,
        reply: Reply<Admission>,
    },
    Join {
        join: Join,
        reply: Reply<Place>,
    },
    Settle {
        settlement: Settlement,
        reply: Reply<Vec<u32>>,
    },
    SetPositions {
        change: PositionChange,
        reply: Reply<Vec<Moved>>,
    },
    /// Dead letters need no attention any more; what was redriven of them waits for the group's members.
    SettleLetters {
        letters: Letters,
        reply: Reply<()>,
    },
    /// The group has a log of records that are tried again; it waits for the group's members.
    BeginRetries {
        retries: Retries,
        reply: Reply<()>,
    },
    TopicGrown {
        topic: Arc<Topic>,
        reply: Reply<()>,
    },
    TopicDeleted {
        topic: TopicId,
        reply: Reply<()>,
    },
    /// Ends every stream, and at `deadline` stops waiting for them.
    Shutdown {
        deadline: Instant,
    },
}

/// What a member needs to know before it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) policy: Policy,
    /// Where a partition begins that has no position yet.
    pub(crate) start: StartAt,
    /// The partitions without a position.
    pub(crate) missing: Vec<u32>,
}

/// Somebody wants to consume.
pub(crate) struct Join {
    pub(crate) group: String,
    pub(crate) topic: Arc<Topic>,
    pub(crate) member_name: String,
    /// How long its partitions wait for a member of the same name when it has gone; zero: they do not.
    pub(crate) keep: Duration,
    /// Where to begin, for partitions that have no position yet.
    pub(crate) starts: Vec<NewPosition>,
    pub(crate) partitions: u32,
}

/// A position to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewPosition {
    pub(crate) partition: u32,
    pub(crate) offset: Offset,
}

/// Where somebody who wants to consume belongs.
pub(crate) enum Place {
    /// Among the owners of partitions.
    Owner(Owner, Membership),
    /// With others at the hub, which the mailbox leads to.
    Seat(mpsc::Sender<Newcomer>, Membership),
    /// As the first at a hub that is to be started.
    FirstSeat(NewHub, Membership),
}

/// A hub that is to be started.
pub(crate) struct NewHub {
    pub(crate) owner: Owner,
    pub(crate) mailbox: mpsc::Sender<Newcomer>,
    pub(crate) newcomers: mpsc::Receiver<Newcomer>,
}

/// The right to have partitions. Dropping the receiver of the target is giving it up.
pub(crate) struct Owner {
    pub(crate) id: MemberId,
    pub(crate) target: watch::Receiver<Target>,
    /// Somebody wants to know what its partitions wait for.
    pub(crate) asked: mpsc::Receiver<WaitsReply>,
}

/// Where an owner says what its partitions wait for.
pub(crate) type WaitsReply = oneshot::Sender<Vec<PartitionWait>>;

/// The right to be a member. Dropping it is leaving.
pub(crate) struct Membership {
    pub(crate) id: MemberId,
    pub(crate) policy: Policy,
    pub(crate) generation: SeatGeneration,
    /// Absent for a member that is its own [`Owner`].
    pub(crate) target: Option<watch::Receiver<Target>>,
    pub(crate) stats: Arc<MemberStats>,
}

/// In which generation a member has its partitions, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeatGeneration {
    /// Each in that of its owner.
    OfPartition,
    /// All of them in this one.
    Own(u64),
}

/// What a member is to have, as of now. It is a state, not a queue: a slow member skips what is past.
#[derive(Debug, Default)]
pub(crate) struct Target {
    pub(crate) grants: std::collections::BTreeMap<u32, Grant>,
    /// How often dead letters of the group have been redriven or discarded since the member came.
    pub(crate) letters_settled: u64,
    /// Its group's, as it is now.
    pub(crate) policy: Policy,
    /// The stream is to end with this.
    pub(crate) end: Option<GroupError>,
}

/// A partition given to a member.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) generation: u64,
    /// Where it goes on. `None` if the partition was out of service when the group began to read the topic.
    pub(crate) progress: Option<Progress>,
    pub(crate) standing: Standing,
}

/// Told by the member, shown by `Describe`.
#[derive(Debug, Default)]
pub(crate) struct MemberStats {
    open_records: AtomicU64,
    timeouts: AtomicU64,
    parked: AtomicU64,
    /// 0: never.
    last_settled_us: AtomicI64,
    /// 0: it is not stalled.
    stalled_since_us: AtomicI64,
    gone_for_good: AtomicBool,
    /// Why its stream was ended, if it was for its own conduct.
    taken_out: Mutex<Option<GroupError>>,
}

impl MemberStats {
    pub(crate) fn set_open_records(&self, records: u64) {
        self.open_records.store(records, Ordering::Relaxed);
    }

    pub(crate) fn count_timeout(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_parked(&self, records: u64) {
        self.parked.fetch_add(records, Ordering::Relaxed);
    }

    /// It has settled something at that time, in microseconds since the epoch.
    pub(crate) fn set_last_settled(&self, at_us: i64) {
        self.last_settled_us.store(at_us, Ordering::Relaxed);
    }

    /// Since that time nothing was settled although the ack time-out has passed; `None`: it settles.
    pub(crate) fn set_stalled_since(&self, since_us: Option<i64>) {
        self.stalled_since_us.store(since_us.unwrap_or(0), Ordering::Relaxed);
    }

    /// Its partitions are not to wait for it.
    pub(crate) fn set_gone_for_good(&self) {
        self.gone_for_good.store(true, Ordering::Relaxed);
    }

    /// Its stream ends because of what it does, or does not do.
    pub(crate) fn set_taken_out(&self, why: GroupError) {
        self.taken_out.lock().get_or_insert(why);
    }

    pub(crate) fn taken_out(&self) -> Option<GroupError> {
        self.taken_out.lock().clone()
    }

    pub(crate) fn last_settled_us(&self) -> Option<i64> {
        Some(self.last_settled_us.load(Ordering::Relaxed)).filter(|at_us| *at_us != 0)
    }

    pub(crate) fn stalled_since_us(&self) -> Option<i64> {
        Some(self.stalled_since_us.load(Ordering::Relaxed)).filter(|since_us| *since_us != 0)
    }

    pub(crate) fn is_gone_for_good(&self) -> bool {
        self.gone_for_good.load(Ordering::Relaxed)
    }

    pub(crate) fn open_records(&self) -> u64 {
        self.open_records.load(Ordering::Relaxed)
    }

    pub(crate) fn timeouts(&self) -> u64 {
        self.timeouts.load(Ordering::Relaxed)
    }

    pub(crate) fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }
}

/// What a member has settled since its last settlement. A member has one on its way at a time.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) member: MemberId,
    pub(crate) advanced: Vec<PartitionProgress>,
    pub(crate) given_up: Vec<PartitionGeneration>,
}

/// How far a member has got in one partition.
#[derive(Debug)]
pub(crate) struct PartitionProgress {
    pub(crate) at: PartitionGeneration,
    pub(crate) progress: Progress,
}

/// One tenure of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionGeneration {
    pub(crate) partition: u32,
    pub(crate) generation: u64,
}

/// Positions set from outside, while nobody consumes.
#[derive(Debug)]
pub(crate) struct PositionChange {
    pub(crate) group: String,
    pub(crate) topic: TopicId,
    pub(crate) positions: Vec<NewPosition>,
    pub(crate) direction: Direction,
}

/// Where positions may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Forward only.
    Commit,
    /// Anywhere.
    Reset,
}

/// Dead letters of one group on one topic.
#[derive(Debug)]
pub(crate) struct Letters {
    pub(crate) group: String,
    pub(crate) topic: TopicId,
    /// The topic that holds them.
    pub(crate) lie_in: TopicId,
    pub(crate) range: Range<Offset>,
    /// Where the first of those that were redriven lies; `None` if none was.
    pub(crate) redriven_at: Option<Offset>,
}

/// Records that one group tries again.
#[derive(Debug)]
pub(crate) struct Retries {
    pub(crate) group: String,
    pub(crate) topic: TopicId,
    /// Where the first of them will lie at the earliest.
    pub(crate) begin: Offset,
}

/// A position that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) partition: u32,
    /// `None` if the group had no position there.
    pub(crate) from: Option<Offset>,
    pub(crate) to: Offset,
}

impl PositionChange {
    pub(super) fn key(&self, partition: u32) -> PositionKey {
        PositionKey { group: self.group.clone(), topic: self.topic, partition }
    }
}
