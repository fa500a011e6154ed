//! Consuming a topic as a member of a group.
//!
//! ```text
//! broker ─▶ driver ─▶ inbox (bounded by credit) ─▶ next() ─▶ Delivery
//!    ▲                                                          │ ack, nack, drop
//!    └── request stream ◀── settlements (ranges) ◀──────────────┘
//! ```

mod alarm;
mod builder;
mod control;
mod delivery;
mod driver;
mod inbox;
mod pace;
mod ranges;
mod requests;
mod room;
mod run;
mod settlements;
mod shared;

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use aqueduct_proto::v1;
use futures_core::Stream;
use tokio::time::Instant;

pub use builder::ConsumerBuilder;
pub use control::ConsumerControl;
pub use delivery::Delivery;
pub use run::{Failure, Job, Run, RunSummary};

use self::{
    alarm::Alarm,
    inbox::{Note, Taken},
    pace::Admission,
    settlements::Claim,
    shared::{Phase, Shared, wake},
};
use crate::{
    admin::GroupPolicy,
    error::ConsumeError,
    types::{Gap, GapReason},
};

/// A member of a group: a stream of deliveries, or a source for handlers ([`run`](Self::run)).
///
/// ```
/// # async fn example(client: aqueduct_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let mut inbox = client.consumer("orders", "billing").rate_limit(100.0).build().await?;
/// let control = inbox.control(); // for anybody, anywhere
/// while let Some(delivery) = inbox.next().await {
///     let delivery = delivery?;
///     println!("{:?}", delivery.value());
///     delivery.ack();
///     if control.stats().acked > 1_000 {
///         control.pause(); // until somebody calls `control.resume()`
///     }
/// }
/// # Ok(()) }
/// ```
///
/// When the connection breaks, it joins again; what was handed out before cannot be settled any more and is delivered
/// again, to this member or another. Room at the client comes back as deliveries are handed out, not as they are settled:
/// a program that keeps many deliveries open is bounded only by itself and by the group's ack time-out.
///
/// Dropped, it settles what was acked and leaves in the background.
pub struct Consumer {
    shared: Arc<Shared>,
    /// For the next event of a limited rate.
    alarm: Alarm,
}

/// What a consumer reports.
#[derive(Debug)]
pub enum ConsumerItem {
    /// An event that wants an answer.
    Delivery(Delivery),
    /// Offsets that the group will never be given.
    Gap(Gap),
    /// Partitions have come or gone.
    Assignment {
        /// New here.
        assigned: Vec<u32>,
        /// Not here any more. What was handed out of them may still be acked.
        revoked: Vec<u32>,
    },
}

/// What a consumer has done so far, in records unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerStats {
    /// Handed out.
    pub delivered: u64,
    /// Acked, and confirmed by the broker.
    pub acked: u64,
    /// Nacked, and confirmed by the broker.
    pub nacked: u64,
    /// Records that moved to the dead letters because this consumer said so.
    pub parked: u64,
    /// Given back unseen.
    pub released: u64,
    /// Acks and nacks that the broker did not accept, because the partition had moved on. Nobody else is told, unless they
    /// waited, as with [`Delivery::ack_durable`].
    pub aborted: u64,
    /// Acks and nacks whose session had ended.
    pub lost: u64,
    /// How often it had to join again.
    pub rejoins: u64,
    /// Offsets in gaps.
    pub gap_records: u64,
}

