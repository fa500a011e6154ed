//! The task that moves records: the only one that writes the journal, and that appends under the store's producers.
//!
//! In rounds: what is new in tier 0 is read, other tiers are looked at whose time has come, what is due is given to the
//! lane of its target, and every lane that is free decides on its next transfer. All that was decided in a round becomes
//! durable with one append to the journal; then it is carried out, all lanes at once. A round begins when a transfer has
//! ended, something was put, or a time has come. The wall clock is looked at every second: it may jump.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Shared,
    census::SettledReply,
    journal::Journal,
    lane::{Lane, Phase, Ready},
    near::Near,
    reading::Reading,
    state::{Intent, Settled, Step, Target},
    transfer::{Finished, Outcome, Place, transfer},
};
use crate::clock::Clock;

mod reads;

/// Entries of tier 0 that are known in memory.
const NEAR_ENTRIES_MAX: usize = 256 << 10;
/// Bytes of their records that are kept with them.
const NEAR_BYTES_MAX: usize = 16 << 20;
/// Transfers at the same time, each with its records in memory.
const TRANSFERS_MAX: usize = 64;
/// Read at once from a tier.
const READ_BYTES: usize = 512 << 10;
/// The wall clock is looked at this often while anything waits.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);
/// How many transfers may have been made without the journal knowing it, unless a second has passed.
const UNWRITTEN_MAX: usize = 64;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A tier that cannot be read is looked at again after this time.
const LOOK_AGAIN_US: i64 = 5_000_000;

/// See the [module](self).
pub(super) struct Mover {
    shared: Arc<Shared>,
    clock: Clock,
    journal: Journal,
    near: Near,
    readings: BTreeMap<u8, Reading>,
    lanes: HashMap<Target, Lane>,
    /// Lanes with work, each once. They take turns.
    active: VecDeque<Target>,
    transfers: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// What the journal does not know yet. It may have been written, so nothing of it is ever taken back.
    steps: Vec<Step>,
    /// Intents among those.
    undecided: usize,
    write_steps_at: Option<Instant>,
    pause: Duration,
    /// The disk has given no answer; nothing is done before.
    resting_until: Option<Instant>,
}

impl Mover {
    pub(super) fn new(shared: Arc<Shared>, journal: Journal) -> Self {
        let mut mover = Self {
            clock: shared.topics.clock().clone(),
            shared,
            journal,
            near: Near::new(NEAR_ENTRIES_MAX, NEAR_BYTES_MAX),
            readings: BTreeMap::new(),
            lanes: HashMap::new(),
            active: VecDeque::new(),
            transfers: FuturesUnordered::new(),
            steps: Vec::new(),
            undecided: 0,
            write_steps_at: None,
            pause: RETRY_MIN,
            resting_until: None,
        };
        let intents: Vec<_> = mover.journal.state().intents().cloned().collect();
        for intent in intents {
            mover.reading(intent.from).take(intent.offsets.iter().copied());
            let to = intent.to;
            mover.lane(to).resume(intent);
            mover.activate(to);
        }
        mover.tell_settled();
        mover
    }

    /// Runs until it is told to stop, and to have ended its transfers by then, or until nobody is left.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<Instant>, mut asked: mpsc::Receiver<SettledReply>) {
        let deadline = loop {
            self.round().await;
            let wake = self.next_round();
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                deadline = &mut stop => match deadline {
                    Ok(deadline) => break deadline,
                    Err(_) => return,
                },
                Some(finished) = self.transfers.next(), if !self.transfers.is_empty() => self.finish(finished),
                // Whoever has asked may have gone.
                Some(reply) = asked.recv() => drop(reply.send(self.settled())),
                () = shared.wake.notified() => {}
                () = sleep_until(&self.clock, wake) => {}
            }
            while let Some(Some(finished)) = self.transfers.next().now_or_never() {
                self.finish(finished);
            }
        };
        self.stop(deadline).await;
    }

    async fn round(&mut self) {
        if self.resting_until.is_some_and(|until| until > self.clock.now()) {
            return;
        }
        self.resting_until = None;
        // One time for the whole round: what is due by then has been read by the time that it is taken out.
        let now_us = self.clock.now_us();
        self.read(now_us).await;
        let until_us = now_us.min(self.complete_until_us().saturating_sub(1));
        while let Some((_, pointer)) = self.near.pop_due(until_us) {
            let ready = Ready { from: 0, offset: pointer.offset, bytes: pointer.bytes, cached: pointer.cached };
            self.reading(0).take(std::iter::once(pointer.offset));
            self.push(Target::Partition(pointer.to), ready);
        }
        self.decide();
        self.write().await;
    }

    /// Finishes transfers, writes down what was made, and closes the logs.
    async fn stop(mut self, deadline: Instant) {
        while let Ok(Some(finished)) = tokio::time::timeout_at(deadline, self.transfers.next()).await {
            self.finish(finished);
        }
        // What has only been decided is not begun any more; the next start does it.
        if !self.steps.is_empty()
            && let Err(error) = self.journal.write(&self.steps).await
        {
            tracing::warn!(%error, "the last moves of delayed records are made again at the next start");
        }
        self.snapshot().await;
        for (number, tier) in self.shared.shelf.list() {
            if let Err(error) = tier.log.close().await {
                tracing::warn!(%error, tier = number, "a tier of delayed records was not closed cleanly");
            }
        }
        self.journal.close().await;
    }
}

