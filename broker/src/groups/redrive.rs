//! What becomes of dead letters: they are listed, go back to the group that could not handle them, or are discarded.
//!
//! A redriven record goes to a log of the group's own, which its members read beside the partitions of the topic: no other
//! group sees it. It is there before its letter is settled, so a crash in between redrives it once more.

use std::{ops::Range, sync::Arc};

use aqueduct_client::DeadLetter;
use aqueduct_storage::Offset;

use super::{
    Groups, check_name,
    coordinator::{Command, Letters},
    dead_letters::{Found, append, first_batch},
    error::GroupError,
    progress::Progress,
    sources::Sources,
    state::{PositionKey, REDRIVEN},
};
use crate::{
    engine::{PartitionLog, ReadError},
    services::{Encoded, joined_records, unpack},
    topics::Topic,
};

/// The dead letters of one group on one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LettersView {
    pub(crate) group: String,
    pub(crate) topic: String,
    /// The topic that holds them.
    pub(crate) lie_in: String,
    /// Offsets there that are neither redriven nor discarded.
    pub(crate) unsettled: Vec<Range<Offset>>,
    /// When the first of those was parked.
    pub(crate) oldest_us: Option<i64>,
}

/// What becomes of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They go back to their group.
    Redriven,
    /// Nobody wants them.
    Discarded,
}

impl Groups {
    /// The dead letters of every group and topic, or of those that are named.
    ///
    /// # Errors
    /// An unknown group or topic, and what reading says.
    pub(crate) async fn dead_letters(
        &self,
        group: Option<&str>,
        topic: Option<&str>,
    ) -> Result<Vec<LettersView>, GroupError> {
        let mut views = Vec::new();
        for lie_in in self.topics.list() {
            let name = lie_in.meta().name.clone();
            let Some((of_topic, of_group)) = name.strip_suffix("~dlq").and_then(|name| name.rsplit_once('~')) else {
                continue;
            };
            if group.is_none_or(|group| group == of_group) && topic.is_none_or(|topic| topic == of_topic) {
                let log = Arc::clone(lie_in.partition(0)?.log()?);
                let unsettled = self.unsettled(of_group, &lie_in, &*log).await?;
                let oldest = unsettled.first().map(|range| log.append_time_at(range.start));
                let oldest_us = match oldest {
                    Some(asked) => asked.await.ok().flatten(),
                    None => None,
                };
                let (group, topic) = (of_group.to_owned(), of_topic.to_owned());
                views.push(LettersView { group, topic, lie_in: name.clone(), unsettled, oldest_us });
            }
        }
        // Nothing is also what a mistyped name gives.
        if views.is_empty() {
            topic.map(|topic| self.find(topic, &[])).transpose()?;
            if let Some(group) = group {
                self.describe(group.to_owned()).await?;
            }
        }
        Ok(views)
    }

    /// Settles those of the letters in `ranges` that are not settled yet; returns how many records that were.
    ///
    /// # Errors
    /// An unknown group or topic, and what reading and storing say. What was settled before stays so.
    pub(crate) async fn settle_letters(
        &self,
        group: &str,
        topic: &str,
        ranges: &[Range<Offset>],
        fate: Fate,
    ) -> Result<u64, GroupError> {
        check_name(group)?;
        let sources = Sources::new(&self.topics, self.find(topic, &[])?, group.to_owned());
        let Some(lie_in) = sources.dead_letters()? else { return Ok(0) };
        let log = Arc::clone(lie_in.partition(0)?.log()?);
        let mut settled = 0;
        for range in self.unsettled(group, &lie_in, &*log).await? {
            for wanted in ranges {
                let mut next = range.start.max(wanted.start);
                let end = range.end.min(wanted.end);
                while next < end {
                    let moved = match fate {
                        Fate::Redriven => redrive_some(&sources, &*log, next..end).await?,
                        Fate::Discarded => Moved { up_to: end, at: None },
                    };
                    let letters = Letters {
                        group: group.to_owned(),
                        topic: sources.topic_id(),
                        lie_in: lie_in.meta().id,
                        range: next..moved.up_to,
                        redriven_at: moved.at,
                    };
                    self.handle.call(|reply| Command::SettleLetters { letters, reply }).await?;
                    settled += moved.up_to - next;
                    next = moved.up_to;
                }
            }
        }
        let letters = PositionKey { group: group.to_owned(), topic: lie_in.meta().id, partition: 0 };
        self.let_go(letters, &*log).await?;
        if let Ok(redriven) = sources.log(REDRIVEN) {
            let handled = PositionKey { group: group.to_owned(), topic: sources.topic_id(), partition: REDRIVEN };
            self.let_go(handled, &*redriven).await?;
        }
        Ok(settled)
    }

    /// Offsets of dead letters that are neither redriven nor discarded, ascending.
    async fn unsettled(
        &self,
        group: &str,
        lie_in: &Topic,
        log: &dyn PartitionLog,
    ) -> Result<Vec<Range<Offset>>, GroupError> {
        let window = *log.watch().borrow();
        let key = PositionKey { group: group.to_owned(), topic: lie_in.meta().id, partition: 0 };
        let progress = self.progress(key).await?;
        Ok(progress.unacked_in(&(window.log_start..window.high_watermark)))
    }

    async fn progress(&self, key: PositionKey) -> Result<Progress, GroupError> {
        // A group that is gone has settled nothing.
        self.handle.ask(move |coordinator| Ok(coordinator.progress(&key).unwrap_or_default())).await
    }

    /// Lets the space of records go that the group needs no more.
    async fn let_go(&self, position: PositionKey, log: &dyn PartitionLog) -> Result<(), GroupError> {
        let group = position.group.clone();
        let settled = self.progress(position).await?.committed();
        if settled > log.watch().borrow().log_start {
            let trimmed = log.trim(settled).await;
            trimmed.map_err(|error| GroupError::NotMoved { topic: group, reason: error.to_string() })?;
        }
        Ok(())
    }
}

/// How far letters were redriven.
struct Moved {
    /// Exclusive.
    up_to: Offset,
    /// Where the first of them lies now; `None` if there was nothing to move.
    at: Option<Offset>,
}

/// Sends the first letters of `range` back to their group; returns how far it has got.
async fn redrive_some(sources: &Sources, log: &dyn PartitionLog, range: Range<Offset>) -> Result<Moved, GroupError> {
    let topic: Arc<str> = sources.dead_letters_name().into();
    let read_error = |source| GroupError::Read { topic: topic.to_string(), partition: 0, source };
    let batch = match first_batch(log, &range).await.map_err(read_error)? {
        Found::There(batch) => batch,
        Found::Lost(up_to) => return Ok(Moved { up_to, at: None }),
    };
    let up_to = range.end.min(batch.header.next_offset());
    let unpacked = unpack(&topic, 0, batch).map_err(|error| read_error(ReadError::Failed(error.to_string())))?;
    let mut records = Vec::new();
    for event in unpacked.events() {
        let event = event.map_err(|error| read_error(ReadError::Failed(error.to_string())))?;
        if (range.start..up_to).contains(&event.offset)
            && let Some(DeadLetter { event, mut death }) = DeadLetter::from_event(event)
        {
            death.redriven = death.redriven.saturating_add(1);
            records.push(Encoded::from(&death.mark(event.record)));
        }
    }
    if records.is_empty() {
        return Ok(Moved { up_to, at: None });
    }
    let redriven =
        append(&*sources.make_redriven().await?.partition(0)?, joined_records(records.iter())).await?.await?;
    Ok(Moved { up_to, at: Some(redriven.base_offset) })
}
