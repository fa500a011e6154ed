//! Moves records out of a group's way that it could not handle: to its dead letters, or to where they wait until they are
//! tried again.
//!
//! A record is there before the group's progress says that it needs no delivery any more. A crash in between moves it
//! once more: at least once, like everything that is delivered.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct_client::{Death, Event, Header, Record, Retry, Timestamp};
use aqueduct_storage::{Batch, Offset};
use bytes::Bytes;

use super::{
    Handle,
    coordinator::{Command, Retries},
    dead_letters::{Found, ONE_BATCH, append, read},
    error::GroupError,
    member::Departed,
    parked_keys::parked_keys,
    retry::{Failure, RetryPolicy},
    sources::Sources,
    state::REDRIVEN,
    window::{Exit, KeyId, Pause, Way},
};
use crate::{
    clock::Clock,
    delays::{Delayed, Delays, Destination},
    partition::Partition,
    services::unpack,
    topics::Topic,
};

/// About the most that is held of records to be moved.
const MOVED_BYTES: usize = 1024 * 1024;
/// The least that is read at once where more than one batch is.
const READ_BYTES_MIN: usize = 256 * 1024;
/// The most of one append, but for a single record.
const APPEND_BYTES: usize = 256 * 1024;
/// The same for records that wait for their keys: they are taken out of their batch a few at a time.
const IN_ORDER_BYTES: usize = 32 * 1024;

/// See the [module](self).
#[derive(Clone)]
pub(super) struct Carrier {
    handle: Handle,
    sources: Sources,
    /// Not kept alive, like the topics.
    delays: Weak<Delays>,
    clock: Clock,
    /// The group has a position in its log of retries.
    has_retries: Arc<AtomicBool>,
}

/// Records that were read, by where they go.
#[derive(Default)]
struct Collected {
    departed: Departed,
    letters: Vec<Record>,
    retries: Vec<Delayed>,
    /// They wait for their time where they are tried again, so that their keys stay in order.
    in_order: Vec<Record>,
    /// Of all those.
    bytes: usize,
}

impl Collected {
    fn letter(&mut self, record: Record) {
        self.bytes += record.encoded_len();
        self.letters.push(record);
    }

    fn retry_in_order(&mut self, record: Record) {
        self.bytes += record.encoded_len();
        self.in_order.push(record);
    }

    fn retry(&mut self, retry: Delayed) {
        self.bytes += retry.record.encoded_len();
        self.retries.push(retry);
    }
}

impl Carrier {
    pub(super) fn new(handle: Handle, sources: Sources, delays: &Arc<Delays>, clock: Clock) -> Self {
        Self { handle, sources, delays: Arc::downgrade(delays), clock, has_retries: Arc::default() }
    }

    /// Makes copies of the first of these records durable where they are to go, and says which those are.
    ///
    /// # Errors
    /// Reading, or storing. Nothing has been moved that anybody counts on.
    pub(super) async fn carry(
        &self,
        partition: u32,
        exits: Vec<Exit>,
        policy: RetryPolicy,
    ) -> Result<Departed, GroupError> {
        let Collected { departed, letters, retries, in_order, .. } = self.collect(partition, exits, policy).await?;
        if !letters.is_empty() {
            let partition = self.sources.make_dead_letters().await?;
            append_all(&partition, letters, APPEND_BYTES).await?;
        }
        if !in_order.is_empty() {
            let log = self.retries().await?.partition(0)?;
            append_all(&log, in_order, IN_ORDER_BYTES).await?;
        }
        if !retries.is_empty() {
            self.put_off(retries).await?;
        }
        Ok(departed)
    }

    /// The keys that have dead letters.
    ///
    /// # Errors
    /// What reading says.
    pub(super) async fn parked_keys(&self) -> Result<HashMap<KeyId, Offset>, GroupError> {
        parked_keys(&self.handle, &self.sources).await
    }

    /// Lets the space of retries below `settled` go.
    pub(super) async fn let_go(&self, settled: Offset) {
        let Ok(log) = self.sources.log(REDRIVEN) else { return };
        if settled > log.watch().borrow().log_start
            && let Err(error) = log.trim(settled).await
        {
            // It takes room until the next time.
            tracing::warn!(%error, topic = self.sources.topic.meta().name, group = self.sources.group, "retries not let go");
        }
    }

