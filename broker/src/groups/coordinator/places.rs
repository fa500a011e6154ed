//! Members come and go: who gets a place in the roster, and whose place waits.

use tokio::time::Instant;

use super::{Consumption, Coordinator, Member, PositionKey, REDRIVEN, Role};
use crate::groups::{
    assignment::MemberId,
    error::GroupError,
    static_names::{Seating, StaticName, Vacancy},
};

impl Member {
    /// Under which its partitions wait for it.
    fn static_name(&self) -> Option<StaticName> {
        (self.role == Role::Owner && !self.keep.is_zero()).then(|| (self.consumption.clone(), self.name.clone()))
    }

    /// Until when its partitions wait for it, if it goes now.
    fn waits_until(&self, now: Instant) -> Option<Instant> {
        (!self.stats.is_gone_for_good()).then(|| now + self.keep)
    }
}

impl Coordinator {
    /// Gives a member partitions. It has a place in the roster at once, unless another member of its static name has to
    /// end first.
    pub(super) fn give_place(&mut self, id: MemberId, partitions: u32) {
        let Some(member) = self.members.get(&id) else { return };
        let consumption = member.consumption.clone();
        let roster = self.rosters.entry(consumption.clone()).or_default();
        let seating = member.static_name().map_or(Seating::New, |name| self.names.join(&name, id));
        let mut steps = match seating {
            Seating::New => roster.join(id, partitions, || self.generations.next()),
            Seating::TakenOver { from } => roster.succeed(from, id, partitions, || self.generations.next()),
            Seating::Waiting { ends } => {
                if let Some(earlier) = self.members.get(&ends) {
                    earlier.end(GroupError::MemberReplaced { name: member.name.clone() });
                }
                roster.grow(partitions, || self.generations.next())
            }
        };
        let redriven = PositionKey { group: consumption.0, topic: consumption.1, partition: REDRIVEN };
        if self.state.position(&redriven).is_some() {
            steps.extend(roster.add_redriven(|| self.generations.next()));
        }
        self.tell(steps);
    }

    /// A member has ended, and with it whatever it had open.
    pub(super) fn departed(&mut self, id: MemberId) {
        let Some(member) = self.members.remove(&id) else { return };
        if let Some(why) = member.stats.taken_out() {
            self.taken_out(id, &member, why);
        }
        match member.role {
            Role::SeatAt(hub) => {
                // With its last seat a hub ends: nobody can come any more once the way to it is dropped.
                if self.members.values().all(|other| other.role != Role::SeatAt(hub)) {
                    self.forget_hub(&member.consumption, hub);
                }
                return;
            }
            Role::Hub => self.forget_hub(&member.consumption, id),
            Role::Owner => {}
        }
        let now = self.clock.now();
        let vacancy = match member.static_name() {
            Some(name) => self.names.gone(&name, id, member.waits_until(now)),
            None => Vacancy::Free,
        };
        let Some(roster) = self.rosters.get_mut(&member.consumption) else {
            // Its topic is gone: there is nothing to wait with.
            return self.names.forget(|consumption| *consumption == member.consumption);
        };
        let steps = match vacancy {
            Vacancy::None => Vec::new(),
            Vacancy::Successor(next) => roster.succeed(id, next, 0, || self.generations.next()),
            Vacancy::Away => roster.wait_for(id, || self.generations.next()),
            Vacancy::Free => roster.leave(id, || self.generations.next()),
        };
        if roster.is_empty() {
            self.rosters.remove(&member.consumption);
        }
        self.tell(steps);
    }

    fn forget_hub(&mut self, consumption: &Consumption, id: MemberId) {
        if self.hubs.get(consumption).is_some_and(|hub| hub.id == id) {
            self.hubs.remove(consumption);
        }
    }

    /// Those whose time is over are not waited for any longer: others get their partitions.
    pub(super) fn let_go_of_the_absent(&mut self) {
        let now = self.clock.now();
        while let Some(((consumption, name), id)) = self.names.take_due(now) {
            tracing::info!(group = consumption.0, member = name, "did not come back in time: its partitions move");
            let Some(roster) = self.rosters.get_mut(&consumption) else { continue };
            let steps = roster.leave(id, || self.generations.next());
            if roster.is_empty() {
                self.rosters.remove(&consumption);
            }
            self.tell(steps);
        }
    }
}
