//! Reading a topic without a group: history first, then live.
//!
//! A subscription has no task and no queue of its own: it reads when it is polled, and a reader that is slow is felt by
//! the broker as flow control.

mod builder;
mod fetch;
mod progress;
mod stream;

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;

pub use builder::SubscriptionBuilder;
pub use fetch::{FetchBuilder, Fetched};

use self::stream::Source;
pub(crate) use self::stream::Step;
use crate::{
    codec::{EventBatch, Events},
    error::SubscribeError,
    record::Event,
    types::{Gap, GapReason, Offset},
};

/// Where a reader stands in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which partition.
    pub partition: u32,
    /// The next offset that it will read.
    pub offset: Offset,
    /// Where it will stop (exclusive).
    pub end_offset: Option<Offset>,
}

/// What can be read of a partition, as last heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// First readable offset (inclusive).
    pub log_start: Offset,
    /// First offset readers may not see (exclusive).
    pub high_watermark: Offset,
}

/// What a subscription reports.
#[derive(Clone, Debug)]
pub enum Item {
    /// An event.
    Event(Event),
    /// Offsets that cannot be read any more; reading goes on after them.
    Gap(Gap),
    /// This partition has nothing more for now.
    CaughtUp {
        /// Which partition.
        partition: u32,
        /// Its high watermark.
        high_watermark: Offset,
    },
    /// This partition's end offset is reached.
    End {
        /// Which partition.
        partition: u32,
    },
    /// The connection was lost; reading goes on exactly where it stopped.
    Reconnected,
}

/// What a subscription has met so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionStats {
    /// Streams that broke and were resumed.
    pub reconnects: u64,
    /// Gaps.
    pub gaps: u64,
    /// Offsets in them.
    pub gap_records: u64,
}

/// Events of a topic, in order within each partition.
///
/// Lost connections are resumed exactly at the next offset of each partition. The stream ends with `None` only when it is
/// closed, when every partition has reached its end, or after an error that says that it has ended.
#[derive(Debug)]
pub struct Subscription {
    source: Source,
    /// The batch that is being handed out event by event.
    events: Option<Events>,
}

impl Subscription {
    fn new(source: Source) -> Self {
        Self { source, events: None }
    }

    /// The next event. Cancel-safe. Gaps that retention left are counted and skipped; damage is an error.
    pub async fn next(&mut self) -> Option<Result<Event, SubscribeError>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The next event, gap or change. Cancel-safe.
    pub async fn next_item(&mut self) -> Option<Result<Item, SubscribeError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// The next batch of events: the fastest way. Cancel-safe. Gaps that retention left are counted and skipped; damage is
    /// an error. Mixed with [`next`](Self::next), it drops what is left of the batch that is being handed out one by one.
    pub async fn next_batch(&mut self) -> Option<Result<EventBatch, SubscribeError>> {
        self.events = None;
        loop {
            match poll_fn(|cx| self.source.poll_step(cx)).await? {
                Ok(Step::Batch(batch)) => return Some(Ok(batch)),
                Ok(Step::Note(note)) => {
                    if let Some(damage) = damage(&note) {
                        return Some(Err(damage));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next batch or note: what all of the above are made of. Cancel-safe.
    pub(crate) async fn next_step(&mut self) -> Option<Result<Step, SubscribeError>> {
        self.events = None;
        poll_fn(|cx| self.source.poll_step(cx)).await
    }

    /// Where reading goes on in each partition. Events of the batch in hand count as read.
    pub fn positions(&self) -> Vec<Position> {
        self.source.positions()
    }

    /// What can be read of `partition`, as last heard.
    pub fn window(&self, partition: u32) -> Option<Window> {
        self.source.window(partition)
    }

    /// What has happened so far.
    pub fn stats(&self) -> SubscriptionStats {
        self.source.stats()
    }

    /// Ends the stream: from here on there is nothing but `None`.
    pub fn close(&mut self) {
        self.events = None;
        self.source.close();
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, SubscribeError>>> {
        loop {
            if let Some(event) = self.events.as_mut().and_then(Iterator::next) {
                return Poll::Ready(Some(event.map_err(SubscribeError::Decode)));
            }
            self.events = None;
            match ready!(self.source.poll_step(cx)) {
                Some(Ok(Step::Batch(batch))) => self.events = Some(batch.into_iter()),
                Some(Ok(Step::Note(note))) => {
                    if let Some(damage) = damage(&note) {
                        return Poll::Ready(Some(Err(damage)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, SubscribeError>>> {
        loop {
            if let Some(event) = self.events.as_mut().and_then(Iterator::next) {
                return Poll::Ready(Some(event.map(Item::Event).map_err(SubscribeError::Decode)));
            }
            self.events = None;
            match ready!(self.source.poll_step(cx)) {
                Some(Ok(Step::Batch(batch))) => self.events = Some(batch.into_iter()),
                Some(Ok(Step::Note(item))) => return Poll::Ready(Some(Ok(item))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Damaged events are never skipped in silence.
fn damage(note: &Item) -> Option<SubscribeError> {
    match note {
        Item::Gap(Gap { partition, from, to, reason: GapReason::Damaged }) => {
            Some(SubscribeError::Damaged { partition: *partition, from: *from, to: *to })
        }
        Item::Gap(_) | Item::Event(_) | Item::CaughtUp { .. } | Item::End { .. } | Item::Reconnected => None,
    }
}

impl Stream for Subscription {
    type Item = Result<Event, SubscribeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(cx)
    }
}
