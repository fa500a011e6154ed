//! Finds the keys of records where they matter. Small batches are walked through at once; compressed ones are unpacked away
//! from the runtime's threads, one read at a time for each group and topic.

use std::{sync::Arc, time::Duration};

use aqueduct_client::{DecodeError, RecordRef, RetryPlace, murmur2};
use aqueduct_storage::{Batch, Codec};
use tokio::time::Instant;

use super::session::WallClock;
use crate::{
    groups::window::{Again, Belongs, KeyId},
    services::unpack,
    to_the_end::joined,
    turns::{ConnectionId, FairSemaphore},
};

/// Nothing is held longer than this without another look: far more than any backoff.
const HELD_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A batch, and where its records belong. Where nothing is said, every record is by itself.
pub(super) struct KeyedBatch {
    pub(super) batch: Batch,
    pub(super) belongs: Vec<Belongs>,
}

impl From<Batch> for KeyedBatch {
    fn from(batch: Batch) -> Self {
        Self { batch, belongs: Vec::new() }
    }
}

/// Whose keys are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Among {
    /// Records of the topic.
    Published,
    /// Records that the group tries again.
    Retries(Retries),
}

/// How records that the group tries again are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retries {
    /// As of then.
    pub(super) now: WallClock,
    /// When the topic was made: what failed before was published to another one of that name, in whose order nothing is left.
    pub(super) since_us: i64,
}

/// Whether finding the records of `batch`, and their keys, takes no longer than a walk through its bytes.
pub(super) fn is_quick(batch: &Batch) -> bool {
    batch.header.codec == Codec::None
}

pub(super) fn with_keys(batches: Vec<Batch>, among: Among) -> Vec<KeyedBatch> {
    let belongs = |batch: &Batch| match among {
        Among::Published => keys_of(batch),
        Among::Retries(retries) => retries_of(batch, retries),
    };
    batches.into_iter().map(|batch| KeyedBatch { belongs: belongs(&batch), batch }).collect()
}

/// Unpacks away from the runtime's threads, when it is its turn among all who unpack: a decoder takes memory.
#[derive(Clone)]
pub(in crate::groups) struct Unpacker {
    turns: Arc<FairSemaphore>,
    /// In line for a turn it stands by itself, for a group on a topic.
    reader: ConnectionId,
}

impl Unpacker {
    pub(in crate::groups) fn new(turns: Arc<FairSemaphore>) -> Self {
        Self { turns, reader: ConnectionId::next() }
    }

    /// As [`with_keys`].
    pub(super) async fn with_keys(&self, batches: Vec<Batch>, among: Among) -> Vec<KeyedBatch> {
        let turn = self.turns.acquire(self.reader, 1).await;
        let unpacked = tokio::task::spawn_blocking(move || {
            // Kept until it is done, even if nobody waits for it any more.
            let _turn = turn;
            with_keys(batches, among)
        });
        joined(unpacked).await
    }
}

/// In the order of the records. One that cannot be read has no key.
fn keys_of(batch: &Batch) -> Vec<Belongs> {
    let nowhere: Arc<str> = Arc::default();
    let Ok(unpacked) = unpack(&nowhere, 0, batch.clone()) else { return Vec::new() };
    let mut belongs = Vec::with_capacity(batch.header.record_count as usize);
    for record in unpacked.records() {
        belongs.push(match record {
            Ok(record) => record.key.map_or(Belongs::Alone, |key| Belongs::ToKey(murmur2(key))),
            Err(DecodeError::Malformed { .. }) => Belongs::Alone,
            Err(_) => break,
        });
    }
    belongs
}

/// The same for records that were published elsewhere, as their headers tell.
fn retries_of(batch: &Batch, retries: Retries) -> Vec<Belongs> {
    let nowhere: Arc<str> = Arc::default();
    let Ok(unpacked) = unpack(&nowhere, 0, batch.clone()) else { return Vec::new() };
    let mut belongs = Vec::with_capacity(batch.header.record_count as usize);
    for record in unpacked.records() {
        belongs.push(match record {
            Ok(record) => in_retry(&record, retries).map_or(Belongs::Alone, Belongs::InRetry),
            Err(DecodeError::Malformed { .. }) => Belongs::Alone,
            Err(_) => break,
        });
    }
    belongs
}

