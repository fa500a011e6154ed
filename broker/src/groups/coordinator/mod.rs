//! The one owner of everything about groups: their state, its journal, and who has which partition.
//!
//! It runs as one task with a bounded mailbox. Commits are staged and answered when the journal has them; whatever is
//! rare (making a group, joining, resetting) is written before the next message is looked at. Delivery is not its
//! business: members read and deliver on their own, and tell it what was settled.

mod command;
mod expulsions;
mod membership;
mod places;
mod queries;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use self::expulsions::Expulsions;
pub(crate) use self::{
    command::{
        Admission, Command, Direction, Grant, Join, Letters, MemberStats, Membership, Moved, NewHub, NewPosition,
        Owner, PartitionGeneration, PartitionProgress, Place, PositionChange, Reply, Retries, SeatGeneration,
        Settlement, Target, WaitsReply,
    },
    expulsions::TakenOut,
    queries::{GroupView, MemberView, PositionView, Standings},
};
use super::{
    assignment::MemberId,
    error::GroupError,
    journal::Journal,
    member::Newcomer,
    policy::{PolicyOpinion, StartAt},
    progress::Progress,
    roster::{Roster, Standing, Step},
    state::{Change, Group, PositionKey, REDRIVEN, State, TopicId, progress_of},
    static_names::StaticNames,
};
use crate::clock::Clock;

/// Messages that wait for the coordinator.
pub(crate) const MAILBOX_COMMANDS: usize = 1024;
/// Members of all groups together.
const MEMBERS_MAX: usize = 10_000;
/// Groups that are kept.
const GROUPS_MAX: usize = 10_000;
/// How long members have to end if the broker is dropped without a shutdown.
const DROPPED_GRACE: Duration = Duration::from_secs(1);

/// A group on a topic.
pub(crate) type Consumption = (String, TopicId);

/// See the [module](self).
pub(crate) struct Coordinator {
    state: State,
    journal: Journal,
    clock: Clock,
    rosters: BTreeMap<Consumption, Roster>,
    names: StaticNames,
    members: HashMap<MemberId, Member>,
    /// Of groups whose members share partitions.
    hubs: BTreeMap<Consumption, Hub>,
    /// Resolve to the members that have dropped their side.
    departures: FuturesUnordered<BoxFuture<'static, MemberId>>,
    expulsions: Expulsions,
    last_member: MemberId,
    generations: Generations,
    /// Notified when a group's positions may have changed.
    moved: watch::Sender<()>,
    /// Set while stopping.
    drain_until: Option<Instant>,
}

/// Numbers that only rise, also across restarts: the journal's epoch counts in the upper half.
struct Generations {
    last: u64,
}

impl Generations {
    fn raise_to(&mut self, epoch: u32) {
        self.last = self.last.max(u64::from(epoch) << 32);
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// One stream, as the coordinator sees it.
struct Member {
    consumption: Consumption,
    topic_name: String,
    name: String,
    /// How long its partitions wait for a member of the same name; zero: they do not.
    keep: Duration,
    joined_us: i64,
    target: Arc<watch::Sender<Target>>,
    stats: Arc<MemberStats>,
    role: Role,
    /// Asks it what its partitions wait for; absent for one that has none of its own.
    ask: Option<mpsc::Sender<WaitsReply>>,
}

/// What a member is to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It has partitions of its own.
    Owner,
    /// It shares those of this hub.
    SeatAt(MemberId),
    /// It has partitions on behalf of others, and is nobody itself.
    Hub,
}

/// Where the members of a group meet that share partitions. It ends by itself once this is dropped and the last has gone.
struct Hub {
    id: MemberId,
    mailbox: mpsc::Sender<Newcomer>,
}

impl Coordinator {
    /// With what the journal held.
    pub(crate) fn new(journal: Journal, state: State, clock: Clock, moved: watch::Sender<()>) -> Self {
        let mut generations = Generations { last: 0 };
        journal.epoch().into_iter().for_each(|epoch| generations.raise_to(epoch));
        Self {
            state,
            journal,
            clock,
            rosters: BTreeMap::new(),
            names: StaticNames::default(),
            members: HashMap::new(),
            hubs: BTreeMap::new(),
            departures: FuturesUnordered::new(),
            expulsions: Expulsions::default(),
            last_member: 0,
            generations,
            moved,
            drain_until: None,
        }
    }

