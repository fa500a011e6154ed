//! The task behind a consumer: one stream is one membership; when it breaks, it joins again.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aqueduct_proto::v1::{self, consume_response::Event};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tonic::{Code, Streaming};

use super::{
    inbox::{Delivered, Note},
    requests::Requests,
    settlements::Claim,
    shared::{Phase, Shared, State, wake},
};
use crate::{
    admin::GroupPolicy,
    codec::EventBatch,
    error::{BrokerError, ConsumeError, Origin, RequestError},
    lifecycle::{Lifecycle, Running},
    transport::{backoff::RECONNECT, link::Link},
    types::Gap,
};

/// How long the broker may be silent: three of its heartbeats.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Told once: whether the first join has succeeded.
type FirstJoin = oneshot::Sender<Result<(), RequestError>>;

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Link,
    pub(super) lifecycle: Lifecycle,
    pub(super) first_join: Option<FirstJoin>,
}

/// Why a session is over.
enum End {
    /// The member has left.
    Left,
    /// The stream is gone.
    Broken(Option<BrokerError>),
}

impl Driver {
    /// Ends when the consumer is closed or dropped, or the broker refuses it.
    pub(super) async fn run(mut self, _running: Running) {
        let shared = Arc::clone(&self.shared);
        let lifecycle = self.lifecycle.clone();
        tokio::select! {
            () = self.sessions() => {}
            () = leave_on_close(&lifecycle, &shared) => {}
        }
        shared.end_session();
        shared.end();
    }