fn in_retry(record: &RecordRef<'_>, Retries { now, since_us }: Retries) -> Option<Again> {
    let hash = murmur2(record.key?);
    let RetryPlace { partition, offset: origin, first_failed, due } = RetryPlace::of(record)?;
    if first_failed.as_micros() < since_us {
        return None;
    }
    let due = due.map_or(now.at, |due| after(now, due.as_micros()));
    Some(Again { id: KeyId { partition, hash }, origin, due })
}

/// The moment of `due_us`, or now if that has been.
fn after(now: WallClock, due_us: i64) -> Instant {
    let pause_us = u64::try_from(due_us.saturating_sub(now.at_us)).unwrap_or(0);
    now.at + Duration::from_micros(pause_us).min(HELD_MAX)
}

#[cfg(test)]
mod tests {
    use aqueduct_client::{Death, Record, Retry, Timestamp};
    use futures_util::FutureExt as _;

    use super::*;
    use crate::services::pack;

    #[test]
    fn equal_keys_belong_together_and_records_without_a_key_are_by_themselves() {
        let records =
            [Record::new("1").key("a"), Record::new("2"), Record::new("3").key("b"), Record::new("4").key("a")];
        let batch = pack(&records).expect("it packs");
        let [a, b] = [b"a", b"b"].map(|key| Belongs::ToKey(murmur2(key)));
        assert_eq!(keys_of(&batch), [a, Belongs::Alone, b, a]);
    }

    #[test]
    fn what_is_tried_again_belongs_where_it_was_published_and_is_due_when_its_headers_say() {
        let now = WallClock { at: Instant::now(), at_us: 5_000_000 };
        let death = Death {
            topic: "orders".into(),
            partition: 3,
            offset: 1042,
            group: "billing".into(),
            attempts: 1,
            redriven: 0,
            first_error: "boom".into(),
            last_error: "boom".into(),
            first_failed: Timestamp::from_micros(1),
            last_failed: Timestamp::from_micros(1),
        };
        let due = |record: Record, due_us| Retry::mark_due(record, &death, 1, Timestamp::from_micros(due_us));
        let records = [
            due(Record::new("later").key("a"), 7_500_000),
            due(Record::new("overdue").key("a"), -1),
            due(Record::new("never").key("a"), i64::MAX),
            Death { redriven: 1, ..death.clone() }.mark(Record::new("redriven").key("a")),
            Retry::mark(Record::new("no key"), &death, 1),
            Retry::mark(
                Record::new("of an earlier topic").key("a"),
                &Death { first_failed: Timestamp::from_micros(0), ..death.clone() },
                1,
            ),
            Record::new("published").key("a"),
        ];
        let belongs = retries_of(&pack(&records).expect("it packs"), Retries { now, since_us: 1 });
        let id = KeyId { partition: 3, hash: murmur2(b"a") };
        let in_retry = |pause| Belongs::InRetry(Again { id, origin: 1042, due: now.at + pause });
        let zero = Duration::ZERO;
        let expected = [in_retry(Duration::from_millis(2500)), in_retry(zero), in_retry(HELD_MAX), in_retry(zero)];
        assert_eq!(belongs[..4], expected);
        assert_eq!(belongs[4..], [Belongs::Alone; 3]);
    }

    #[tokio::test]
    async fn compressed_batches_are_unpacked_in_turn_with_everybody_else() {
        let turns = Arc::new(FairSemaphore::new(1));
        let taken = turns.try_acquire(1).expect("free");
        let unpacker = Unpacker::new(Arc::clone(&turns));
        let batch = pack(&[Record::new("1").key("a")]).expect("it packs");
        let mut unpacking = Box::pin(unpacker.with_keys(vec![batch], Among::Published));
        assert!((&mut unpacking).now_or_never().is_none(), "somebody else unpacks");
        let mut another = Box::pin(turns.acquire(ConnectionId::next(), 1));
        assert!((&mut another).now_or_never().is_none());
        drop(taken);
        assert!((&mut another).now_or_never().is_none(), "first come, first served");
        assert_eq!(unpacking.await[0].belongs, [Belongs::ToKey(murmur2(b"a"))]);
        assert!(another.await.is_some(), "the turn is over");
    }
}