    async fn collect(&self, partition: u32, exits: Vec<Exit>, policy: RetryPolicy) -> Result<Collected, GroupError> {
        let mut collected = Collected::default();
        let mut rest = VecDeque::from(exits);
        let mut bytes_max = ONE_BATCH;
        while let Some(first) = rest.front().filter(|_| collected.bytes < MOVED_BYTES) {
            match read(&self.sources, partition, &first.range, bytes_max).await? {
                // There is nothing left of it that could be kept.
                Found::Lost(up_to) => {
                    collected.departed.ranges.extend(split_off(&mut rest, up_to).map(|exit| exit.range))
                }
                Found::There(batches) => {
                    let read = batches.len();
                    let mut used = 0;
                    for batch in batches {
                        let of_batch: Vec<Exit> = split_off(&mut rest, batch.header.next_offset()).collect();
                        if !of_batch.is_empty() {
                            used += 1;
                            self.sort(partition, &batch, &of_batch, policy, &mut collected);
                        }
                    }
                    // Each read is a hand-over to a thread: where every batch has something, more of them come at once.
                    bytes_max =
                        if used == read { (bytes_max * 4).clamp(READ_BYTES_MIN, MOVED_BYTES) } else { ONE_BATCH };
                }
            }
        }
        Ok(collected)
    }

    /// Decides for the records of one batch. One that cannot be read is kept as the bytes of its whole batch, among the
    /// dead letters.
    fn sort(&self, partition: u32, batch: &Batch, exits: &[Exit], policy: RetryPolicy, collected: &mut Collected) {
        let name: Arc<str> = self.sources.topic.meta().name.as_str().into();
        let leaving = exits.iter().map(|exit| exit.range.clone());
        let events: Result<Vec<Event>, _> =
            unpack(&name, partition, batch.clone()).and_then(|unpacked| unpacked.events_at(leaving).collect());
        let events = events.map(|events| events.into_iter().map(detached).collect::<Vec<_>>());
        for exit in exits {
            collected.departed.ranges.push(exit.range.clone());
            let Ok(events) = &events else {
                let death = self.death(&name, partition, exit.range.start, &exit.failure);
                self.parked(&death, exit.range.end - exit.range.start, collected);
                collected.departed.whereabouts.in_letters.insert(exit.range.clone());
                collected.letter(death.mark(Record::new(batch.payload.clone())));
                continue;
            };
            let begin = events.partition_point(|event| event.offset < exit.range.start);
            let end = events.partition_point(|event| event.offset < exit.range.end);
            for event in &events[begin..end] {
                self.decide(partition, event, exit, policy, collected);
            }
        }
    }

    fn decide(&self, partition: u32, event: &Event, exit: &Exit, policy: RetryPolicy, collected: &mut Collected) {
        let failure = match exit.way {
            Way::ParkBehind => Failure::behind(self.clock.now_us()),
            Way::Follow => Failure::waiting(self.clock.now_us()),
            Way::Park | Way::Retry(_) | Way::RetryInOrder(_) => exit.failure.clone(),
        };
        let this_time = self.death(&event.topic, partition, event.offset, &failure);
        let before = (partition == REDRIVEN).then(|| Retry::from_event(event.clone())).flatten();
        let (record, death, tried) = match before {
            Some(Retry { event, death, tried, .. }) => {
                (event.record, death.again(this_time), tried.saturating_add(failure.attempts))
            }
            None => (event.record.clone(), this_time, failure.attempts),
        };
        let due_us = |pause| {
            let pause = match pause {
                Pause::Backoff => policy.backoff(tried, event.offset),
                Pause::Fixed(pause) => pause,
            };
            failure.last_failed_us.saturating_add(micros(pause))
        };
        match exit.way {
            Way::Retry(pause) if !policy.is_exhausted(tried) => {
                let due_us = due_us(pause);
                collected.retry(Delayed { due_us, record: Retry::mark(record, &death, tried) });
            }
            Way::RetryInOrder(pause) if !policy.is_exhausted(tried) => {
                let due = Timestamp::from_micros(due_us(pause));
                collected.retry_in_order(Retry::mark_due(record, &death, tried, due));
                collected.departed.whereabouts.in_retry.insert(event.offset..event.offset + 1);
            }
            Way::Follow => {
                collected.retry_in_order(Retry::mark(record, &death, 0));
                collected.departed.whereabouts.in_retry.insert(event.offset..event.offset + 1);
            }
            Way::Retry(_) | Way::RetryInOrder(_) | Way::Park | Way::ParkBehind => {
                collected.departed.whereabouts.in_letters.insert(event.offset..event.offset + 1);
                self.parked(&death, 1, collected);
                collected.letter(death.mark(record));
            }
        }
    }