impl Consumer {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, alarm: Alarm::default() }
    }

    /// The next delivery. Cancel-safe. `None` only after [`close`](Self::close), the client's end, or an error that says that
    /// the consumer has ended.
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        poll_fn(|cx| self.poll_delivery(cx, |_| true)).await
    }

    /// The next delivery, gap or change of the assignment. Cancel-safe.
    pub async fn next_item(&mut self) -> Option<Result<ConsumerItem, ConsumeError>> {
        poll_fn(|cx| self.poll_item(cx, |_| true)).await
    }

    /// The partitions that this member has now.
    pub fn assignment(&self) -> Vec<u32> {
        self.shared.state.lock().assignment.keys().copied().collect()
    }

    /// Given by the broker for this session; `None` while it is joining again.
    pub fn member_id(&self) -> Option<u64> {
        self.shared.state.lock().member.as_ref().map(|joined| joined.member_id)
    }

    /// The group's rules, as last heard.
    pub fn policy(&self) -> GroupPolicy {
        self.shared.policy()
    }

    /// What has happened so far.
    pub fn stats(&self) -> ConsumerStats {
        self.shared.stats()
    }

    /// A handle that slows this consumer down or stops it for a while, from anywhere.
    pub fn control(&self) -> ConsumerControl {
        ConsumerControl::new(Arc::clone(&self.shared))
    }

    /// See [`ConsumerControl::pause`].
    pub fn pause(&self) {
        self.control().pause();
    }

    /// See [`ConsumerControl::resume`].
    pub fn resume(&self) {
        self.control().resume();
    }

    /// See [`ConsumerControl::rate_limit`].
    pub fn rate_limit(&self, records_per_second: impl Into<Option<f64>>) {
        self.control().rate_limit(records_per_second);
    }

    /// Sends what was acked and waits for the answers, gives back the rest, and leaves the group. Deliveries that the
    /// program still holds go to others; the partitions of a [static member](ConsumerBuilder::static_member) wait for it.
    ///
    /// # Errors
    /// [`ConsumeError::Unsettled`] if the broker went away before it had answered: what was acked may come again.
    pub async fn close(mut self) -> Result<(), ConsumeError> {
        self.shared.begin_leaving();
        poll_fn(|cx| self.poll_ended(cx)).await;
        match self.shared.state.lock().unsettled {
            0 => Ok(()),
            records => Err(ConsumeError::Unsettled { records }),
        }
    }

    /// As [`close`](Self::close), for a [static member](ConsumerBuilder::static_member) that will not come back: its
    /// partitions go to others at once.
    ///
    /// # Errors
    /// As for it.
    pub async fn close_for_good(self) -> Result<(), ConsumeError> {
        self.shared.state.lock().leaves_for_good = true;
        self.close().await
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state.lock();
        if state.phase == Phase::Ended {
            return Poll::Ready(());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_delivery(
        &mut self,
        cx: &mut Context<'_>,
        ready: impl Fn(Claim) -> bool,
    ) -> Poll<Option<Result<Delivery, ConsumeError>>> {
        loop {
            match ready!(self.poll_item(cx, &ready)) {
                Some(Ok(ConsumerItem::Delivery(delivery))) => return Poll::Ready(Some(Ok(delivery))),
                // Damaged events are never skipped in silence.
                Some(Ok(ConsumerItem::Gap(Gap { partition, from, to, reason: GapReason::Damaged }))) => {
                    return Poll::Ready(Some(Err(ConsumeError::Damaged { partition, from, to })));
                }
                Some(Ok(ConsumerItem::Gap(_) | ConsumerItem::Assignment { .. })) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// The next event of what is `ready` or, if the pace does not allow any, only what is no event.
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        ready: impl Fn(Claim) -> bool,
    ) -> Poll<Option<Result<ConsumerItem, ConsumeError>>> {
        loop {
            let mut state = self.shared.state.lock();
            self.shared.asked(&mut state);
            let admission = state.pace.admission(Instant::now);
            let mut used_up = v1::Credit::default();
            let taken = state.inbox.take(&mut used_up, |claim| admission == Admission::Now && ready(claim));
            if used_up != v1::Credit::default() {
                state.settlements.give_back(used_up);
            }
            let waker = state.wake_requests();
            let item = match taken {
                Some(Taken::Event(event)) => Some(Ok(ConsumerItem::Delivery(self.shared.hand_out(&mut state, event)))),
                Some(Taken::Note(Note::Gap(gap))) => Some(Ok(ConsumerItem::Gap(gap))),
                Some(Taken::Note(Note::Assignment { assigned, revoked })) => {
                    Some(Ok(ConsumerItem::Assignment { assigned, revoked }))
                }
                Some(Taken::Note(Note::Error(error))) => Some(Err(error)),
                None => None,
            };
            let is_over = matches!(state.phase, Phase::Draining | Phase::Ended);
            if item.is_none() && !is_over {
                state.reader = Some(cx.waker().clone());
            }
            drop(state);
            wake(waker);
            if item.is_some() || is_over {
                return Poll::Ready(item);
            }
            match admission {
                Admission::At(at) => ready!(self.alarm.poll(cx, at)),
                Admission::Now | Admission::Paused => return Poll::Pending,
            }
        }
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, ConsumeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx, |_| true)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.begin_leaving();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("topic", &self.shared.topic)
            .field("assignment", &self.assignment())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