    /// Runs until it is shut down, or `dropped` tells that nobody is left who could do so.
    pub(crate) async fn run(mut self, mut mailbox: mpsc::Receiver<Command>, mut dropped: oneshot::Receiver<()>) {
        let never = Instant::now();
        while self.drain_until.is_none() || !self.members.is_empty() {
            let due = self.names.next_due();
            tokio::select! {
                () = self.journal.appended() => {}
                command = mailbox.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => self.drain(Instant::now()),
                },
                Some(member) = self.departures.next(), if !self.departures.is_empty() => self.departed(member),
                () = self.clock.sleep_until(due.unwrap_or(never)), if due.is_some() => self.let_go_of_the_absent(),
                _ = &mut dropped, if self.drain_until.is_none() => self.drain(Instant::now() + DROPPED_GRACE),
                () = sleep_until(self.drain_until.unwrap_or(never)), if self.drain_until.is_some() => break,
            }
            if let Some(state) = self.journal.recover_if_lost().await {
                self.recovered(state);
            }
            // Before the next append begins: under load there is always one under way.
            self.journal.snapshot_if_due(&self.state).await;
            self.journal.flush(&self.state);
        }
        self.journal.close(&self.state).await;
    }

    async fn handle(&mut self, command: Command) {
        // A caller that has gone needs no answer.
        match command {
            Command::Ask(question) => question(self),
            Command::Create { group, opinion, reply } => drop(reply.send(self.create(group, opinion).await)),
            Command::Alter { group, opinion, reply } => drop(reply.send(self.alter(group, opinion).await)),
            Command::Delete { group, reply } => drop(reply.send(self.delete(group).await)),
            Command::Admit { group, opinion, topic, partitions, reply } => {
                drop(reply.send(self.admit(group, opinion, topic, partitions).await));
            }
            Command::Join { join, reply } => drop(reply.send(self.join(join).await)),
            Command::Settle { settlement, reply } => self.settle(settlement, reply),
            Command::SetPositions { change, reply } => drop(reply.send(self.set_positions(change).await)),
            Command::SettleLetters { letters, reply } => drop(reply.send(self.settle_letters(letters).await)),
            Command::BeginRetries { retries, reply } => drop(reply.send(self.begin_retries(retries).await)),
            Command::TopicGrown { topic, reply } => {
                let meta = topic.meta();
                drop(reply.send(self.topic_grown(meta.id, meta.partitions).await));
            }
            Command::TopicDeleted { topic, reply } => drop(reply.send(self.topic_deleted(topic).await)),
            Command::Shutdown { deadline } => self.drain(deadline),
        }
    }

    async fn create(&mut self, group: String, opinion: PolicyOpinion) -> Result<Group, GroupError> {
        let policy = opinion.into_policy()?;
        if self.state.group(&group).is_some() {
            return Err(GroupError::Exists(group));
        }
        if self.state.len() >= GROUPS_MAX {
            return Err(GroupError::TooMany { what: "groups", limit: GROUPS_MAX });
        }
        self.set_group(Change::GroupSet { group: group.clone(), policy, created_us: self.clock.now_us() }, group).await
    }

    async fn alter(&mut self, group: String, opinion: PolicyOpinion) -> Result<Group, GroupError> {
        let Group { policy, created_us, .. } = self.known(&group)?;
        let altered = PolicyOpinion { mode: None, ..opinion }.over(policy)?;
        let change = Change::GroupSet { group: group.clone(), created_us: *created_us, policy: altered };
        let altered = self.set_group(change, group.clone()).await?;
        for member in self.members.values().filter(|member| member.consumption.0 == group) {
            member.target.send_modify(|target| target.policy = altered.policy.clone());
        }
        Ok(altered)
    }

    async fn set_group(&mut self, change: Change, group: String) -> Result<Group, GroupError> {
        self.write(vec![change]).await?;
        self.known(&group).cloned()
    }

    async fn delete(&mut self, group: String) -> Result<(), GroupError> {
        self.known(&group)?;
        let members = self.consumers(&group).count();
        if members > 0 {
            return Err(GroupError::MembersActive { group, members });
        }
        self.names.forget(|(name, _)| *name == group);
        self.expulsions.forget(&group);
        self.rosters.retain(|(name, _), _| *name != group);
        self.write(vec![Change::GroupDeleted { group }]).await
    }

