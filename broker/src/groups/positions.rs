//! Finding and setting positions from outside: where a group begins, `Commit` and `Reset`.

use aqueduct_storage::{Offset, Window};

use super::{
    Groups, check_name,
    coordinator::{Command, Direction, Moved, NewPosition, PositionChange},
    error::GroupError,
    policy::{Resolved, StartAt, in_window},
};
use crate::{partition::Partition, topics::Topic};

/// Where to move positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResetRequest {
    pub(crate) group: String,
    pub(crate) topic: String,
    /// Empty: all.
    pub(crate) partitions: Vec<u32>,
    pub(crate) to: ResetTo,
}

/// See [`ResetRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResetTo {
    Start(StartAt),
    /// From the committed offset, kept within the log.
    Shift(i64),
}

/// Where each of `partitions` begins, those left out that are out of service.
///
/// # Errors
/// [`GroupError::OutOfRange`] for an offset that a partition does not have, and what reading says.
pub(super) async fn starts(topic: &Topic, start: StartAt, partitions: &[u32]) -> Result<Vec<NewPosition>, GroupError> {
    let mut starts = Vec::with_capacity(partitions.len());
    for &partition in partitions {
        let of_partition = topic.partition(partition)?;
        if of_partition.log().is_ok() {
            starts.push(NewPosition { partition, offset: resolve(&of_partition, start).await? });
        }
    }
    Ok(starts)
}

pub(super) async fn resolve(partition: &Partition, start: StartAt) -> Result<Offset, GroupError> {
    let log = partition.log()?;
    let window = *log.watch().borrow();
    match start.resolve(partition.index(), window)? {
        Resolved::Offset(offset) => Ok(offset),
        Resolved::FirstSince(time_us) => {
            let found = log.offset_for_time(time_us).await.map_err(|source| GroupError::Read {
                topic: partition.topic_name().to_owned(),
                partition: partition.index(),
                source,
            })?;
            Ok(found.unwrap_or(window.high_watermark))
        }
    }
}

/// `shift` from `committed`, kept within the log.
fn shifted(committed: Offset, shift: i64, window: Window) -> Offset {
    committed.saturating_add_signed(shift).clamp(window.log_start, window.high_watermark)
}

impl Groups {
    /// Sets committed offsets forward, for readers that keep no stream.
    ///
    /// # Errors
    /// [`GroupError::MembersActive`], [`GroupError::CommitBackwards`], [`GroupError::OutOfRange`] beyond the high
    /// watermark; then nothing is set.
    pub(crate) async fn commit(
        &self,
        group: String,
        topic: &str,
        topic_id: &[u8],
        positions: Vec<NewPosition>,
    ) -> Result<(), GroupError> {
        check_name(&group)?;
        let topic = self.find(topic, topic_id)?;
        for NewPosition { partition, offset } in &positions {
            let of_partition = topic.partition(*partition)?;
            let Window { log_start, high_watermark } = *of_partition.log()?.watch().borrow();
            if *offset > high_watermark {
                return Err(GroupError::OutOfRange {
                    partition: *partition,
                    offset: *offset,
                    log_start,
                    high_watermark,
                });
            }
        }
        let change = PositionChange { group, topic: topic.meta().id, positions, direction: Direction::Commit };
        self.handle.call(|reply| Command::SetPositions { change, reply }).await?;
        Ok(())
    }

    /// Moves committed offsets anywhere.
    ///
    /// # Errors
    /// [`GroupError::MembersActive`], [`GroupError::OutOfRange`]; then nothing is moved.
    pub(crate) async fn reset(&self, request: ResetRequest) -> Result<Vec<Moved>, GroupError> {
        let moves = self.plan_reset(&request).await?;
        let positions =
            moves.iter().map(|moved| NewPosition { partition: moved.partition, offset: moved.to }).collect();
        let topic = self.find(&request.topic, &[])?.meta().id;
        let change = PositionChange { group: request.group, topic, positions, direction: Direction::Reset };
        self.handle.call(|reply| Command::SetPositions { change, reply }).await
    }

    /// What [`reset`](Self::reset) would do as things stand.
    ///
    /// # Errors
    /// As for it.
    pub(crate) async fn plan_reset(&self, request: &ResetRequest) -> Result<Vec<Moved>, GroupError> {
        check_name(&request.group)?;
        let topic = self.find(&request.topic, &[])?;
        let meta = topic.meta();
        let (group, id) = (request.group.clone(), meta.id);
        let (policy, committed) = self
            .handle
            .ask(move |coordinator| {
                coordinator.check_idle(&group, id)?;
                Ok((coordinator.describe(&group)?.group.policy, coordinator.committed(&group, id)?))
            })
            .await?;
        let mut partitions = request.partitions.clone();
        if partitions.is_empty() {
            partitions = (0..meta.partitions).collect();
        }
        partitions.sort_unstable();
        partitions.dedup();

        let mut moves = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let of_partition = topic.partition(partition)?;
            let window = *of_partition.log()?.watch().borrow();
            let from = committed.iter().find(|(with, _)| *with == partition).map(|(_, offset)| *offset);
            let to = match request.to {
                ResetTo::Start(start) => resolve(&of_partition, start).await?,
                ResetTo::Shift(shift) => {
                    let from = match from {
                        Some(committed) => committed,
                        None => resolve(&of_partition, policy.start).await?,
                    };
                    shifted(from, shift, window)
                }
            };
            in_window(partition, to, window)?;
            moves.push(Moved { partition, from, to });
        }
        Ok(moves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_stays_within_the_log() {
        let window = Window { log_start: 10, high_watermark: 20 };
        for (committed, shift, expected) in [(15, 3, 18), (15, -3, 12), (15, -100, 10), (15, 100, 20), (0, 0, 10)] {
            assert_eq!(shifted(committed, shift, window), expected, "{committed} {shift:+}");
        }
        assert_eq!(shifted(Offset::MAX, i64::MAX, window), 20);
        assert_eq!(shifted(0, i64::MIN, window), 10);
    }
}