/// Lanes and transfers.
impl Mover {
    fn lane(&mut self, to: Target) -> &mut Lane {
        let epoch = self.journal.epoch();
        self.lanes.entry(to).or_insert_with(|| Lane::new(epoch))
    }

    fn push(&mut self, to: Target, ready: Ready) {
        self.lane(to).push(ready);
        self.activate(to);
    }

    fn activate(&mut self, to: Target) {
        if !std::mem::replace(&mut self.lane(to).is_active, true) {
            self.active.push_back(to);
        }
    }

    /// Every lane that is free decides what goes next; what was decided before begins.
    fn decide(&mut self) {
        let now = self.clock.now();
        for _ in 0..self.active.len() {
            let Some(to) = self.active.pop_front() else { return };
            let next_intent = self.next_intent();
            let has_room = self.transfers.len() + self.undecided < TRANSFERS_MAX;
            let lane = self.lane(to);
            if !lane.has_work() {
                lane.is_active = false;
                continue;
            }
            match lane.phase {
                Phase::Deciding | Phase::Moving => {}
                Phase::Resting { until } if until > now => self.give_up(to, now),
                Phase::Idle | Phase::Resting { .. } if !has_room => {}
                Phase::Idle | Phase::Resting { .. } if lane.intent().is_some() => self.begin(to),
                Phase::Idle | Phase::Resting { .. } => {
                    if let Some(intent) = lane.decide(next_intent, to) {
                        self.intend(intent);
                    }
                }
            }
            self.active.push_back(to);
        }
    }

    /// The id of the next intent: beyond those that are only decided.
    fn next_intent(&self) -> u64 {
        let decided = self.steps.iter().filter_map(|step| match step {
            Step::Intended(intent) => Some(intent.id + 1),
            Step::Opened | Step::Moved { .. } | Step::Withdrawn { .. } | Step::Lost { .. } => None,
        });
        decided.max().unwrap_or(0).max(self.journal.state().next_intent())
    }

    fn intend(&mut self, intent: Intent) {
        self.steps.push(Step::Intended(intent));
        self.undecided += 1;
    }

    fn intend_anew(&mut self, intent: Option<Intent>) {
        intent.into_iter().for_each(|intent| self.intend(intent));
    }

    /// What is due for a partition in trouble goes back into a tier: it holds up nobody there, and takes no memory.
    fn give_up(&mut self, to: Target, now: Instant) {
        if matches!(to, Target::Tier(_)) {
            return;
        }
        if let Some((tier, waiting)) = self.lane(to).give_up(now) {
            waiting.into_iter().for_each(|ready| self.push(Target::Tier(tier), ready));
        }
    }

    /// Carries out a lane's first intent.
    fn begin(&mut self, to: Target) {
        let place = match to {
            Target::Tier(number) => Place::Tier(number),
            Target::Partition(_) => match self.place(to) {
                Some(place) => place,
                None => return self.drop_intent(to),
            },
        };
        let lane = self.lane(to);
        let Some(intent) = lane.intent().cloned() else { return };
        lane.phase = Phase::Moving;
        let cached = lane.cached.take();
        self.transfers.push(transfer(Arc::clone(&self.shared), intent, place, cached).boxed());
    }

    /// The partition, unless there is none any more.
    fn place(&mut self, to: Target) -> Option<Place> {
        let Target::Partition(destination) = to else { return None };
        let shared = Arc::clone(&self.shared);
        let lane = self.lane(to);
        if lane.topic.as_ref().is_none_or(|topic| topic.is_deleted()) {
            lane.topic = shared.topics.find_by_id(&destination.topic);
        }
        lane.topic.as_ref()?.partition(destination.partition).ok().map(Place::Partition)
    }

    /// There is nowhere to go for the records of a lane's first intent.
    fn drop_intent(&mut self, to: Target) {
        let lane = self.lane(to);
        let is_known = std::mem::replace(&mut lane.is_gone, true);
        let Some(intent) = lane.made() else { return };
        let count = intent.offsets.len();
        if !is_known && let Target::Partition(destination) = to {
            let topic = uuid::Uuid::from_bytes(destination.topic);
            let partition = destination.partition;
            tracing::warn!(%topic, partition, "delayed records are dropped: their topic has been deleted");
        }
        self.shared.dropped.fetch_add(count as u64, Ordering::Relaxed);
        self.moved(intent.id, intent.from, count);
    }

    fn moved(&mut self, intent: u64, from: u8, count: usize) {
        self.reading(from).arrived(count);
        self.steps.push(Step::Moved { intent });
    }

