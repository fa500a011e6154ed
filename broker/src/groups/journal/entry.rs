//! The bytes of the journal: protobuf messages of our own, each behind its length, several to a batch.
//!
//! Every kind of change is one field of [`Entry`], and its number is its version: a new layout of a change gets a new
//! field, and an entry whose field is not known is an error, never skipped.

use std::{ops::Range, sync::Arc, time::Duration};

use aqueduct_storage::Offset;
use bytes::Bytes;
use prost::{Message, Oneof};

use crate::groups::{
    hours::{DailyWindow, DeliveryHours},
    policy::{Mode, Policy, StartAt},
    progress::Progress,
    retry::{Failure, OnExhausted, RetryPolicy},
    state::{Change, PositionKey, TopicId, progress_of},
};

/// One record of the journal, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Change(Change),
    /// What follows, up to the end of the snapshot, is the whole state.
    SnapshotBegin,
    SnapshotEnd {
        /// How many entries lie between the two.
        entries: u64,
    },
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an entry does not decode: {0}")]
pub(super) struct EntryError(String);

#[derive(Clone, PartialEq, Message)]
struct StoredEntry {
    #[prost(oneof = "Stored", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 15")]
    stored: Option<Stored>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Stored {
    /// As written before there was a retry policy.
    #[prost(message, tag = "1")]
    GroupSet(StoredGroup),
    #[prost(string, tag = "2")]
    GroupDeleted(String),
    #[prost(message, tag = "3")]
    Advanced(StoredPosition),
    #[prost(message, tag = "4")]
    Reset(StoredPosition),
    #[prost(bytes = "vec", tag = "5")]
    TopicDeleted(Vec<u8>),
    #[prost(message, tag = "6")]
    SnapshotBegin(StoredSnapshotBegin),
    #[prost(message, tag = "7")]
    SnapshotEnd(StoredSnapshotEnd),
    #[prost(message, tag = "8")]
    GroupSetWithRetry(StoredGroupWithRetry),
    /// Only where there are failures: all other positions stay readable to versions that know none.
    #[prost(message, tag = "9")]
    AdvancedWithFailures(StoredPositionWithFailures),
    /// Only for groups with hours: all others stay readable to versions that know none.
    #[prost(message, tag = "15")]
    GroupSetWithHours(StoredGroupWithHours),
}

#[derive(Clone, PartialEq, Message)]
struct StoredGroup {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(enumeration = "StoredMode", tag = "2")]
    mode: i32,
    #[prost(uint64, tag = "3")]
    ack_timeout_ms: u64,
    #[prost(int64, tag = "4")]
    created_us: i64,
    #[prost(oneof = "StoredStart", tags = "5, 6, 7, 8")]
    start: Option<StoredStart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum StoredMode {
    Unspecified = 0,
    Ordered = 1,
    Shared = 2,
    Keyed = 3,
}

#[derive(Clone, PartialEq, Oneof)]
enum StoredStart {
    #[prost(bool, tag = "5")]
    Earliest(bool),
    #[prost(bool, tag = "6")]
    Latest(bool),
    #[prost(uint64, tag = "7")]
    Offset(u64),
    #[prost(int64, tag = "8")]
    TimeUs(i64),
}

#[derive(Clone, PartialEq, Message)]
struct StoredPosition {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(bytes = "vec", tag = "2")]
    topic: Vec<u8>,
    #[prost(uint32, tag = "3")]
    partition: u32,
    #[prost(uint64, tag = "4")]
    committed: u64,
    /// Acked above the committed offset: by turns how many offsets are not acked, and how many are.
    #[prost(uint64, repeated, tag = "5")]
    runs: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredGroupWithRetry {
    #[prost(message, required, tag = "1")]
    group: StoredGroup,
    #[prost(message, required, tag = "2")]
    retry: StoredRetry,
}

#[derive(Clone, PartialEq, Message)]
struct StoredGroupWithHours {
    #[prost(message, required, tag = "1")]
    group: StoredGroupWithRetry,
    #[prost(message, repeated, tag = "2")]
    windows: Vec<StoredWindow>,
    #[prost(sint32, tag = "3")]
    utc_offset_minutes: i32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredWindow {
    #[prost(uint32, tag = "1")]
    from_minute: u32,
    #[prost(uint32, tag = "2")]
    to_minute: u32,
}

#[derive(Clone, PartialEq, Message)]
struct StoredRetry {
    #[prost(uint64, tag = "1")]
    backoff_min_ms: u64,
    #[prost(uint64, tag = "2")]
    backoff_max_ms: u64,
    #[prost(uint32, tag = "3")]
    max_attempts: u32,
    #[prost(enumeration = "StoredOnExhausted", tag = "4")]
    on_exhausted: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum StoredOnExhausted {
    Unspecified = 0,
    Park = 1,
    Halt = 2,
    ParkKey = 3,
}

#[derive(Clone, PartialEq, Message)]
struct StoredPositionWithFailures {
    #[prost(message, required, tag = "1")]
    position: StoredPosition,
    #[prost(message, repeated, tag = "2")]
    failures: Vec<StoredFailure>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredFailure {
    #[prost(uint64, tag = "1")]
    from: u64,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(uint32, tag = "3")]
    attempts: u32,
    #[prost(string, tag = "4")]
    first_error: String,
    /// Absent: the first one again.
    #[prost(string, optional, tag = "5")]
    last_error: Option<String>,
    #[prost(int64, tag = "6")]
    first_failed_us: i64,
    #[prost(int64, tag = "7")]
    last_failed_us: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredSnapshotBegin {}

#[derive(Clone, PartialEq, Message)]
struct StoredSnapshotEnd {
    #[prost(uint64, tag = "1")]
    entries: u64,
}

/// Appends `entry`, behind its length, to `payload`.
pub(super) fn encode(entry: Entry, payload: &mut Vec<u8>) {
    let stored = match entry {
        Entry::Change(change) => stored_change(change),
        Entry::SnapshotBegin => Stored::SnapshotBegin(StoredSnapshotBegin {}),
        Entry::SnapshotEnd { entries } => Stored::SnapshotEnd(StoredSnapshotEnd { entries }),
    };
    let entry = StoredEntry { stored: Some(stored) };
    payload.reserve(entry.encoded_len() + prost::length_delimiter_len(entry.encoded_len()));
    // A `Vec` grows, so there is always room.
    let _ = entry.encode_length_delimited(payload);
}

/// The entries of one batch.
///
/// # Errors
/// [`EntryError`] for anything that this version does not understand completely.
pub(super) fn decode_all(mut payload: Bytes) -> Result<Vec<Entry>, EntryError> {
    let mut entries = Vec::new();
    while !payload.is_empty() {
        let stored = StoredEntry::decode_length_delimited(&mut payload).map_err(|e| EntryError(e.to_string()))?;
        entries.push(entry_of(stored)?);
    }
    Ok(entries)
}

fn stored_change(change: Change) -> Stored {
    match change {
        Change::GroupSet { group, policy, created_us } => {
            let group = stored_group(group, &policy, created_us);
            let group = StoredGroupWithRetry { group, retry: stored_retry(&policy.retry) };
            if !policy.hours.are_limited() {
                return Stored::GroupSetWithRetry(group);
            }
            let windows = policy.hours.windows().map(stored_window).collect();
            let utc_offset_minutes = policy.hours.utc_offset_minutes().into();
            Stored::GroupSetWithHours(StoredGroupWithHours { group, windows, utc_offset_minutes })
        }
        Change::GroupDeleted { group } => Stored::GroupDeleted(group),
        Change::Advanced { key, progress } => {
            let failures: Vec<_> = progress.failures().map(stored_failure).collect();
            let position = stored_position(key, &progress);
            if failures.is_empty() {
                return Stored::Advanced(position);
            }
            Stored::AdvancedWithFailures(StoredPositionWithFailures { position, failures })
        }
        Change::Reset { key, committed } => Stored::Reset(stored_position(key, &Progress::at(committed))),
        Change::TopicDeleted { topic } => Stored::TopicDeleted(topic.to_vec()),
    }
}

fn stored_group(group: String, policy: &Policy, created_us: i64) -> StoredGroup {
    StoredGroup {
        group,
        mode: match policy.mode {
            Mode::Ordered => StoredMode::Ordered,
            Mode::Shared => StoredMode::Shared,
            Mode::Keyed => StoredMode::Keyed,
        }
        .into(),
        ack_timeout_ms: stored_ms(policy.ack_timeout),
        created_us,
        start: Some(match policy.start {
            StartAt::Earliest => StoredStart::Earliest(true),
            StartAt::Latest => StoredStart::Latest(true),
            StartAt::Offset(offset) => StoredStart::Offset(offset),
            StartAt::TimeUs(time_us) => StoredStart::TimeUs(time_us),
        }),
    }
}

fn stored_retry(retry: &RetryPolicy) -> StoredRetry {
    StoredRetry {
        backoff_min_ms: stored_ms(retry.backoff_min),
        backoff_max_ms: stored_ms(retry.backoff_max),
        max_attempts: retry.max_attempts,
        on_exhausted: match retry.on_exhausted {
            OnExhausted::Park => StoredOnExhausted::Park,
            OnExhausted::Halt => StoredOnExhausted::Halt,
            OnExhausted::ParkKey => StoredOnExhausted::ParkKey,
        }
        .into(),
    }
}

fn stored_window(window: DailyWindow) -> StoredWindow {
    StoredWindow { from_minute: window.from_minute.into(), to_minute: window.to_minute.into() }
}

fn stored_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn stored_failure((range, failure): (Range<Offset>, &Failure)) -> StoredFailure {
    StoredFailure {
        from: range.start,
        to: range.end,
        attempts: failure.attempts,
        first_error: failure.first_error.to_string(),
        last_error: (failure.last_error != failure.first_error).then(|| failure.last_error.to_string()),
        first_failed_us: failure.first_failed_us,
        last_failed_us: failure.last_failed_us,
    }
}

fn stored_position(key: PositionKey, progress: &Progress) -> StoredPosition {
    let mut runs = Vec::new();
    let mut end = progress.committed();
    for range in progress.acked() {
        runs.extend([range.start - end, range.end - range.start]);
        end = range.end;
    }
    StoredPosition {
        group: key.group,
        topic: key.topic.to_vec(),
        partition: key.partition,
        committed: progress.committed(),
        runs,
    }
}

fn entry_of(stored: StoredEntry) -> Result<Entry, EntryError> {
    let change = match stored.stored.ok_or_else(|| EntryError("its kind is not known to this version".to_owned()))? {
        Stored::GroupSet(group) => group_of(group, RetryPolicy::default(), DeliveryHours::default())?,
        Stored::GroupSetWithRetry(StoredGroupWithRetry { group, retry }) => {
            group_of(group, retry_of(&retry)?, DeliveryHours::default())?
        }
        Stored::GroupSetWithHours(stored) => {
            let hours = hours_of(&stored)?;
            group_of(stored.group.group, retry_of(&stored.group.retry)?, hours)?
        }
        Stored::GroupDeleted(group) => Change::GroupDeleted { group },
        Stored::Advanced(position) => {
            let (key, progress) = position_of(position)?;
            Change::Advanced { key, progress }
        }
        Stored::AdvancedWithFailures(stored) => {
            let (key, mut progress) = position_of(stored.position)?;
            for failure in stored.failures {
                let (range, failure) = failure_of(failure)?;
                progress.remember(range, failure);
            }
            Change::Advanced { key, progress }
        }
        Stored::Reset(position) => {
            let (key, progress) = position_of(position)?;
            Change::Reset { key, committed: progress.committed() }
        }
        Stored::TopicDeleted(topic) => Change::TopicDeleted { topic: topic_of(&topic)? },
        Stored::SnapshotBegin(_) => return Ok(Entry::SnapshotBegin),
        Stored::SnapshotEnd(end) => return Ok(Entry::SnapshotEnd { entries: end.entries }),
    };
    Ok(Entry::Change(change))
}

fn retry_of(stored: &StoredRetry) -> Result<RetryPolicy, EntryError> {
    let on_exhausted = match stored.on_exhausted() {
        StoredOnExhausted::Park => OnExhausted::Park,
        StoredOnExhausted::Halt => OnExhausted::Halt,
        StoredOnExhausted::ParkKey => OnExhausted::ParkKey,
        StoredOnExhausted::Unspecified => {
            return Err(EntryError(format!("an end of retries {} is not known", stored.on_exhausted)));
        }
    };
    Ok(RetryPolicy {
        backoff_min: Duration::from_millis(stored.backoff_min_ms),
        backoff_max: Duration::from_millis(stored.backoff_max_ms),
        max_attempts: stored.max_attempts,
        on_exhausted,
    })
}

fn failure_of(stored: StoredFailure) -> Result<(Range<Offset>, Failure), EntryError> {
    if stored.from >= stored.to || stored.attempts == 0 {
        return Err(EntryError("a failure without records or attempts".to_owned()));
    }
    let first_error: Arc<str> = stored.first_error.into();
    let failure = Failure {
        attempts: stored.attempts,
        last_error: stored.last_error.map_or_else(|| Arc::clone(&first_error), Arc::from),
        first_error,
        first_failed_us: stored.first_failed_us,
        last_failed_us: stored.last_failed_us,
    };
    Ok((stored.from..stored.to, failure))
}

fn hours_of(stored: &StoredGroupWithHours) -> Result<DeliveryHours, EntryError> {
    let minute = |minute: u32| u16::try_from(minute).unwrap_or(u16::MAX);
    let window = |stored: &StoredWindow| DailyWindow {
        from_minute: minute(stored.from_minute),
        to_minute: minute(stored.to_minute),
    };
    let windows: Vec<DailyWindow> = stored.windows.iter().map(window).collect();
    DeliveryHours::new(&windows, stored.utc_offset_minutes).map_err(|error| EntryError(error.to_string()))
}

fn group_of(stored: StoredGroup, retry: RetryPolicy, hours: DeliveryHours) -> Result<Change, EntryError> {
    let mode = match stored.mode() {
        StoredMode::Ordered => Mode::Ordered,
        StoredMode::Shared => Mode::Shared,
        StoredMode::Keyed => Mode::Keyed,
        StoredMode::Unspecified => return Err(EntryError(format!("mode {} is not known", stored.mode))),
    };
    let start = match stored.start.ok_or_else(|| EntryError("a group's start is not known".to_owned()))? {
        StoredStart::Earliest(_) => StartAt::Earliest,
        StoredStart::Latest(_) => StartAt::Latest,
        StoredStart::Offset(offset) => StartAt::Offset(offset),
        StoredStart::TimeUs(time_us) => StartAt::TimeUs(time_us),
    };
    let policy = Policy { mode, start, ack_timeout: Duration::from_millis(stored.ack_timeout_ms), retry, hours };
    Ok(Change::GroupSet { group: stored.group, policy, created_us: stored.created_us })
}

fn position_of(stored: StoredPosition) -> Result<(PositionKey, Progress), EntryError> {
    let key = PositionKey { group: stored.group, topic: topic_of(&stored.topic)?, partition: stored.partition };
    let mut end = stored.committed;
    let mut acked: Vec<Range<Offset>> = Vec::with_capacity(stored.runs.len() / 2);
    for run in stored.runs.chunks(2) {
        let &[gap, length] = run else { return Err(EntryError("a run is cut short".to_owned())) };
        let range = end.checked_add(gap).and_then(|from| Some(from..from.checked_add(length)?));
        let range = range.ok_or_else(|| EntryError("an offset is out of range".to_owned()))?;
        end = range.end;
        acked.push(range);
    }
    Ok((key, progress_of(stored.committed, acked)))
}

fn topic_of(id: &[u8]) -> Result<TopicId, EntryError> {
    id.try_into().map_err(|_| EntryError(format!("a topic id has {} bytes", id.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::state::tests::random_change;

    #[test]
    fn entries_survive_encoding() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut entries = vec![Entry::SnapshotBegin, Entry::SnapshotEnd { entries: 3 }];
        entries.extend((0..500).map(|_| Entry::Change(random_change(&mut random))));
        let mut payload = Vec::new();
        entries.iter().for_each(|entry| encode(entry.clone(), &mut payload));
        assert_eq!(decode_all(payload.into()), Ok(entries));
    }

    #[test]
    fn a_kind_of_entry_from_the_future_is_an_error() {
        let future = Bytes::from_static(&[3, 0xfa, 0x01, 0x00]); // field 31, length-delimited, empty
        assert!(decode_all(future).is_err());
    }

    #[test]
    fn any_bytes_decode_or_fail_without_a_panic() {
        let mut random = fastrand::Rng::with_seed(12);
        let mut payload = Vec::new();
        (0..40).for_each(|_| encode(Entry::Change(random_change(&mut random)), &mut payload));
        for _ in 0..5000 {
            let mut damaged = payload.clone();
            let at = random.usize(..damaged.len());
            damaged[at] = random.u8(..);
            damaged.truncate(random.usize(at..damaged.len()));
            let _ = decode_all(damaged.into());
        }
    }
}