    async fn admit(
        &mut self,
        group: String,
        opinion: PolicyOpinion,
        topic: TopicId,
        partitions: u32,
    ) -> Result<Admission, GroupError> {
        if self.drain_until.is_some() {
            return Err(GroupError::ShuttingDown);
        }
        let known = match self.state.group(&group) {
            Some(known) => known.clone(),
            None => self.create(group.clone(), opinion).await?,
        };
        opinion.check(&group, &known.policy)?;
        let missing: Vec<u32> = (0..partitions).filter(|p| known.position(topic, *p).is_none()).collect();
        // A partition that is added to a topic which the group already reads holds nothing but news.
        let start = if missing.len() < partitions as usize { StartAt::Earliest } else { known.policy.start };
        Ok(Admission { policy: known.policy, start, missing })
    }

    /// Makes the positions durable at which a group begins, where it has none.
    async fn begin_at(&mut self, (group, topic): &Consumption, starts: Vec<NewPosition>) -> Result<(), GroupError> {
        let key = |partition| PositionKey { group: group.clone(), topic: *topic, partition };
        let starts = starts.into_iter().map(|start| (key(start.partition), start.offset));
        let changes: Vec<Change> = starts
            .filter(|(key, _)| self.state.position(key).is_none())
            .map(|(key, offset)| Change::Advanced { key, progress: Progress::at(offset) })
            .collect();
        if changes.is_empty() { Ok(()) } else { self.write(changes).await }
    }

    /// Stages what a member has settled. It is answered with the partitions that are not its own any more.
    fn settle(&mut self, settlement: Settlement, reply: Reply<Vec<u32>>) {
        let Settlement { member: id, advanced, given_up } = settlement;
        let Some(member) = self.members.get(&id) else {
            let stale = advanced.iter().map(|one| one.at.partition).collect();
            return drop(reply.send(Ok(stale)));
        };
        let (group, topic) = &member.consumption;
        let mut stale = Vec::new();
        for PartitionProgress { at: PartitionGeneration { partition, generation }, progress } in advanced {
            if !self.rosters.get(&member.consumption).is_some_and(|roster| roster.is_owner(id, partition, generation)) {
                stale.push(partition);
                continue;
            }
            let key = PositionKey { group: group.clone(), topic: *topic, partition };
            self.state.advance(&key, progress);
            self.journal.moved(key);
        }
        self.moved.send_replace(());
        if let Some(roster) = self.rosters.get_mut(&member.consumption) {
            let mut steps = Vec::new();
            for PartitionGeneration { partition, generation } in given_up {
                if roster.is_owner(id, partition, generation) {
                    member.target.send_modify(|target| drop(target.grants.remove(&partition)));
                }
                steps.extend(roster.give_up(id, partition, generation, || self.generations.next()));
            }
            self.tell(steps);
        }
        self.journal.when_durable(Box::new(move |outcome| {
            drop(reply.send(outcome.map(|()| stale).map_err(GroupError::from)));
        }));
    }

    /// Tells `waiter` when everything that was settled so far is durable: at once if nothing waits.
    pub(crate) fn when_durable(&mut self, waiter: impl FnOnce(Result<(), GroupError>) + Send + 'static) {
        if self.journal.is_settled() {
            return waiter(Ok(()));
        }
        self.journal.when_durable(Box::new(move |outcome| waiter(outcome.map_err(GroupError::from))));
    }

    async fn set_positions(&mut self, change: PositionChange) -> Result<Vec<Moved>, GroupError> {
        let group = self.known(&change.group)?;
        self.check_idle(&change.group, change.topic)?;
        let mut moved = Vec::new();
        for NewPosition { partition, offset } in &change.positions {
            let from = group.position(change.topic, *partition).map(Progress::committed);
            if let (Direction::Commit, Some(committed)) = (change.direction, from)
                && committed > *offset
            {
                return Err(GroupError::CommitBackwards { partition: *partition, offset: *offset, committed });
            }
            moved.push(Moved { partition: *partition, from, to: *offset });
        }
        let changes = moved.iter().map(|moved| match change.direction {
            Direction::Commit => {
                Change::Advanced { key: change.key(moved.partition), progress: Progress::at(moved.to) }
            }
            Direction::Reset => Change::Reset { key: change.key(moved.partition), committed: moved.to },
        });
        self.write(changes.collect()).await?;
        Ok(moved)
    }

