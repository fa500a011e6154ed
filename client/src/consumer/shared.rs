//! What a consumer, its deliveries, its request stream and its driver share.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use aqueduct_proto::v1;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    Delivery,
    inbox::{FailedKey, HandedOut, Inbox, Note},
    pace::{Pace, Reader},
    room::Room,
    settlements::{Claim, Reason, Refusal, Settlements},
};
use crate::{
    admin::{GroupMode, GroupPolicy},
    error::AckError,
    types::Offset,
};

/// The group's ack time-out as long as the broker has not said otherwise.
pub(super) const ACK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Wakes the driver when the consumer is to end.
    pub(super) leave: Notify,
    /// Wakes the driver of a member that was taken out when its program goes on.
    pub(super) revived: Notify,
    /// Wakes whoever keeps what waits in the inbox: how long that may wait has changed.
    pub(super) paced: Notify,
    pub(super) topic: Arc<str>,
    pub(super) join: v1::Join,
    pub(super) counters: Counters,
}

pub(super) struct State {
    /// Which stream this is; deliveries of older ones cannot be settled any more.
    pub(super) session: u64,
    pub(super) settlements: Settlements,
    pub(super) inbox: Inbox,
    pub(super) pace: Pace,
    /// Generation by partition.
    pub(super) assignment: BTreeMap<u32, u64>,
    /// Partitions with records that were given back, and how many messages say so: the broker goes back and answers each
    /// with `Rewound`. What comes of the partition before the last answer is out of order.
    pub(super) rewinding: BTreeMap<u32, usize>,
    /// The same where only records of the same key come again: what each of those messages gives back.
    pub(super) failed_keys: BTreeMap<u32, VecDeque<Vec<FailedKey>>>,
    pub(super) member: Option<v1::Joined>,
    /// The group's, as it has said; without opinions while it is joining.
    pub(super) policy: GroupPolicy,
    /// Handed out in this session and not settled.
    pub(super) open: u64,
    /// Settled since the last join, and not known to be stored: the session was lost.
    pub(super) unsettled: u64,
    pub(super) phase: Phase,
    /// Its partitions are not to wait for a static member.
    pub(super) leaves_for_good: bool,
    /// Set while the broker has taken the member out, because it settled nothing.
    pub(super) stuck: Option<Stuck>,
    /// Of the request stream, while it has nothing to send.
    pub(super) requests: Option<Waker>,
    /// Of the reader, while the inbox is empty.
    pub(super) reader: Option<Waker>,
}

/// A member that was taken out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stuck {
    /// Deliveries that its program had then, and had not settled.
    held: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Consuming,
    /// Nothing more is handed out; the member leaves once everything that was handed out is settled.
    Draining,
    /// Nothing more is handed out; what is settled is sent, then the member leaves.
    Leaving,
    /// The driver has ended.
    Ended,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) delivered: AtomicU64,
    pub(super) acked: AtomicU64,
    pub(super) nacked: AtomicU64,
    pub(super) parked: AtomicU64,
    pub(super) released: AtomicU64,
    pub(super) aborted: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) rejoins: AtomicU64,
    pub(super) gap_records: AtomicU64,
}

/// What becomes of a delivery.
#[derive(Debug)]
pub(super) enum Verdict {
    Ack {
        done: Option<oneshot::Sender<Result<(), AckError>>>,
    },
    /// Without a delay, the group's backoff counts.
    Nack {
        delay_ms: Option<u32>,
        error: String,
        /// The record's.
        key: Option<Bytes>,
    },
    Park {
        reason: String,
        done: Option<oneshot::Sender<Result<(), AckError>>>,
    },
}

impl Shared {
    pub(super) fn new(topic: Arc<str>, join: v1::Join, pace: Pace) -> Self {
        let settlements = Settlements::new(room(&join, &pace));
        let state = State {
            session: 0,
            settlements,
            inbox: Inbox::default(),
            pace,
            assignment: BTreeMap::new(),
            rewinding: BTreeMap::new(),
            failed_keys: BTreeMap::new(),
            member: None,
            policy: GroupPolicy::default(),
            open: 0,
            unsettled: 0,
            phase: Phase::Consuming,
            leaves_for_good: false,
            stuck: None,
            requests: None,
            reader: None,
        };
        let (leave, revived, paced) = (Notify::new(), Notify::new(), Notify::new());
        Self { state: Mutex::new(state), leave, revived, paced, topic, join, counters: Counters::default() }
    }

