//! What can be seen of groups from outside.

use std::time::Duration;

use aqueduct_storage::Offset;

use tokio::sync::mpsc;

use super::{Coordinator, Role, WaitsReply};
use crate::groups::{
    assignment::MemberId,
    error::GroupError,
    policy::StartAt,
    progress::Progress,
    roster::{Roster, Standing},
    state::{Group, PositionKey, REDRIVEN, TopicId},
};

/// A group and how many consume in its name.
#[derive(Debug, Clone)]
pub(crate) struct GroupView {
    pub(crate) name: String,
    pub(crate) group: Group,
    /// Topics in which it has a position or a member.
    pub(crate) topics: Vec<TopicId>,
    pub(crate) members: usize,
}

/// A member, as of now.
#[derive(Debug, Clone)]
pub(crate) struct MemberView {
    pub(crate) id: MemberId,
    pub(crate) name: String,
    pub(crate) topic: TopicId,
    pub(crate) partitions: Vec<u32>,
    pub(crate) leaving_partitions: Vec<u32>,
    pub(crate) open_records: u64,
    pub(crate) joined_us: i64,
    pub(crate) timeouts: u64,
    pub(crate) parked: u64,
    pub(crate) last_settled_us: Option<i64>,
    pub(crate) stalled_since_us: Option<i64>,
    pub(crate) keep: Duration,
    /// Set while it is away: until when its partitions wait.
    pub(crate) away_until_us: Option<i64>,
}

impl MemberView {
    /// Its name, or `#` and its id.
    pub(crate) fn label(&self) -> String {
        label(self.id, &self.name)
    }
}

fn label(id: MemberId, name: &str) -> String {
    if name.is_empty() { format!("#{id}") } else { name.to_owned() }
}

/// How far a group has got in one topic, and where it begins what it has not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) start: StartAt,
    /// By partition, those of the topic itself only.
    pub(crate) committed: Vec<(u32, Offset)>,
}

/// Where a group stands, and who is at it.
#[derive(Debug, Clone)]
pub(crate) struct PositionView {
    pub(crate) group: String,
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) committed: Offset,
    /// The name of its owner, or `#` and its id; `None` if nobody has it.
    pub(crate) member: Option<String>,
}

/// Where a group stands in one topic.
#[derive(Debug, Clone)]
pub(crate) struct Standings {
    pub(crate) group: String,
    pub(crate) topic: TopicId,
    /// By partition.
    pub(crate) committed: Vec<(u32, Offset)>,
}

impl Coordinator {
    pub(crate) fn list(&self) -> Vec<GroupView> {
        self.state.groups().map(|(name, group)| self.view(name, group)).collect()
    }

    pub(crate) fn describe(&self, name: &str) -> Result<GroupView, GroupError> {
        self.known(name).map(|group| self.view(name, group))
    }

    pub(crate) fn members_of(&self, group: &str) -> Vec<MemberView> {
        let mut views: Vec<MemberView> = self
            .consumers(group)
            .map(|(id, member)| {
                let owner = match member.role {
                    Role::Owner | Role::Hub => *id,
                    Role::SeatAt(hub) => hub,
                };
                let roster = self.rosters.get(&member.consumption);
                let owned: Vec<_> = roster.into_iter().flat_map(|roster| roster.owned_by(owner)).collect();
                let with = |standing: Standing| {
                    owned.iter().filter(|(_, is)| *is == standing).map(|(partition, _)| *partition).collect()
                };
                MemberView {
                    id: *id,
                    name: member.name.clone(),
                    topic: member.consumption.1,
                    partitions: with(Standing::Held),
                    leaving_partitions: with(Standing::Leaving),
                    open_records: member.stats.open_records(),
                    joined_us: member.joined_us,
                    timeouts: member.stats.timeouts(),
                    parked: member.stats.parked(),
                    last_settled_us: member.stats.last_settled_us(),
                    stalled_since_us: member.stats.stalled_since_us(),
                    keep: member.keep,
                    away_until_us: None,
                }
            })
            .chain(self.away_of(group))
            .collect();
        views.sort_by_key(|view| view.id);
        views
    }

    /// Whoever has partitions in the name of `group`, by topic, and how to ask for what they wait.
    pub(crate) fn owners_of(&self, group: &str) -> Vec<(TopicId, mpsc::Sender<WaitsReply>)> {
        let of_group = self.members.values().filter(|member| member.consumption.0 == group);
        of_group.filter_map(|member| Some((member.consumption.1, member.ask.clone()?))).collect()
    }

