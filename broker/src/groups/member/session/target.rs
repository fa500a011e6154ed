//! What the coordinator wants the session to have.

use aqueduct_storage::Offset;

use super::{Assigned, Event, Flow, Held, LookingThrough, Session, Window};
use crate::groups::{
    coordinator::{Grant, PartitionGeneration, Target},
    error::GroupError,
    policy::Policy,
    progress::Progress,
    roster::Standing,
    state::REDRIVEN,
};

impl Session {
    /// Takes over what the coordinator wants; returns the partitions that are new.
    pub(in crate::groups::member) fn target(&mut self, target: &Target) -> Vec<u32> {
        if let Some(error) = &target.end {
            self.end(error.clone());
            return Vec::new();
        }
        self.adopt(&target.policy);
        if target.letters_settled != self.letters_settled {
            self.letters_settled = target.letters_settled;
            self.survey_if_it_matters();
        }
        let mut revoked = self.lose(target);
        let mut new = Vec::new();
        for (&partition, grant) in &target.grants {
            let generation = grant.generation;
            match (self.held.get_mut(&partition), grant.standing) {
                (Some(held), Standing::Leaving) if held.flow != Flow::Leaving => {
                    held.flow = Flow::Leaving;
                    revoked.push(partition);
                    self.less_is_open(partition);
                }
                (Some(_), Standing::Held | Standing::Leaving) => {}
                (None, _) if self.given_up.contains(&generation) => {}
                (None, Standing::Leaving) => {
                    self.given_up.insert(generation);
                    self.settling.to_give_back.push(PartitionGeneration { partition, generation });
                }
                (None, Standing::Held) => {
                    let held = self.begin(partition, grant);
                    self.held.insert(partition, held);
                    new.push(partition);
                }
            }
        }
        self.given_up.retain(|generation| target.grants.values().any(|grant| grant.generation == *generation));
        self.tell_assignment(&new, &revoked);
        for &partition in &new {
            if self.held.get(&partition).is_some_and(|held| held.flow == Flow::Failed) {
                self.push_to_all(&Event::Failure { partition, error: GroupError::NoPosition { partition } });
            }
        }
        new
    }

    /// What happens from now on follows this policy. What has begun, an ack time-out or a pause, ends when it was to end.
    fn adopt(&mut self, policy: &Policy) {
        self.opening.hours = policy.hours;
        if self.policy == *policy {
            return;
        }
        self.policy = policy.clone();
        self.set_scope();
        let partitions: Vec<u32> = self.held.keys().copied().collect();
        for partition in partitions {
            if let Some(held) = self.held.get_mut(&partition) {
                held.window.set_retry(policy.retry);
                self.queue(partition);
            }
        }
    }

    /// Forgets what the coordinator has taken away; returns what has not been revoked before.
    fn lose(&mut self, target: &Target) -> Vec<u32> {
        let is_lost = |partition: &u32, held: &Held| {
            target.grants.get(partition).is_none_or(|grant| grant.generation != held.generation)
        };
        let lost: Vec<u32> = self.held.iter().filter(|(p, held)| is_lost(p, held)).map(|(p, _)| *p).collect();
        let mut revoked = Vec::new();
        for partition in lost {
            if self.forget(partition).is_some_and(|held| held.flow != Flow::Leaving) {
                revoked.push(partition);
            }
            self.forget_exits(partition);
            for awaiting in self.settling.next.extract_if(.., |awaiting| awaiting.partition == partition) {
                let error = Some(awaiting.stale());
                self.seats.answer(awaiting, error);
            }
        }
        revoked
    }

    fn begin(&mut self, partition: u32, grant: &Grant) -> Held {
        let (flow, progress) = match &grant.progress {
            Some(progress) => (Flow::Running, progress.clone()),
            None => (Flow::Failed, Progress::default()),
        };
        let window = Window::new(partition, progress, &self.policy);
        if partition == REDRIVEN && flow == Flow::Running && self.keeps_keys() {
            self.looking_through = LookingThrough::UnderWay;
            self.keys.look_through();
        }
        if partition != REDRIVEN && self.keeps_keys() {
            self.keys.read_up_to(partition, window.cursor());
        }
        Held { generation: grant.generation, window, flow, queued: false }
    }

    fn tell_assignment(&mut self, new: &[u32], revoked: &[u32]) {
        if new.is_empty() && revoked.is_empty() {
            return;
        }
        let held = &self.held;
        for (_, seat) in self.seats.iter_mut() {
            let assigned = new.iter().filter_map(|partition| held.get(partition)?.assigned_to(*partition, seat));
            let assigned: Vec<Assigned> = assigned.collect();
            seat.outbox.push_back(Event::Assignment { assigned, revoked: revoked.to_vec() });
        }
    }

    pub(super) fn forget(&mut self, partition: u32) -> Option<Held> {
        self.turns.retain(|queued| *queued != partition);
        self.settling.moved.remove(&partition);
        self.settling.to_give_up.remove(&partition);
        let held = self.held.remove(&partition);
        self.keys.forget(partition);
        self.copies.forget(partition, 0..Offset::MAX);
        self.seats.ids().into_iter().for_each(|id| self.count_open(id));
        held
    }

    /// Less may be open than before: there may be room to deliver, or nothing left to wait for.
    pub(super) fn less_is_open(&mut self, partition: u32) {
        let Some(held) = self.held.get(&partition) else { return };
        match held.flow {
            Flow::Running => self.queue(partition),
            Flow::Failed => {}
            Flow::Leaving if held.window.is_settled() => drop(self.settling.to_give_up.insert(partition)),
            Flow::Leaving => {}
        }
    }
}