    fn finish(&mut self, Finished { to, outcome }: Finished) {
        let now = self.clock.now();
        let lane = self.lane(to);
        match outcome {
            Outcome::Made => {
                if let Some(intent) = lane.made() {
                    self.moved(intent.id, intent.from, intent.offsets.len());
                }
            }
            Outcome::Renumber { expected } => {
                let intent = lane.renumber(expected);
                self.intend_anew(intent);
            }
            Outcome::Fenced { current } => {
                let intent = lane.fenced(current);
                self.intend_anew(intent);
            }
            Outcome::NotInTime => {
                let Some(intent) = lane.withdraw() else { return };
                self.steps.push(Step::Withdrawn { intent: intent.id });
                for offset in intent.offsets {
                    self.push(Target::Tier(0), Ready { from: intent.from, offset, bytes: 0, cached: None });
                }
            }
            Outcome::Lost(offsets) => {
                let Some(from) = lane.intent().map(|intent| intent.from) else { return };
                let intent = lane.lose(&offsets);
                self.reading(from).arrived(offsets.len());
                for offset in offsets {
                    self.lose(from, offset, offset + 1, "not readable");
                }
                self.intend_anew(intent);
            }
            Outcome::Failed(what) => self.failed(to, now, &what),
        }
    }

    fn failed(&mut self, to: Target, now: Instant, what: &str) {
        let lane = self.lane(to);
        if lane.failed(now) {
            let topic = lane.topic.as_ref().map(|topic| topic.meta().name.clone());
            tracing::warn!(
                ?topic,
                ?to,
                "delayed records are due and cannot be delivered, which is tried again: {what}"
            );
        }
    }
}

/// The journal, and time.
impl Mover {
    /// Writes down what has been decided, and begins it; what has been made is written along, or once a second has passed.
    async fn write(&mut self) {
        let is_due = self.write_steps_at.is_some_and(|at| at <= self.clock.now());
        if self.steps.is_empty() || (self.undecided == 0 && self.steps.len() < UNWRITTEN_MAX && !is_due) {
            if !self.steps.is_empty() && self.write_steps_at.is_none() {
                self.write_steps_at = Some(self.clock.now() + LOOK_AT_CLOCK);
            }
            return;
        }
        if let Err(error) = self.journal.write(&self.steps).await {
            if self.pause == RETRY_MIN {
                tracing::warn!(%error, "delayed records are not delivered for now");
            }
            self.resting_until = Some(self.clock.now() + self.pause);
            self.pause = (self.pause * 2).min(RETRY_MAX);
            return;
        }
        (self.pause, self.write_steps_at, self.undecided) = (RETRY_MIN, None, 0);
        for step in std::mem::take(&mut self.steps) {
            if let Step::Intended(intent) = step {
                self.begin(intent.to);
            }
        }
        self.tell_settled();
        if self.journal.is_snapshot_due() {
            self.snapshot().await;
        }
    }

    /// Saves the state, and lets go of what lies before it in the journal and in the tiers.
    async fn snapshot(&mut self) {
        if let Err(error) = self.journal.snapshot().await {
            tracing::warn!(%error, "no snapshot of delayed records; the next one is tried after as much again");
            return;
        }
        for (number, tier) in self.shared.shelf.list() {
            let below = self.journal.state().settled(number).map_or(0, Settled::below);
            self.reading(number).forget_below(below);
            if let Err(error) = tier.log.trim(below).await {
                tracing::warn!(%error, tier = number, "a tier of delayed records keeps what it does not need");
            }
        }
        self.lanes.retain(|_, lane| lane.is_active || !lane.is_gone);
    }

    fn tell_settled(&self) {
        let settled = self.journal.state().tiers().map(|(_, settled)| settled.count()).fold(0, u64::saturating_add);
        self.shared.settled.store(settled, Ordering::Relaxed);
    }

    /// How far each tier has been emptied, with what the journal does not know yet.
    fn settled(&self) -> BTreeMap<u8, Settled> {
        let mut state = self.journal.state().clone();
        self.steps.iter().for_each(|step| state.apply(step.clone()));
        state.tiers().map(|(tier, settled)| (tier, settled.clone())).collect()
    }

    /// When the next round begins if nothing happens before; `None` if nothing waits.
    fn next_round(&self) -> Option<Instant> {
        let now = self.clock.now();
        if let Some(until) = self.resting_until {
            return Some(until);
        }
        if self.near.needs_rereading() {
            return Some(now);
        }
        let looks = self.readings.iter().filter(|(_, reading)| reading.under_way == 0);
        // What is not taken out although it is due waits for a transfer to end.
        let next_due_us = self.near.next_due_us().filter(|due_us| *due_us < self.complete_until_us());
        let wall_us = looks.filter_map(|(_, reading)| reading.next_look_us).chain(next_due_us).min();
        let wall = wall_us.map(|at_us| {
            let wait_us = u64::try_from(at_us.saturating_sub(self.clock.now_us())).unwrap_or(0);
            now + Duration::from_micros(wait_us).min(LOOK_AT_CLOCK)
        });
        let resting = self.active.iter().filter_map(|to| match self.lanes.get(to)?.phase {
            Phase::Resting { until } => Some(until),
            Phase::Idle | Phase::Deciding | Phase::Moving => None,
        });
        wall.into_iter().chain(resting).chain(self.write_steps_at).min()
    }
}

async fn sleep_until(clock: &Clock, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
