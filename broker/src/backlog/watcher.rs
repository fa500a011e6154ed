//! Looks at how far groups are behind, for the gates of topics.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::pending;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    GroupHold,
    decision::{Lag, Room, Standing, decide, reached_in, room},
    gate::{Gate, Load, Seen},
    setting::Backlog,
};
use crate::{
    clock::Clock,
    groups::{GroupError, Groups},
    topics::{Topic, Topics},
};

/// Between two looks that nobody waits for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Between looks at a group that holds somebody although it does not move: retention may take what it has not read.
const HELD_INTERVAL: Duration = Duration::from_secs(1);
/// A look that takes longer has failed: publishers are not held because nobody can tell.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Starts a watcher for every topic that gets a backlog, for as long as the registry of topics lives.
pub(crate) async fn oversee(topics: Weak<Topics>, groups: Weak<Groups>) {
    let Some(mut changed) = topics.upgrade().map(|topics| topics.backlogs_changed()) else { return };
    loop {
        {
            let Some(topics) = topics.upgrade() else { return };
            for topic in topics.list().iter().filter(|topic| topic.gate().wants_watcher()) {
                let watcher = Watcher {
                    topic: Arc::downgrade(topic),
                    gate: Arc::clone(topic.gate()),
                    groups: Weak::clone(&groups),
                    clock: topics.clock().clone(),
                };
                tokio::spawn(watcher.run(topic.deleted()));
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

struct Watcher {
    topic: Weak<Topic>,
    gate: Arc<Gate>,
    groups: Weak<Groups>,
    clock: Clock,
}

/// What to wait for after a look, besides somebody who asks.
#[derive(Debug, Default)]
struct Next {
    /// Positions of groups that move.
    moves: bool,
    /// Something that lands: it may be the oldest that is unread.
    lands: bool,
    /// All room is taken by what is on its way. Until some of it lands, looking again finds nothing else.
    full: bool,
    /// A time.
    at: Option<Instant>,
}

/// When a look began, and what had landed by then.
#[derive(Debug, Clone, Copy)]
struct Seeing {
    at: Instant,
    landed: Load,
}

/// How a look has ended.
enum Look {
    At(Lag),
    GroupUnknown,
    /// Nobody can tell.
    Failed(String),
}

impl Watcher {
    /// Until the topic or the broker is gone.
    async fn run(self, mut deleted: watch::Receiver<bool>) {
        let Some(mut moved) = self.groups.upgrade().map(|groups| groups.moved()) else { return };
        loop {
            moved.mark_unchanged();
            let looked_at = self.clock.now();
            let landed = self.gate.landed();
            let next = match self.gate.setting() {
                None => Next::default(),
                Some(backlog) => {
                    let Some(look) = self.look(&backlog).await else { return };
                    self.judge(&backlog, Seeing { at: looked_at, landed }, look)
                }
            };
            let pause = looked_at + LOOK_INTERVAL;
            let event = async {
                tokio::select! {
                    () = moves(&mut moved), if next.moves => {}
                    () = self.gate.landed.notified(), if next.lands => {}
                    () = self.gate.asked.notified(), if next.full => {}
                    else => pending().await,
                }
                self.clock.sleep_until(pause).await;
            };
            tokio::select! {
                // With the topic goes its sender.
                _ = deleted.wait_for(|deleted| *deleted) => return,
                () = self.gate.asked.notified(), if !next.full => {}
                () = self.gate.landed.notified(), if next.full => {}
                () = event => {}
                () = self.clock.sleep_until(next.at.unwrap_or(looked_at)), if next.at.is_some() => {}
            }
        }
    }

    /// `None`: the topic or the broker is gone.
    async fn look(&self, backlog: &Backlog) -> Option<Look> {
        let (topic, groups) = (self.topic.upgrade()?, self.groups.upgrade()?);
        Some(match timeout(LOOK_MAX, groups.behind(&backlog.group, &topic)).await {
            Ok(Ok(Some(lag))) => Look::At(lag),
            Ok(Ok(None)) => Look::GroupUnknown,
            Ok(Err(GroupError::ShuttingDown)) => return None,
            Ok(Err(error)) => Look::Failed(error.to_string()),
            Err(_) => Look::Failed(format!("no answer within {LOOK_MAX:?}")),
        })
    }

    /// Opens the gate, or shuts it.
    fn judge(&self, backlog: &Arc<Backlog>, seeing: Seeing, look: Look) -> Next {
        let Seeing { at: looked_at, landed } = seeing;
        let before = self.gate.seen();
        let held = before.hold.as_ref().filter(|hold| hold.backlog == **backlog);
        let lag = match look {
            Look::At(lag) => lag,
            Look::GroupUnknown => {
                self.tell(before.hold.as_ref(), None);
                self.gate.found(backlog, landed, Seen { hold: None, group_unknown: true }, Room::UNBOUNDED);
                return Next { moves: true, ..Next::default() };
            }
            Look::Failed(reason) => {
                let (topic, group) = (self.topic_name(), &backlog.group);
                tracing::warn!(
                    topic,
                    group,
                    "cannot tell how far the group is behind, so that it holds nobody: {reason}"
                );
                self.gate.found(backlog, landed, Seen::default(), Room::UNBOUNDED);
                return Next { at: in_time(looked_at, HELD_INTERVAL), ..Next::default() };
            }
        };
        let standing = if held.is_some() { Standing::Held } else { Standing::Open };
        match decide(standing, &lag, &backlog.bounds) {
            Standing::Held => {
                let since_us = held.map_or_else(|| self.clock.now_us(), |hold| hold.since_us);
                let backlog_now = Backlog::clone(backlog);
                let hold = Arc::new(GroupHold { topic: self.topic_name(), backlog: backlog_now, lag, since_us });
                self.tell(before.hold.as_ref(), Some(&hold));
                let seen = Seen { hold: Some(hold), group_unknown: false };
                self.gate.found(backlog, landed, seen, Room::NONE);
                Next { moves: true, at: in_time(looked_at, HELD_INTERVAL), ..Next::default() }
            }
            Standing::Open => {
                self.tell(before.hold.as_ref(), None);
                self.gate.found(backlog, landed, Seen::default(), room(&lag, &backlog.bounds));
                let at = reached_in(&lag, &backlog.bounds).and_then(|left| in_time(looked_at, left));
                let lands = backlog.bounds.age.is_some() && at.is_none();
                Next { moves: false, lands, full: self.gate.is_full(), at }
            }
        }
    }

    /// Whoever runs the broker should know who holds whom.
    fn tell(&self, before: Option<&Arc<GroupHold>>, now: Option<&Arc<GroupHold>>) {
        match (before, now) {
            (None, Some(hold)) => tracing::warn!(topic = hold.topic, "publishers are held by {}", hold.culprit()),
            (Some(hold), None) => tracing::info!(topic = hold.topic, group = hold.backlog.group, "publishers go on"),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    fn topic_name(&self) -> String {
        self.topic.upgrade().map(|topic| topic.meta().name.clone()).unwrap_or_default()
    }
}

/// `left` after a look began; `None` for a time that will never come. Not after it has ended: the clock may have been set
/// forward meanwhile.
fn in_time(looked_at: Instant, left: Duration) -> Option<Instant> {
    // A little later: the age is told by another clock.
    looked_at.checked_add(left)?.checked_add(Duration::from_millis(1))
}

async fn moves(moved: &mut watch::Receiver<()>) {
    if moved.changed().await.is_err() {
        // Groups are out of service, or gone.
        pending().await
    }
}