    /// Hands `event` out: it belongs to the program until it is settled.
    pub(super) fn hand_out(self: &Arc<Self>, state: &mut State, event: Box<HandedOut>) -> Delivery {
        state.open += 1;
        state.pace.handed_out(Instant::now);
        self.counters.delivered.fetch_add(1, Ordering::Relaxed);
        Delivery::new(event, state.session, Arc::clone(self))
    }

    /// Settles one delivery of `session`. Of an older session it is counted and forgotten: the broker has given the
    /// record to somebody else, or will.
    pub(super) fn settle(&self, session: u64, claim: Claim, offset: Offset, verdict: Verdict) {
        let mut state = self.state.lock();
        if state.session != session || state.phase == Phase::Ended {
            state.unsettled += 1;
            self.revive(&mut state);
            drop(state);
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            if let Verdict::Ack { done: Some(done) } | Verdict::Park { done: Some(done), .. } = verdict {
                let _ = done.send(Err(AckError::SessionLost));
            }
            return;
        }
        state.open = state.open.saturating_sub(1);
        match verdict {
            Verdict::Ack { done } => state.settlements.ack(claim, offset, done),
            Verdict::Nack { delay_ms, error, key } => {
                let reason = Reason { refusal: Refusal::Nack { delay_ms }, error };
                let messages = state.settlements.refuse(claim, offset, reason, None);
                match state.policy.mode {
                    Some(GroupMode::Keyed) => state.fail_key(claim, key.map(|key| FailedKey { key, offset }), messages),
                    Some(GroupMode::Shared) => {}
                    Some(GroupMode::Ordered) | None => state.rewind(claim, messages),
                }
            }
            Verdict::Park { reason, done } => {
                state.settlements.refuse(claim, offset, Reason { refusal: Refusal::Park, error: reason }, done);
            }
        }
        let waker = state.wake_requests();
        drop(state);
        wake(waker);
    }

    /// The broker has given the member up: before it joins again, its program has to settle something that it holds, or ask
    /// for more if it holds nothing.
    pub(super) fn taken_out(&self) {
        let mut state = self.state.lock();
        state.stuck = Some(Stuck { held: state.open });
    }

    /// The program has asked for more.
    pub(super) fn asked(&self, state: &mut State) {
        if state.stuck.is_some_and(|stuck| stuck.held == 0) {
            self.revive(state);
        }
    }

    /// The program goes on.
    fn revive(&self, state: &mut State) {
        if state.stuck.take().is_some() {
            self.revived.notify_one();
        }
    }

    /// The program still works on a delivery of `session`.
    pub(super) fn extend(&self, session: u64, claim: Claim, offset: Offset) {
        let waker = {
            let mut state = self.state.lock();
            if state.session != session || state.phase == Phase::Ended {
                return;
            }
            state.settlements.extend(claim, offset);
            state.wake_requests()
        };
        wake(waker);
    }

    /// Begins a new session; everything of the last one is lost.
    pub(super) fn begin_session(&self) -> u64 {
        let mut state = self.state.lock();
        state.session += 1;
        state.requests = None;
        state.session
    }

    /// The stream is gone: open deliveries go to others, what was not answered may or may not be stored.
    pub(super) fn end_session(&self) {
        let (settlements, revoked, waker) = {
            let mut state = self.state.lock();
            let fresh = Settlements::new(room(&self.join, &state.pace));
            state.session += 1;
            state.open = 0;
            state.member = None;
            state.policy = GroupPolicy::default();
            state.inbox.remove(|_| true);
            state.rewinding.clear();
            state.failed_keys.clear();
            let revoked: Vec<u32> = std::mem::take(&mut state.assignment).into_keys().collect();
            if !revoked.is_empty() {
                state.inbox.note(Note::Assignment { assigned: Vec::new(), revoked: revoked.clone() });
            }
            (std::mem::replace(&mut state.settlements, fresh), revoked, state.reader.take())
        };
        let lost = settlements.lose();
        self.state.lock().unsettled += lost;
        self.counters.lost.fetch_add(lost, Ordering::Relaxed);
        tracing::debug!(topic = %self.topic, ?revoked, "session ended");
        wake(waker);
    }

