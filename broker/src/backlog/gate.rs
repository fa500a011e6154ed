//! The gate of one topic: what publishers pass.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{
    GroupHold,
    decision::Room,
    meter::Meter,
    setting::{Backlog, Mode},
};
use crate::{
    connection::ClientId,
    groups::Clients,
    turns::{ConnectionId, Turns},
};

/// [`Gate::stage`]: there is no backlog.
const OFF: u8 = 0;
/// There is room, as long as it lasts.
const OPEN: u8 = 1;
/// A group holds publishers.
const HELD: u8 = 2;

/// See [`super`].
#[derive(Debug)]
pub(crate) struct Gate {
    stage: AtomicU8,
    records: Meter,
    bytes: Meter,
    setting: Mutex<Option<Arc<Backlog>>>,
    seen: watch::Sender<Seen>,
    /// Wakes the watcher at once.
    pub(super) asked: Notify,
    /// Tells the watcher that something that has passed is stored, or never will be.
    pub(super) landed: Notify,
    watched: AtomicBool,
    waiting: AtomicU32,
    turns: Turns,
}

/// What the last look has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) hold: Option<Arc<GroupHold>>,
    /// The group does not exist.
    pub(super) group_unknown: bool,
}

/// What one request brings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl std::iter::Sum for Load {
    fn sum<I: Iterator<Item = Self>>(loads: I) -> Self {
        loads.fold(Self::default(), |sum, load| Self {
            records: sum.records.saturating_add(load.records),
            bytes: sum.bytes.saturating_add(load.bytes),
        })
    }
}

/// Who wants to pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrant<'a> {
    pub(crate) connection: ConnectionId,
    pub(crate) client: ClientId,
    /// Who is a member of what.
    pub(crate) clients: &'a Clients,
}

impl Entrant<'_> {
    /// Whether it waits for that group; whoever does not is refused. A member must not: it is the one who can end the hold.
    pub(crate) fn waits_for(&self, hold: &GroupHold) -> bool {
        match hold.backlog.mode {
            Mode::Reject => false,
            Mode::Hold => !self.clients.is_member(self.client, &hold.backlog.group),
        }
    }
}

/// The right to publish. To be kept until everything that it was given for is stored, or never will be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passed(#[expect(dead_code, reason = "counts while it lives")] Option<Arc<OnItsWay>>);

#[derive(Debug)]
struct OnItsWay {
    gate: Arc<Gate>,
    load: Load,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.gate.records.land(self.load.records);
        self.gate.bytes.land(self.load.bytes);
        self.gate.landed.notify_one();
    }
}

/// One request that waits.
struct InQueue<'a>(&'a AtomicU32);