    fn death(&self, topic: &str, partition: u32, offset: Offset, failure: &Failure) -> Death {
        Death {
            topic: topic.to_owned(),
            partition,
            offset,
            group: self.sources.group.clone(),
            attempts: failure.attempts,
            redriven: 0,
            first_error: failure.first_error.to_string(),
            last_error: failure.last_error.to_string(),
            first_failed: Timestamp::from_micros(failure.first_failed_us),
            last_failed: Timestamp::from_micros(failure.last_failed_us),
        }
    }

    fn parked(&self, death: &Death, records: u64, collected: &mut Collected) {
        collected.departed.parked += records;
        tracing::warn!(
            topic = death.topic,
            partition = death.partition,
            offset = death.offset,
            group = self.sources.group,
            attempts = death.attempts,
            error = death.last_error,
            "parked: not delivered any more"
        );
    }

    /// These come again when they are due, from a log of the group's own.
    async fn put_off(&self, retries: Vec<Delayed>) -> Result<(), GroupError> {
        let topic = self.retries().await?;
        let log = topic.partition(0)?;
        let now_us = self.clock.now_us();
        let (due, later): (Vec<_>, Vec<_>) = retries.into_iter().partition(|retry| retry.due_us <= now_us);
        append_all(&log, due.into_iter().map(|retry| retry.record).collect(), APPEND_BYTES).await?;
        if later.is_empty() {
            return Ok(());
        }
        let delays = self.delays.upgrade().ok_or(GroupError::ShuttingDown)?;
        let to = Destination { topic: topic.meta().id, partition: 0 };
        delays.put(to, later).await.map_err(|error| {
            let (topic, reason) = (log.topic_name().to_owned(), error.to_string());
            GroupError::NotMoved { topic, reason }
        })?;
        Ok(())
    }

    /// The log of what is tried again. With its first record, the group's members begin to read it.
    async fn retries(&self) -> Result<Arc<Topic>, GroupError> {
        let topic = self.sources.make_redriven().await?;
        let log = topic.partition(0)?;
        if !self.has_retries.load(Ordering::Relaxed) {
            // The log may hold what a topic of the same name has left behind: the group begins with the first of its own.
            let begin = log.log()?.watch().borrow().high_watermark;
            let (group, topic) = (self.sources.group.clone(), self.sources.topic_id());
            let retries = Retries { group, topic, begin };
            self.handle.call(|reply| Command::BeginRetries { retries, reply }).await?;
            self.has_retries.store(true, Ordering::Relaxed);
        }
        Ok(topic)
    }
}

/// Takes out what of `exits` lies below `offset`.
fn split_off(exits: &mut VecDeque<Exit>, offset: Offset) -> impl Iterator<Item = Exit> {
    std::iter::from_fn(move || {
        let first = exits.front_mut().filter(|exit| exit.range.start < offset)?;
        if first.range.end <= offset {
            return exits.pop_front();
        }
        let below = Exit { range: first.range.start..offset, ..first.clone() };
        first.range.start = offset;
        Some(below)
    })
}

/// A copy: a view would keep all of its batch in memory, and there may be one record of each of many.
fn detached(event: Event) -> Event {
    let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
    let Record { key, value, headers, timestamp } = event.record;
    let headers = headers.into_iter().map(|Header { name, value }| Header { name, value: copy(value) }).collect();
    Event { record: Record { key: key.map(copy), value: value.map(copy), headers, timestamp }, ..event }
}

/// In pieces of about `bytes_max`.
async fn append_all(partition: &Partition, records: Vec<Record>, bytes_max: usize) -> Result<(), GroupError> {
    let (mut next, mut bytes) = (Vec::new(), 0);
    for record in records {
        let size = record.encoded_len();
        if bytes + size > bytes_max && !next.is_empty() {
            append(partition, &std::mem::take(&mut next)).await?;
            bytes = 0;
        }
        bytes += size;
        next.push(record);
    }
    if !next.is_empty() {
        append(partition, &next).await?;
    }
    Ok(())
}

fn micros(pause: Duration) -> i64 {
    i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)
}