    async fn sessions(&mut self) {
        let mut attempt = 0;
        loop {
            let session = self.shared.begin_session();
            let error = match self.session(session).await {
                End::Left => return,
                End::Broken(error) => error,
            };
            // It had joined: the next break is a new one.
            let joined = self.shared.state.lock().member.is_some();
            attempt = if joined { 0 } else { attempt + 1 };
            let is_stuck = error.as_ref().is_some_and(|error| error.has_reason("MEMBER_STUCK"));
            if is_stuck {
                self.shared.taken_out();
            }
            self.shared.end_session();
            if self.shared.state.lock().phase != Phase::Consuming || self.gives_up(error) {
                return;
            }
            if is_stuck {
                tokio::select! {
                    () = self.shared.revived.notified() => {}
                    () = self.shared.leave.notified() => return,
                }
            }
            tokio::select! {
                () = sleep(RECONNECT.jittered(attempt)) => {}
                () = self.shared.leave.notified() => return,
            }
            self.shared.counters.rejoins.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells whoever waits, if there is no point in another attempt.
    fn gives_up(&mut self, error: Option<BrokerError>) -> bool {
        let error = error.unwrap_or_else(|| BrokerError::transport("the stream ended"));
        if let Some(first_join) = self.first_join.take() {
            let _ = first_join.send(Err(error.into()));
            return true;
        }
        if error.has_reason("MEMBER_STUCK") {
            tracing::warn!(topic = %self.shared.topic, %error, "taken out of the group until the program goes on");
            return false;
        }
        if error.origin == Origin::Transport || passes(error.code) {
            tracing::debug!(topic = %self.shared.topic, %error, "consume stream broken, joining again");
            return false;
        }
        let waker = {
            let mut state = self.shared.state.lock();
            state.inbox.note(Note::Error(RequestError::from(error).into()));
            state.reader.take()
        };
        wake(waker);
        true
    }

    async fn session(&mut self, session: u64) -> End {
        let mut groups = self.link.groups();
        let requests = Requests::new(Arc::clone(&self.shared), session);
        let after = self.link.request_timeout();
        let mut answers = match timeout(after, Box::pin(groups.consume(requests))).await {
            Err(_) => return End::Broken(Some(BrokerError::transport("the consume stream was not opened in time"))),
            Ok(Err(status)) => return End::Broken(Some(self.link.judge(status))),
            Ok(Ok(response)) => response.into_inner(),
        };
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            end = self.read(&mut answers) => return end,
            () = shared.leave.notified() => {}
            () = shared.keep_waiting() => {}
        }
        // Settled and left, or out of patience: the end of the stream says the same.
        let only_held_ones_are_open = has_left(&shared.state.lock());
        if !only_held_ones_are_open {
            let _ = timeout(after, self.read(&mut answers)).await;
        }
        End::Left
    }

    async fn read(&mut self, answers: &mut Streaming<v1::ConsumeResponse>) -> End {
        loop {
            match timeout(SILENCE_MAX, answers.message()).await {
                Err(_) => return End::Broken(Some(BrokerError::transport("the broker has gone silent"))),
                Ok(Err(status)) => return End::Broken(Some(self.link.judge(status))),
                Ok(Ok(None)) => return End::Broken(None),
                Ok(Ok(Some(answer))) => {
                    if let ControlFlow::Break(end) = self.received(answer) {
                        return end;
                    }
                }
            }
        }
    }

    fn received(&mut self, answer: v1::ConsumeResponse) -> ControlFlow<End> {
        let Some(event) = answer.event else { return ControlFlow::Continue(()) };
        let first_join = if matches!(event, Event::Joined(_)) { self.first_join.take() } else { None };
        // Checking and unpacking happen before the lock is taken.
        let delivered = match event {
            Event::Delivery(delivery) => Err(self.unpack(delivery)),
            other => Ok(other),
        };
        let shared = &self.shared;
        let mut state = shared.state.lock();
        match delivered {
            Err(Unpacked::Delivered(delivered)) => receive_delivery(shared, &mut state, *delivered),
            Err(Unpacked::Damaged { error, credit }) => {
                state.settlements.give_back(credit);
                state.inbox.note(Note::Error(error));
            }
            Ok(Event::Joined(joined)) => {
                self.link.report_success();
                state.policy = joined.policy.clone().map(GroupPolicy::from).unwrap_or_default();
                state.member = Some(joined);
                shared.follow_pace(&mut state);
                shared.paced.notify_one();
                // What was lost is delivered again from here on.
                state.unsettled = 0;
            }
            Ok(Event::Assignment(assignment)) => reassign(shared, &mut state, assignment),
            Ok(Event::Settled(settled)) => {
                let answered = state.settlements.answered(&settled);
                let counters = &shared.counters;
                counters.acked.fetch_add(answered.acked, Ordering::Relaxed);
                counters.nacked.fetch_add(answered.nacked, Ordering::Relaxed);
                counters.parked.fetch_add(answered.parked, Ordering::Relaxed);
                counters.aborted.fetch_add(answered.aborted, Ordering::Relaxed);
            }
            Ok(Event::Rewound(v1::Rewound { partition, generation, .. })) => {
                state.rewound(Claim { partition, generation });
            }
            Ok(Event::Gap(v1::PartitionGap { partition, gap })) => {
                let gap = Gap::from_proto(partition, &gap.unwrap_or_default());
                shared.counters.gap_records.fetch_add(gap.records(), Ordering::Relaxed);
                state.inbox.note(Note::Gap(gap));
            }
            Ok(Event::Failure(failure)) => {
                let error = Box::new(BrokerError::from_proto(&failure.error.unwrap_or_default()));
                state.inbox.note(Note::Error(ConsumeError::Partition { partition: failure.partition, error }));
            }
            Ok(Event::Heartbeat(_) | Event::Delivery(_)) => {}
        }
        let done = has_left(&state);
        let (requests, reader) = (wakes_requests(&mut state), state.reader.take());
        drop(state);
        wake(requests);
        wake(reader);
        if let Some(first_join) = first_join {
            let _ = first_join.send(Ok(()));
        }
        if done { ControlFlow::Break(End::Left) } else { ControlFlow::Continue(()) }
    }

    fn unpack(&self, delivery: v1::Delivery) -> Unpacked {
        let partition = delivery.partition;
        let batch = delivery.batch.unwrap_or_default();
        let records = delivery.ranges.iter().map(|range| range.to.saturating_sub(range.from)).sum();
        let credit = v1::Credit { bytes: batch.records.len() as u64, records };
        let ranges = delivery.ranges.iter().map(|range| range.from..range.to);
        match EventBatch::new(&self.shared.topic, partition, batch) {
            Ok(batch) => Unpacked::Delivered(Box::new(Delivered {
                claim: Claim { partition, generation: delivery.generation },
                attempt: delivery.attempt,
                events: batch.events_at(ranges),
                credit,
                failed: Vec::new(),
            })),
            Err(error) => Unpacked::Damaged { error: error.into(), credit },
        }
    }
}

enum Unpacked {
    Delivered(Box<Delivered>),
    Damaged { error: ConsumeError, credit: v1::Credit },
}

/// Leaving, with nothing to wait for but deliveries that the program still holds: the end of the stream gives them to
/// others. Without such deliveries the broker ends the stream itself.
fn has_left(state: &State) -> bool {
    state.phase == Phase::Leaving && state.open > 0 && state.settlements.is_answered()
}

fn wakes_requests(state: &mut State) -> Option<std::task::Waker> {
    if state.phase == Phase::Consuming { state.wake_requests() } else { state.requests.take() }
}

/// A delivery of a partition that has gone in the meantime, or of a consumer that leaves, goes straight back.
fn receive_delivery(shared: &Shared, state: &mut State, mut delivered: Delivered) {
    let claim = delivered.claim;
    let current = state.assignment.get(&claim.partition) == Some(&claim.generation);
    delivered.failed = state.failed_keys(claim.partition);
    if current && state.rewinding.contains_key(&claim.partition) {
        // Sent before the broker had heard that an earlier record was given back: it comes again.
        state.settlements.give_back(delivered.credit);
        return;
    }
    state.inbox.deliver(delivered);
    if !current || state.phase != Phase::Consuming {
        shared.release(state, |other| other == claim);
    }
    shared.give_back_waiting(state);
}

fn reassign(shared: &Shared, state: &mut State, assignment: v1::Assignment) {
    for partition in &assignment.revoked {
        state.assignment.remove(partition);
        state.rewinding.remove(partition);
        state.failed_keys.remove(partition);
    }
    for assigned in &assignment.assigned {
        state.rewinding.remove(&assigned.partition);
    }
    let assigned: BTreeMap<_, _> =
        assignment.assigned.iter().map(|assigned| (assigned.partition, assigned.generation)).collect();
    state.assignment.extend(&assigned);
    // What was delivered under an older generation is nobody's business here any more.
    let current = state.assignment.clone();
    shared.release(state, |claim| current.get(&claim.partition) != Some(&claim.generation));
    let assigned = assigned.into_keys().collect();
    state.inbox.note(Note::Assignment { assigned, revoked: assignment.revoked });
}

async fn leave_on_close(lifecycle: &Lifecycle, shared: &Shared) {
    lifecycle.closed().await;
    shared.begin_closing();
    std::future::pending().await
}

/// Whether joining again may help. A stale generation is `ABORTED`.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Aborted | Code::Cancelled | Code::DeadlineExceeded
    )
}