impl<'a> InQueue<'a> {
    fn enter(waiting: &'a AtomicU32) -> Self {
        waiting.fetch_add(1, Ordering::AcqRel);
        Self(waiting)
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    /// With a backlog, nobody passes before the first look.
    pub(crate) fn new(backlog: Option<Backlog>) -> Self {
        let gate = Self {
            stage: AtomicU8::new(OFF),
            records: Meter::default(),
            bytes: Meter::default(),
            setting: Mutex::new(None),
            seen: watch::Sender::new(Seen::default()),
            asked: Notify::new(),
            landed: Notify::new(),
            watched: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            turns: Turns::default(),
        };
        gate.set(backlog);
        gate
    }

    /// From now on this counts. Whoever is held waits for the next look, which comes at once.
    pub(crate) fn set(&self, backlog: Option<Backlog>) {
        let mut setting = self.setting.lock();
        if setting.as_deref() == backlog.as_ref() {
            return;
        }
        *setting = backlog.map(Arc::new);
        if setting.is_none() {
            self.stage.store(OFF, Ordering::Release);
            self.seen.send_replace(Seen::default());
        } else if self.stage.load(Ordering::Acquire) != HELD {
            self.give(Room::NONE, Load::default());
            self.stage.store(OPEN, Ordering::Release);
        }
        self.asked.notify_one();
    }

    pub(super) fn setting(&self) -> Option<Arc<Backlog>> {
        self.setting.lock().clone()
    }

    /// `true` for the first one who asks: a gate has one watcher, from its first backlog on.
    pub(super) fn wants_watcher(&self) -> bool {
        self.setting.lock().is_some() && !self.watched.swap(true, Ordering::AcqRel)
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Who holds publishers now.
    pub(crate) fn hold(&self) -> Option<Arc<GroupHold>> {
        self.seen.borrow().hold.clone()
    }

    /// Since when `group` holds publishers, if it does.
    pub(crate) fn held_since_us(&self, group: &str) -> Option<i64> {
        self.seen.borrow().hold.as_ref().filter(|hold| hold.backlog.group == group).map(|hold| hold.since_us)
    }

    /// Whether there is no such group as the backlog names.
    pub(crate) fn is_group_unknown(&self) -> bool {
        self.seen.borrow().group_unknown
    }

    /// Requests that wait now.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Acquire)
    }

    /// What has landed so far; a look begins with it.
    pub(super) fn landed(&self) -> Load {
        Load { records: self.records.landed(), bytes: self.bytes.landed() }
    }

    /// Takes over what a look at `backlog` has found, unless there is another one by now.
    pub(super) fn found(&self, backlog: &Arc<Backlog>, landed_before: Load, seen: Seen, room: Room) {
        let setting = self.setting.lock();
        if !setting.as_ref().is_some_and(|setting| Arc::ptr_eq(setting, backlog)) {
            return;
        }
        self.give(room, landed_before);
        self.stage.store(if seen.hold.is_some() { HELD } else { OPEN }, Ordering::Release);
        self.seen.send_replace(seen);
    }

    fn give(&self, room: Room, landed_before: Load) {
        self.records.allow(landed_before.records, room.records);
        self.bytes.allow(landed_before.bytes, room.bytes);
    }

    /// What is on its way takes all the room there is.
    pub(super) fn is_full(&self) -> bool {
        self.records.is_used_up() || self.bytes.is_used_up()
    }

    /// Whether `load` may pass, as of the last look; `None` if it takes another look to tell.
    pub(crate) fn try_enter(self: &Arc<Self>, load: Load) -> Option<Result<Passed, Arc<GroupHold>>> {
        match self.stage.load(Ordering::Acquire) {
            OFF => Some(Ok(Passed::default())),
            OPEN if self.take(load) => {
                let gate = Arc::clone(self);
                Some(Ok(Passed(Some(Arc::new(OnItsWay { gate, load })))))
            }
            OPEN => None,
            // Without a hold it is being let go just now.
            _ => self.hold().map(Err),
        }
    }

    /// Whether `load` may pass; waits for looks until one can tell.
    ///
    /// # Errors
    /// Who holds publishers.
    pub(crate) async fn enter(self: &Arc<Self>, load: Load) -> Result<Passed, Arc<GroupHold>> {
        let mut seen = self.seen.subscribe();
        loop {
            if let Some(entered) = self.try_enter(load) {
                return entered;
            }
            self.asked.notify_one();
            // The sender is a field of this very gate.
            let _ = seen.changed().await;
        }
    }

    fn take(&self, load: Load) -> bool {
        if !self.records.pass(load.records) {
            return false;
        }
        let passes = self.bytes.pass(load.bytes);
        if !passes {
            self.records.take_back(load.records);
        }
        passes
    }

    /// Waits until `load` may pass; connections take turns.
    ///
    /// # Errors
    /// Who holds publishers, for a publisher that does not wait for that.
    pub(crate) async fn pass(self: &Arc<Self>, load: Load, entrant: Entrant<'_>) -> Result<Passed, Arc<GroupHold>> {
        let mut members = entrant.clients.changed();
        loop {
            let hold = match self.enter(load).await {
                Ok(passed) => return Ok(passed),
                Err(hold) => hold,
            };
            if !entrant.waits_for(&hold) {
                return Err(hold);
            }
            let _in_queue = InQueue::enter(&self.waiting);
            let in_turn = async {
                let _turn = self.turns.take(entrant.connection).await;
                // The sender is a field of this very gate.
                let _ = self.seen.subscribe().wait_for(|seen| seen.hold.is_none()).await;
                self.enter(load).await
            };
            let entered = tokio::select! {
                entered = in_turn => entered.ok(),
                // It may have become a member meanwhile.
                Ok(()) = members.changed() => None,
            };
            if let Some(passed) = entered {
                return Ok(passed);
            }
        }
    }
}
