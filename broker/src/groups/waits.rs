//! For what the partitions of a group wait, so that nobody has to guess why nothing comes.
//!
//! Only whoever delivers a partition knows. It is asked when somebody wants to know, and says it in facts; the words for
//! them are here.

use std::fmt;

use aqueduct_storage::Offset;
use tokio::sync::oneshot;

use super::{
    Groups, assignment::MemberId, check_name, error::GroupError, retry::Failure, sources::Sources, state::TopicId,
    window::OPEN_RECORDS_MAX,
};

/// A partition that is not delivered further for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionWait {
    pub(crate) partition: u32,
    pub(crate) cause: WaitCause,
    /// What would be read next.
    pub(crate) next: Offset,
}

/// Why a partition is not delivered further for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WaitCause {
    /// Delivery is [`OPEN_RECORDS_MAX`] ahead of the committed offset.
    TooFarAhead {
        /// The first that is not settled.
        first: Offset,
        /// Who has it; `None` while it is with nobody.
        with: Option<MemberId>,
    },
    /// Keyed: no more can be put where records are tried again.
    TooManyInRetry {
        /// How many are there.
        records: usize,
    },
    /// In order: nothing overtakes a record that has failed.
    Retry { offset: Offset, failure: Failure, until_us: i64 },
    /// In order: the record has used up its attempts, and nothing may overtake it.
    Halted { offset: Offset, failure: Failure },
    /// It is outside the hours of the group.
    OutsideHours,
    /// Records follow earlier ones of their keys. Others are delivered.
    Keys {
        /// How many.
        records: u64,
        /// Where the first of them is.
        first: Offset,
    },
    /// Keyed: records have failed, or follow one that has. Other keys go on.
    InRetry {
        /// How many.
        records: usize,
        /// When the first of them is due; `None`: what they follow is with a member, or on its way.
        until_us: Option<i64>,
    },
    /// Keyed: it is not known yet which keys have something in retry, or dead letters.
    LookingThrough,
    /// No member takes anything now.
    MembersBusy,
    /// Its log cannot be read.
    OutOfService,
}

impl fmt::Display for WaitCause {
    /// What happens, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of =
            |failure: &Failure| format!("has failed {} times, last with {:?}", failure.attempts, failure.last_error);
        match self {
            Self::TooFarAhead { first, with: Some(_) } => write!(
                f,
                "{OPEN_RECORDS_MAX} records from offset {first} on have been delivered, and that one is not settled: ack, \
                 nack or park it, or stop the member that has it"
            ),
            Self::TooFarAhead { first, with: None } => write!(
                f,
                "{OPEN_RECORDS_MAX} records from offset {first} on have been delivered, and that one waits for its next \
                 attempt or to be moved away: mend what fails, and see the broker's log if it stays"
            ),
            Self::TooManyInRetry { records } => write!(
                f,
                "{records} records have failed or follow one of their key that has, and no more can be kept: mend what fails, \
                 or park it"
            ),
            Self::Retry { offset, failure, .. } => write!(
                f,
                "offset {offset} {} and is tried again before anything behind it: mend what fails, or park it",
                of(failure)
            ),
            Self::Halted { offset, failure } => write!(
                f,
                "offset {offset} {} and halts its partition: alter the group (more attempts, or park), or move it past the \
                 offset with a reset",
                of(failure)
            ),
            Self::OutsideHours => {
                f.write_str("it is outside the hours of the group: wait for them, or alter the group's hours")
            }
            Self::Keys { records, first, .. } => write!(
                f,
                "{records} records, the first at offset {first}, follow earlier ones of their keys that are not settled; \
                 other keys go on"
            ),
            Self::InRetry { records, .. } => write!(
                f,
                "{records} records have failed, or follow one of their key that has, and wait for their time or that one; \
                 other keys go on"
            ),
            Self::LookingThrough => f.write_str(
                "what is tried again, or among the dead letters, is looked through first, so that every key stays in order: it \
                 goes on by itself, and the broker's log says why if it does not",
            ),
            Self::MembersBusy => f.write_str(
                "no member takes more for now: let them settle what they have and read their streams, or add members",
            ),
            Self::OutOfService => f.write_str(
                "it cannot be read, and the broker's log says why: once it is back, let its members join again",
            ),
        }
    }
}

impl PartitionWait {
    /// Whether there is anything that waits.
    fn holds_up(&self, source: Option<&Sources>) -> bool {
        match self.cause {
            WaitCause::Retry { .. }
            | WaitCause::Halted { .. }
            | WaitCause::Keys { .. }
            | WaitCause::InRetry { .. }
            | WaitCause::OutOfService => true,
            WaitCause::TooFarAhead { .. }
            | WaitCause::TooManyInRetry { .. }
            | WaitCause::OutsideHours
            | WaitCause::LookingThrough
            | WaitCause::MembersBusy => {
                let log = source.and_then(|source| source.log(self.partition).ok());
                log.is_some_and(|log| self.next < log.watch().borrow().high_watermark)
            }
        }
    }
}

/// See [`PartitionWait`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitView {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) cause: WaitCause,
}

impl Groups {
    /// For what the partitions of `group` wait, by topic and partition. One that nobody has, or that has nothing left to
    /// deliver, is not among them.
    ///
    /// # Errors
    /// While shutting down.
    pub(crate) async fn waits(&self, group: String) -> Result<Vec<WaitView>, GroupError> {
        check_name(&group)?;
        let name = group.clone();
        let owners = self.handle.ask(move |coordinator| Ok(coordinator.owners_of(&name))).await?;
        let mut views = Vec::new();
        for (topic, ask) in owners {
            let (reply, answer) = oneshot::channel();
            // It answers between two deliveries, unless it has just ended: then its partitions are on their way.
            let asked = ask.send(reply).await;
            let waits = if asked.is_ok() { answer.await.unwrap_or_default() } else { Vec::new() };
            let source = self.topics.find_by_id(&topic).map(|found| Sources::new(&self.topics, found, group.clone()));
            let waits = waits.into_iter().filter(|wait| wait.holds_up(source.as_ref()));
            views.extend(waits.map(|PartitionWait { partition, cause, .. }| WaitView { topic, partition, cause }));
        }
        views.sort_by_key(|view| (view.topic, view.partition));
        Ok(views)
    }
}
