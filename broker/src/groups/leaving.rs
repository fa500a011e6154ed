//! Moves records out of a group's way that it could not handle: to its dead letters, or to where they wait until they are
//! tried again.
//!
//! A record is there before the group's progress says that it needs no delivery any more. A crash in between moves it
//! once more: at least once, like everything that is delivered.

use std::{
    collections::{HashMap, VecDeque},
    iter::Peekable,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct_client::{Death, Event, Record, Retry, Timestamp};
use aqueduct_storage::{Batch, Offset};

use super::{
    Handle,
    coordinator::{Command, PartitionGeneration, Retries},
    dead_letters::{Found, ONE_BATCH, append, read},
    error::GroupError,
    member::{Departed, Exits, MOVED_BYTES, Moved, detached},
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
    services::{Encoded, joined_records, unpack},
    topics::Topic,
};

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

/// Records that were read, by where they go. They are encoded at once: thousands that lie about in pieces are forgotten by the
/// processor's caches before their turn comes, which was half of what a failure costs.
#[derive(Default)]
struct Collected {
    letters: Vec<Encoded>,
    retries: Vec<Delayed>,
    /// They wait for their time where they are tried again, so that their keys stay in order.
    in_order: Vec<Encoded>,
    /// Of all those.
    bytes: usize,
}

impl Collected {
    fn letter(&mut self, record: &Record) {
        let letter = Encoded::from(record);
        self.bytes += letter.len();
        self.letters.push(letter);
    }

    fn retry_in_order(&mut self, record: &Record) {
        let record = Encoded::from(record);
        self.bytes += record.len();
        self.in_order.push(record);
    }

    fn retry(&mut self, due_us: i64, record: &Record) {
        let retry = Delayed::new(due_us, record);
        self.bytes += retry.record.len();
        self.retries.push(retry);
    }
}

impl Carrier {
    pub(super) fn new(handle: Handle, sources: Sources, delays: &Arc<Delays>, clock: Clock) -> Self {
        Self { handle, sources, delays: Arc::downgrade(delays), clock, has_retries: Arc::default() }
    }

    /// Makes copies of the first of these records durable where they are to go, and says which those are. Of a partition that
    /// cannot be read, or if they cannot be stored, nothing has been moved that anybody counts on.
    pub(super) async fn carry(&self, exits: Vec<Exits>, policy: RetryPolicy) -> Vec<Moved> {
        let mut collected = Collected::default();
        let mut moved = Vec::new();
        for exits in exits {
            moved.push(Moved { at: exits.at, outcome: self.collect(exits, policy, &mut collected).await });
        }
        if let Err(error) = self.store(collected).await {
            moved.iter_mut().for_each(|moved| moved.outcome = Err(error.clone()));
        }
        moved
    }

    async fn store(&self, collected: Collected) -> Result<(), GroupError> {
        let Collected { letters, retries, in_order, .. } = collected;
        if !letters.is_empty() {
            append_all(&*self.sources.make_dead_letters().await?, letters, APPEND_BYTES).await?;
        }
        if !in_order.is_empty() {
            append_all(&*self.retries().await?.partition(0)?, in_order, IN_ORDER_BYTES).await?;
        }
        if !retries.is_empty() {
            self.put_off(retries).await?;
        }
        Ok(())
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

    /// Takes up what is to leave one partition, as far as there is room. What comes before damage or a failed read goes without
    /// the rest.
    async fn collect(
        &self,
        exits: Exits,
        policy: RetryPolicy,
        collected: &mut Collected,
    ) -> Result<Departed, GroupError> {
        let Exits { at: PartitionGeneration { partition, .. }, exits, copies } = exits;
        let topic: Arc<str> = self.sources.topic.meta().name.as_str().into();
        let mut sorting = Sorting { carrier: self, topic, partition, policy, collected, departed: Departed::default() };
        let mut rest = VecDeque::from(exits);
        let mut copies = copies.into_iter().map(|copied| copied.event).peekable();
        let mut bytes_max = ONE_BATCH;
        while let Some(first) = rest.front().filter(|_| sorting.collected.bytes < MOVED_BYTES) {
            if let Some(events) = copies_of(&first.range, &mut copies) {
                sorting.sort(events, first);
                rest.pop_front();
                continue;
            }
            match read(&self.sources, partition, &first.range, bytes_max).await {
                Err(error) if sorting.departed.ranges.is_empty() => return Err(error),
                Err(_) => break,
                // There is nothing left of it that could be kept.
                Ok(Found::Lost(up_to)) => {
                    sorting.departed.ranges.extend(split_off(&mut rest, up_to).map(|exit| exit.range))
                }
                Ok(Found::There(batches)) => {
                    let read = batches.len();
                    let mut used = 0;
                    for batch in batches {
                        let of_batch: Vec<Exit> = split_off(&mut rest, batch.header.next_offset()).collect();
                        if !of_batch.is_empty() {
                            used += 1;
                            sorting.sort_batch(&batch, &of_batch);
                        }
                    }
                    // Each read is a hand-over to a thread: where every batch has something, more of them come at once.
                    bytes_max =
                        if used == read { (bytes_max * 4).clamp(READ_BYTES_MIN, MOVED_BYTES) } else { ONE_BATCH };
                }
            }
        }
        Ok(sorting.departed)
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

/// Decides where records of one partition go.
struct Sorting<'a> {
    carrier: &'a Carrier,
    topic: Arc<str>,
    partition: u32,
    policy: RetryPolicy,
    collected: &'a mut Collected,
    departed: Departed,
}

impl Sorting<'_> {
    /// One that cannot be read is kept as the bytes of its whole batch, among the dead letters.
    fn sort_batch(&mut self, batch: &Batch, exits: &[Exit]) {
        let leaving = exits.iter().map(|exit| exit.range.clone());
        let events: Result<Vec<Event>, _> = unpack(&self.topic, self.partition, batch.clone())
            .and_then(|unpacked| unpacked.events_at(leaving).map(|event| event.map(detached)).collect());
        let mut events = events.map(|events| events.into_iter().peekable());
        for exit in exits {
            let Ok(events) = &mut events else {
                self.departed.ranges.push(exit.range.clone());
                let death = self.death(exit.range.start, &exit.failure);
                self.parked(&death, exit.range.end - exit.range.start);
                self.departed.whereabouts.in_letters.insert(exit.range.clone());
                self.collected.letter(&death.mark(Record::new(batch.payload.clone())));
                continue;
            };
            let of_exit = std::iter::from_fn(|| events.next_if(|event| event.offset < exit.range.end));
            self.sort(of_exit.collect(), exit);
        }
    }

    /// `events` is what there is of the exit's records.
    fn sort(&mut self, events: Vec<Event>, exit: &Exit) {
        self.departed.ranges.push(exit.range.clone());
        events.into_iter().for_each(|event| self.decide(event, exit));
    }

    fn decide(&mut self, event: Event, exit: &Exit) {
        let now_us = || self.carrier.clock.now_us();
        let offset = event.offset;
        let failure = match exit.way {
            Way::ParkBehind => Failure::behind(now_us()),
            Way::Follow => Failure::waiting(now_us()),
            Way::Park | Way::Retry(_) | Way::RetryInOrder(_) => exit.failure.clone(),
        };
        let this_time = self.death(offset, &failure);
        let (record, death, tried) = match self.before(&event) {
            Some(Retry { event, death, tried, .. }) => {
                (event.record, death.again(this_time), tried.saturating_add(failure.attempts))
            }
            None => (event.record, this_time, failure.attempts),
        };
        let policy = self.policy;
        let due_us = |pause| {
            let pause = match pause {
                Pause::Backoff => policy.backoff(tried, offset),
                Pause::Fixed(pause) => pause,
            };
            failure.last_failed_us.saturating_add(micros(pause))
        };
        match exit.way {
            Way::Retry(pause) if !policy.is_exhausted(tried) => {
                let due_us = due_us(pause);
                self.collected.retry(due_us, &Retry::mark(record, &death, tried));
            }
            Way::RetryInOrder(pause) if !policy.is_exhausted(tried) => {
                let due = Timestamp::from_micros(due_us(pause));
                self.collected.retry_in_order(&Retry::mark_due(record, &death, tried, due));
                self.departed.whereabouts.in_retry.insert(offset..offset + 1);
            }
            Way::Follow => {
                self.collected.retry_in_order(&Retry::mark(record, &death, 0));
                self.departed.whereabouts.in_retry.insert(offset..offset + 1);
            }
            Way::Retry(_) | Way::RetryInOrder(_) | Way::Park | Way::ParkBehind => {
                self.departed.whereabouts.in_letters.insert(offset..offset + 1);
                self.parked(&death, 1);
                self.collected.letter(&death.mark(record));
            }
        }
    }

    /// What the headers of a record tell that the group has tried before.
    fn before(&self, event: &Event) -> Option<Retry> {
        (self.partition == REDRIVEN).then(|| Retry::from_event(event.clone())).flatten()
    }

    fn death(&self, offset: Offset, failure: &Failure) -> Death {
        Death {
            topic: self.topic.to_string(),
            partition: self.partition,
            offset,
            group: self.carrier.sources.group.clone(),
            attempts: failure.attempts,
            redriven: 0,
            first_error: failure.first_error.to_string(),
            last_error: failure.last_error.to_string(),
            first_failed: Timestamp::from_micros(failure.first_failed_us),
            last_failed: Timestamp::from_micros(failure.last_failed_us),
        }
    }

    fn parked(&mut self, death: &Death, records: u64) {
        self.departed.parked += records;
        tracing::warn!(
            topic = death.topic,
            partition = death.partition,
            offset = death.offset,
            group = self.carrier.sources.group,
            attempts = death.attempts,
            error = death.last_error,
            "parked: not delivered any more"
        );
    }
}

/// All records of `range`, if there are copies of all of them. `copies` ascend, and what lies below is not needed any more: a read
/// has brought it along.
fn copies_of(range: &Range<Offset>, copies: &mut Peekable<impl Iterator<Item = Event>>) -> Option<Vec<Event>> {
    while copies.next_if(|event| event.offset < range.start).is_some() {}
    let of_range: Vec<Event> = std::iter::from_fn(|| copies.next_if(|event| event.offset < range.end)).collect();
    (of_range.len() as u64 == range.end - range.start).then_some(of_range)
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

/// In pieces of about `bytes_max`, of which the disk takes several at once.
async fn append_all(partition: &Partition, records: Vec<Encoded>, bytes_max: usize) -> Result<(), GroupError> {
    let mut stored = Vec::new();
    let mut rest = &records[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |record: &&Encoded| {
            bytes += record.len();
            bytes <= bytes_max
        };
        let (next, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        stored.push(append(partition, joined_records(next.iter())).await?);
        rest = after;
    }
    for stored in stored {
        stored.await?;
    }
    Ok(())
}

fn micros(pause: Duration) -> i64 {
    i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stands_for_its_own_record_and_no_other() {
        let event = |offset| Event {
            topic: Arc::default(),
            partition: 0,
            offset,
            append_time: Timestamp::from_micros(0),
            record: Record::default(),
        };
        let mut copies = [6, 20, 31, 32, 40, 41, 50].map(event).into_iter().peekable();
        let mut found = |range| {
            let events = copies_of(&range, &mut copies)?;
            Some(events.into_iter().map(|event| event.offset).collect::<Vec<_>>())
        };
        assert_eq!(found(5..6), None);
        assert_eq!(found(20..22), None, "one of two");
        assert_eq!(found(31..33), Some(vec![31, 32]));
        assert_eq!(found(41..42), Some(vec![41]));
        assert_eq!(found(60..61), None, "that one is of another");
    }
}