    /// Nothing more is handed out; the driver settles and leaves.
    pub(super) fn begin_leaving(&self) {
        let (requests, reader) = {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Consuming | Phase::Draining) {
                return;
            }
            state.phase = Phase::Leaving;
            self.release(&mut state, |_| true);
            (state.requests.take(), state.reader.take())
        };
        self.leave.notify_one();
        wake(requests);
        wake(reader);
    }

    /// Nothing more is handed out, and what nobody has seen is given back; what was handed out can still be settled.
    pub(super) fn begin_draining(&self) {
        let (requests, reader) = {
            let mut state = self.state.lock();
            if state.phase != Phase::Consuming {
                return;
            }
            state.phase = Phase::Draining;
            state.settlements.room().limit(0);
            self.release(&mut state, |_| true);
            (state.requests.take(), state.reader.take())
        };
        wake(requests);
        wake(reader);
    }

    /// The client is closing: handlers finish what they are at, any other reader is not waited for.
    pub(super) fn begin_closing(&self) {
        let reader = self.state.lock().pace.reader();
        match reader {
            Reader::Handlers => self.begin_draining(),
            Reader::Program => self.begin_leaving(),
        }
    }

    /// Gives back one delivery of `session`: no attempt is counted. In an ordered group nothing more may be handed out after
    /// that, as it would come out of order.
    pub(super) fn release_one(&self, session: u64, claim: Claim, offset: Offset) {
        let waker = {
            let mut state = self.state.lock();
            if state.session != session || state.phase == Phase::Ended {
                return;
            }
            state.open = state.open.saturating_sub(1);
            state.settlements.release(claim, &[v1::OffsetRange { from: offset, to: offset + 1 }]);
            state.wake_requests()
        };
        self.counters.released.fetch_add(1, Ordering::Relaxed);
        wake(waker);
    }

    /// Gives back what nobody has seen of the claims that are `gone`.
    pub(super) fn release(&self, state: &mut State, gone: impl Fn(Claim) -> bool) {
        for removed in state.inbox.remove(gone) {
            let records: u64 = removed.ranges.iter().map(|range| range.to - range.from).sum();
            self.counters.released.fetch_add(records, Ordering::Relaxed);
            if records > 0 {
                state.settlements.release(removed.claim, &removed.ranges);
            }
            state.settlements.give_back(removed.credit);
        }
    }

    /// The driver has ended, and with it the consumer.
    pub(super) fn end(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.phase = Phase::Ended;
            state.reader.take()
        };
        wake(waker);
    }

    /// The group's policy as the broker has said it.
    pub(super) fn policy(&self) -> GroupPolicy {
        self.state.lock().policy
    }
}

impl State {
    /// Forgets what has arrived of the partition: it comes again, in order, once the broker has answered.
    fn rewind(&mut self, claim: Claim, messages: usize) {
        if self.assignment.get(&claim.partition) != Some(&claim.generation) {
            return;
        }
        *self.rewinding.entry(claim.partition).or_default() += messages;
        for removed in self.inbox.remove(|other| other == claim) {
            self.settlements.give_back(removed.credit);
        }
    }

    /// What follows of the key comes again once the broker has answered the message that gives the record back.
    fn fail_key(&mut self, claim: Claim, failed: Option<FailedKey>, messages: usize) {
        if self.assignment.get(&claim.partition) != Some(&claim.generation) {
            return;
        }
        let pending = self.failed_keys.entry(claim.partition).or_default();
        pending.extend((0..messages).map(|_| Vec::new()));
        if let (Some(message), Some(failed)) = (pending.back_mut(), failed) {
            self.inbox.fail_key(claim, &failed);
            message.push(failed);
        }
    }

    /// What was given back of a partition and is not answered yet.
    pub(super) fn failed_keys(&self, partition: u32) -> Vec<FailedKey> {
        self.failed_keys.get(&partition).into_iter().flatten().flatten().cloned().collect()
    }

    /// The broker has answered one message that gave records back.
    pub(super) fn rewound(&mut self, claim: Claim) {
        if let Some(pending) = self.failed_keys.get_mut(&claim.partition) {
            pending.pop_front();
            if pending.is_empty() {
                self.failed_keys.remove(&claim.partition);
            }
        }
        if self.assignment.get(&claim.partition) == Some(&claim.generation)
            && let Entry::Occupied(mut pending) = self.rewinding.entry(claim.partition)
        {
            *pending.get_mut() -= 1;
            if *pending.get() == 0 {
                pending.remove();
            }
        }
    }

    /// The request stream's waker, if it sleeps and there is something to send.
    pub(super) fn wake_requests(&mut self) -> Option<Waker> {
        if self.settlements.is_ready() { self.requests.take() } else { None }
    }
}

/// For a new session. The group's ack time-out is not known yet, and is followed once it is.
fn room(join: &v1::Join, pace: &Pace) -> Room {
    let opinion = join.policy.clone().map(GroupPolicy::from).and_then(|policy| policy.ack_timeout);
    let records_max = pace.prefetch_records(opinion.unwrap_or(ACK_TIMEOUT_DEFAULT));
    Room::new(join.credit.unwrap_or_default(), records_max)
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
