//! What a session has others do for it: one settlement at a time, one look or move of what leaves, and tidying up.

use std::{collections::HashMap, future::pending};

use aqueduct_storage::Offset;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use super::{
    session::{Moved, Session, Survey},
    tidying::Tidying,
};
use crate::groups::{
    Handle, coordinator::PartitionGeneration, error::GroupError, leaving::Carrier, state::REDRIVEN, window::KeyId,
};

/// See the [module](self).
pub(super) struct Errands {
    handle: Handle,
    carrier: Carrier,
    settling: Option<BoxFuture<'static, Done>>,
    /// Records on their way out of the window, or a look at which keys are parked.
    moving: Option<BoxFuture<'static, Done>>,
    tidying: Tidying,
}

/// What has come of one.
pub(super) enum Done {
    Settled {
        advanced: Vec<PartitionGeneration>,
        /// How far the group has got with its retries, if it has moved there.
        retries: Option<Offset>,
        outcome: Result<Vec<u32>, GroupError>,
    },
    Moved(Vec<Moved>),
    Surveyed(Result<HashMap<KeyId, Offset>, GroupError>),
    Tidied,
}

impl Errands {
    pub(super) fn new(handle: Handle, carrier: Carrier, now: Instant) -> Self {
        Self { handle, carrier, settling: None, moving: None, tidying: Tidying::new(now) }
    }

    /// Begins what `session` wants done, as far as nothing else is in the way.
    pub(super) fn begin(&mut self, session: &mut Session, now: Instant) {
        if self.settling.is_none() {
            self.settling = self.settle(session, now);
        }
        if self.moving.is_none() && session.begin_survey(now) == Survey::Now {
            let carrier = self.carrier.clone();
            self.moving = Some(async move { Done::Surveyed(carrier.parked_keys().await) }.boxed());
        }
        if self.moving.is_none() {
            self.moving = self.move_away(session, now);
        }
    }

    /// Resolves when one has ended; never without any. Cancel-safe.
    pub(super) async fn next(&mut self) -> Done {
        tokio::select! {
            done = ended(&mut self.settling) => done,
            done = ended(&mut self.moving) => done,
            () = self.tidying.ended() => Done::Tidied,
        }
    }

    /// Tells `session` what has come of one.
    pub(super) fn tell(&mut self, done: Done, session: &mut Session, now: Instant) {
        match done {
            Done::Settled { advanced, retries, outcome } => {
                if let (Some(committed), Ok(_)) = (retries, &outcome) {
                    self.tidying.settled(committed, &self.carrier, now);
                }
                session.settled(&advanced, outcome, now);
            }
            Done::Moved(moved) => session.moved(moved, now),
            Done::Surveyed(parked) => session.surveyed(parked, now),
            Done::Tidied => {}
        }
    }

    fn settle(&self, session: &mut Session, now: Instant) -> Option<BoxFuture<'static, Done>> {
        let settlement = session.next_settlement(now)?;
        let advanced = settlement.advanced.iter().map(|one| one.at).collect();
        let retries = settlement.advanced.iter().find(|one| one.at.partition == REDRIVEN);
        let retries = retries.map(|one| one.progress.committed());
        let handle = self.handle.clone();
        Some(async move { Done::Settled { advanced, retries, outcome: handle.settle(settlement).await } }.boxed())
    }

    fn move_away(&self, session: &mut Session, now: Instant) -> Option<BoxFuture<'static, Done>> {
        let exits = session.next_exits(now);
        if exits.is_empty() {
            return None;
        }
        let (carrier, retry) = (self.carrier.clone(), session.retry());
        Some(async move { Done::Moved(carrier.carry(exits, retry).await) }.boxed())
    }
}

async fn ended(under_way: &mut Option<BoxFuture<'static, Done>>) -> Done {
    let Some(errand) = under_way else { return pending().await };
    let done = errand.await;
    *under_way = None;
    done
}