    /// Those that are away, with what waits for them.
    fn away_of(&self, group: &str) -> impl Iterator<Item = MemberView> {
        let (now, now_us) = (self.clock.now(), self.clock.now_us());
        self.names.away().filter(move |absent| absent.name.0.0 == group).map(move |absent| {
            let (consumption, name) = absent.name;
            let left = absent.until.saturating_duration_since(now);
            let left_us = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
            MemberView {
                id: absent.member,
                name: name.clone(),
                topic: consumption.1,
                partitions: self
                    .rosters
                    .get(consumption)
                    .map(|roster| roster.wanted_by(absent.member).collect())
                    .unwrap_or_default(),
                leaving_partitions: Vec::new(),
                open_records: 0,
                joined_us: 0,
                timeouts: 0,
                parked: 0,
                last_settled_us: None,
                stalled_since_us: None,
                keep: Duration::ZERO,
                away_until_us: Some(now_us.saturating_add(left_us)),
            }
        })
    }

    /// Positions of one group, or of all, in one topic, or in all.
    pub(crate) fn positions(&self, group: Option<&str>, topic: Option<TopicId>) -> Vec<PositionView> {
        let mut views = Vec::new();
        for (name, known) in self.state.groups().filter(|(name, _)| group.is_none_or(|group| group == *name)) {
            for id in known.topics().into_iter().filter(|id| topic.is_none_or(|topic| topic == *id)) {
                let roster = self.rosters.get(&(name.to_owned(), id));
                views.extend(known.positions_in(id).map(|(partition, progress)| PositionView {
                    group: name.to_owned(),
                    topic: id,
                    partition,
                    committed: progress.committed(),
                    member: roster.and_then(|roster| self.owner_name(roster, partition)),
                }));
            }
        }
        views
    }

    /// All positions, and no more of them than where they are: this is asked every second.
    pub(crate) fn standings(&self) -> Vec<Standings> {
        let mut standings = Vec::new();
        for (name, group) in self.state.groups() {
            for topic in group.topics() {
                let positions = group.positions_in(topic);
                let committed = positions.map(|(partition, progress)| (partition, progress.committed())).collect();
                standings.push(Standings { group: name.to_owned(), topic, committed });
            }
        }
        standings
    }

    /// How far a group has got in one place.
    pub(crate) fn progress(&self, key: &PositionKey) -> Option<Progress> {
        self.state.position(key).cloned()
    }

    /// Committed offsets of one group in one topic, by partition.
    pub(crate) fn committed(&self, group: &str, topic: TopicId) -> Result<Vec<(u32, Offset)>, GroupError> {
        let positions = self.known(group)?.positions_in(topic);
        Ok(positions.map(|(partition, progress): (u32, &Progress)| (partition, progress.committed())).collect())
    }

    /// See [`Reading`]; `None`: there is no such group.
    pub(crate) fn reading(&self, group: &str, topic: TopicId) -> Option<Reading> {
        let group = self.state.group(group)?;
        let positions = group.positions_in(topic).filter(|(partition, _)| *partition != REDRIVEN);
        let committed = positions.map(|(partition, progress)| (partition, progress.committed())).collect();
        Some(Reading { start: group.policy.start, committed })
    }

    /// Refuses what is not done while members of the group consume the topic.
    pub(crate) fn check_idle(&self, group: &str, topic: TopicId) -> Result<(), GroupError> {
        let members = self.consumers(group).filter(|(_, member)| member.consumption.1 == topic).count();
        if members == 0 { Ok(()) } else { Err(GroupError::MembersActive { group: group.to_owned(), members }) }
    }

    /// Groups with members that consume a topic.
    pub(crate) fn active_groups(&self, topic: TopicId) -> Vec<String> {
        let of_topic = self.rosters.iter().filter(|((_, id), roster)| *id == topic && !roster.members().is_empty());
        of_topic.map(|((group, _), _)| group.clone()).collect()
    }

    /// Groups with a position in a topic.
    pub(crate) fn groups_of_topic(&self, topic: TopicId) -> Vec<String> {
        let with_position = self.state.groups().filter(|(_, group)| group.positions_in(topic).next().is_some());
        with_position.map(|(name, _)| name.to_owned()).collect()
    }

    fn view(&self, name: &str, group: &Group) -> GroupView {
        let members = self.consumers(name).count();
        GroupView { name: name.to_owned(), group: group.clone(), topics: group.topics(), members }
    }

    fn owner_name(&self, roster: &Roster, partition: u32) -> Option<String> {
        let owner = roster.owner(partition)?;
        let member = self.members.get(&owner.member).filter(|member| member.is_consumer())?;
        Some(label(owner.member, &member.name))
    }
}