    /// The group has no more to do with these letters; those that were redriven get an owner among its members.
    async fn settle_letters(&mut self, letters: Letters) -> Result<(), GroupError> {
        let Letters { group, topic, lie_in, range, redriven_at } = letters;
        self.known(&group)?;
        let key = PositionKey { group: group.clone(), topic: lie_in, partition: 0 };
        let settled = Change::Advanced { key, progress: progress_of(0, [range]) };
        // The log may hold what a topic of the same name has left behind: the group begins with the first of its own.
        if let Some(begin) = redriven_at {
            self.begin_retries(Retries { group: group.clone(), topic, begin }).await?;
        }
        self.write(vec![settled]).await?;
        let consumption = (group, topic);
        for member in self.members.values().filter(|member| member.consumption == consumption) {
            member.target.send_modify(|target| target.letters_settled += 1);
        }
        Ok(())
    }

    /// Records that are tried again get an owner among the group's members.
    async fn begin_retries(&mut self, Retries { group, topic, begin }: Retries) -> Result<(), GroupError> {
        self.known(&group)?;
        let key = PositionKey { group: group.clone(), topic, partition: REDRIVEN };
        if self.state.position(&key).is_some() {
            return Ok(());
        }
        self.write(vec![Change::Advanced { key, progress: Progress::at(begin) }]).await?;
        if let Some(roster) = self.rosters.get_mut(&(group, topic)) {
            let steps = roster.add_redriven(|| self.generations.next());
            self.tell(steps);
        }
        Ok(())
    }

    async fn topic_grown(&mut self, topic: TopicId, partitions: u32) -> Result<(), GroupError> {
        let consumptions: Vec<Consumption> = self.rosters.keys().filter(|(_, id)| *id == topic).cloned().collect();
        for consumption in consumptions {
            // New partitions are read from their very first record.
            let known = self.rosters.get(&consumption).map_or(0, Roster::partitions);
            let starts = (known..partitions).map(|partition| NewPosition { partition, offset: 0 }).collect();
            self.begin_at(&consumption, starts).await?;
            if let Some(roster) = self.rosters.get_mut(&consumption) {
                let steps = roster.grow(partitions, || self.generations.next());
                self.tell(steps);
            }
        }
        Ok(())
    }

    async fn topic_deleted(&mut self, topic: TopicId) -> Result<(), GroupError> {
        self.rosters.retain(|(_, id), _| *id != topic);
        self.names.forget(|(_, id)| *id == topic);
        for member in self.members.values().filter(|member| member.consumption.1 == topic) {
            member.end(GroupError::TopicDeleted(member.topic_name.clone()));
        }
        if self.state.groups().all(|(_, group)| group.positions_in(topic).next().is_none()) {
            return Ok(());
        }
        self.write(vec![Change::TopicDeleted { topic }]).await
    }

    fn drain(&mut self, deadline: Instant) {
        self.drain_until = Some(deadline);
        self.members.values().for_each(|member| member.end(GroupError::ShuttingDown));
    }

    /// Lets members know what the roster has decided.
    fn tell(&self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Grant { member, partition, generation } => {
                    let Some(member) = self.members.get(&member) else { continue };
                    let (group, topic) = &member.consumption;
                    let key = PositionKey { group: group.clone(), topic: *topic, partition };
                    let progress = self.state.position(&key).cloned();
                    member.target.send_modify(|target| {
                        target.grants.insert(partition, Grant { generation, progress, standing: Standing::Held });
                    });
                }
                Step::Revoke { member, partition } => {
                    let Some(member) = self.members.get(&member) else { continue };
                    member.target.send_modify(|target| {
                        if let Some(grant) = target.grants.get_mut(&partition) {
                            grant.standing = Standing::Leaving;
                        }
                    });
                }
            }
        }
    }

    /// The log was taken over again: what it holds is the truth, and members commit again what it lacks.
    fn recovered(&mut self, state: State) {
        self.state = state;
        self.moved.send_replace(());
        self.journal.epoch().into_iter().for_each(|epoch| self.generations.raise_to(epoch));
    }

    /// Makes changes durable, then takes them over.
    async fn write(&mut self, changes: Vec<Change>) -> Result<(), GroupError> {
        self.journal.write(&changes).await?;
        changes.into_iter().for_each(|change| self.state.apply(change));
        self.moved.send_replace(());
        Ok(())
    }

    fn known(&self, group: &str) -> Result<&Group, GroupError> {
        self.state.group(group).ok_or_else(|| GroupError::Unknown(group.to_owned()))
    }
}

impl Member {
    /// Whether it consumes, and is not there for others.
    fn is_consumer(&self) -> bool {
        match self.role {
            Role::Owner | Role::SeatAt(_) => true,
            Role::Hub => false,
        }
    }

    fn end(&self, error: GroupError) {
        self.target.send_modify(|target| {
            target.end.get_or_insert(error);
        });
    }
}
