//! Who comes and who goes.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};

use super::{
    Consumption, Coordinator, Hub, Join, MEMBERS_MAX, Member, MemberStats, Membership, NewHub, Owner, Place, Role,
    SeatGeneration, Target, WaitsReply,
};
use crate::groups::{
    assignment::MemberId,
    error::GroupError,
    member::NEWCOMERS,
    policy::{Mode, Policy},
};

/// Questions that wait for an owner.
const WAITS_ASKED: usize = 4;

/// Somebody who is known from now on, and what is shared with it.
struct Registered {
    id: MemberId,
    target: watch::Receiver<Target>,
    stats: Arc<MemberStats>,
}

/// What a member says about itself.
struct Name {
    topic_name: String,
    member_name: String,
    /// How long its partitions wait for a member of the same name when it has gone; zero: they do not.
    keep: Duration,
}

impl Coordinator {
    pub(super) async fn join(&mut self, join: Join) -> Result<Place, GroupError> {
        let Join { group, topic, member_name, keep, starts, partitions } = join;
        let topic_name = topic.meta().name.clone();
        if self.drain_until.is_some() {
            return Err(GroupError::ShuttingDown);
        }
        if topic.is_deleted() {
            return Err(GroupError::TopicDeleted(topic_name));
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(GroupError::TooMany { what: "members", limit: MEMBERS_MAX });
        }
        let policy = self.known(&group)?.policy.clone();
        let consumption = (group, topic.meta().id);
        self.begin_at(&consumption, starts).await?;

        let name = Name { topic_name, member_name, keep };
        Ok(match policy.mode {
            Mode::Ordered => {
                let (ask, asked) = mpsc::channel(WAITS_ASKED);
                let Registered { id, target, stats } = self.register(consumption.clone(), name, Role::Owner, Some(ask));
                self.give_place(id, partitions);
                let generation = SeatGeneration::OfPartition;
                let membership = Membership { id, policy, generation, target: None, stats };
                Place::Owner(Owner { id, target, asked }, membership)
            }
            Mode::Shared | Mode::Keyed => self.seat(consumption, name, policy, partitions),
        })
    }

    /// A place at the group's hub, which is made if there is none.
    fn seat(&mut self, consumption: Consumption, name: Name, policy: Policy, partitions: u32) -> Place {
        let open = self.hubs.get(&consumption).filter(|hub| !hub.mailbox.is_closed());
        let open = open.map(|hub| (hub.id, hub.mailbox.clone()));
        let (hub, new) = match open {
            Some((id, mailbox)) => (id, Err(mailbox)),
            None => {
                let topic_name = name.topic_name.clone();
                let nobody = Name { topic_name, member_name: String::new(), keep: Duration::ZERO };
                let (ask, asked) = mpsc::channel(WAITS_ASKED);
                let Registered { id, target, .. } = self.register(consumption.clone(), nobody, Role::Hub, Some(ask));
                self.give_place(id, partitions);
                let (mailbox, newcomers) = mpsc::channel(NEWCOMERS);
                self.hubs.insert(consumption.clone(), Hub { id, mailbox: mailbox.clone() });
                let owner = Owner { id, target, asked };
                (id, Ok(NewHub { owner, mailbox, newcomers }))
            }
        };
        let Registered { id, target, stats } = self.register(consumption, name, Role::SeatAt(hub), None);
        let generation = SeatGeneration::Own(self.generations.next());
        let membership = Membership { id, policy, generation, target: Some(target), stats };
        match new {
            Ok(new) => Place::FirstSeat(new, membership),
            Err(mailbox) => Place::Seat(mailbox, membership),
        }
    }

    /// `ask` leads to whoever has partitions.
    fn register(
        &mut self,
        consumption: Consumption,
        name: Name,
        role: Role,
        ask: Option<mpsc::Sender<WaitsReply>>,
    ) -> Registered {
        self.last_member += 1;
        let id = self.last_member;
        let policy = self.state.group(&consumption.0).map(|group| group.policy.clone()).unwrap_or_default();
        let target = Arc::new(watch::Sender::new(Target { policy, ..Target::default() }));
        let stats = Arc::new(MemberStats::default());
        let subscribed = target.subscribe();
        let gone = Arc::clone(&target);
        self.departures.push(async move { gone.closed().map(|()| id).await }.boxed());
        let joined_us = self.clock.now_us();
        let Name { topic_name, member_name, keep } = name;
        let stats_of_member = Arc::clone(&stats);
        let member = Member {
            consumption,
            topic_name,
            name: member_name,
            keep,
            joined_us,
            target,
            stats: stats_of_member,
            role,
            ask,
        };
        self.members.insert(id, member);
        Registered { id, target: subscribed, stats }
    }

    /// Those who consume in the name of `group`.
    pub(super) fn consumers(&self, group: &str) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter().filter(move |(_, member)| member.is_consumer() && member.consumption.0 == group)
    }
}
