//! Consumer groups: who reads what, how far they have got, and who lags.
//!
//! One task, the [coordinator], owns the state of all groups and its [journal]. Every `Consume` stream is served by a task
//! of its own, the [member], or where members share partitions by one task for all of them; it reads and delivers the
//! partitions that the coordinator gives it and reports what was settled. Everything in between that decides is pure:
//! [state], [progress], [roster] and [assignment], [window], [policy]. A third task looks at all positions from time to
//! time, for rates and forecasts: [trend].
//!
//! Invariants: nobody is told "committed" before it is durable; committed offsets move back only by a reset; a
//! partition has one owner at a time, and what an earlier owner says does not count.

mod assignment;
mod behind;
mod clients;
mod coordinator;
mod dead_letters;
mod error;
mod hours;
mod journal;
mod lag;
mod leaving;
mod member;
mod parked_keys;
mod policy;
mod positions;
mod progress;
pub(crate) mod ranges;
mod redrive;
mod retries;
mod retry;
mod roster;
mod sources;
mod state;
mod static_names;
mod trend;
mod waits;
mod window;

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

#[cfg(feature = "budgets")]
pub(crate) use self::roster::Roster;
pub(crate) use self::{
    clients::Clients,
    coordinator::{GroupView, MemberView, Moved, NewPosition, TakenOut},
    error::{GroupError, JournalError},
    hours::{DailyWindow, DeliveryHours, WINDOWS_MAX},
    journal::is_intact_marker,
    lag::{Forecast, PartitionLag},
    member::{
        Assigned, Credit, Delivery, Event, HEARTBEAT_DEFAULT, JoinRequest, Leave, Loss, OUTBOUND_EVENTS, Outbound,
        Request, Settle,
    },
    policy::{Mode, Policy, PolicyOpinion, StartAt},
    positions::{ResetRequest, ResetTo},
    redrive::{Fate, LettersView},
    retries::RetriesView,
    retry::{OnExhausted, RetryOpinion, RetryPolicy},
    state::{FailedRecords, Group},
    static_names::KEEP_MAX,
    trend::{LossCause, Risk},
    waits::{WaitCause, WaitView},
    window::Pause,
};
use self::{
    coordinator::{Command, Coordinator, Join, MAILBOX_COMMANDS, NewHub, Place, Reply, Settlement},
    journal::{Journal, SNAPSHOT_AFTER_BYTES},
    leaving::Carrier,
    member::{Means, Newcomer, Unpacker, copies_pool},
    sources::Sources,
    state::TopicId,
    trend::Trends,
};
use crate::{
    connection::ClientId,
    delays::Delays,
    engine::{EngineError, MetaStore},
    error::TopicError,
    fair_pool::Pool,
    names,
    outgoing::Outgoing,
    topics::{Topic, Topics},
    turns::FairSemaphore,
};

/// All consumer groups of a broker. Dropping it ends them, as a shutdown without waiting.
pub(crate) struct Groups {
    topics: Arc<Topics>,
    delays: Arc<Delays>,
    /// Of the broker: keys of compressed batches are looked for under it.
    unpacking: Arc<FairSemaphore>,
    /// For copies of records that leave.
    copies: Arc<Pool>,
    handle: Handle,
    /// How lag moves; see [trend].
    trends: Trends,
    /// Notified when a group's positions may have changed.
    moved: watch::Receiver<()>,
    clients: Arc<Clients>,
    task: Mutex<Option<Running>>,
    /// Of the broker: what members share does not end with the runtime of one of them.
    runtime: tokio::runtime::Handle,
}

/// One group, as of now.
#[derive(Debug, Clone)]
pub(crate) struct GroupDescription {
    pub(crate) view: GroupView,
    pub(crate) members: Vec<MemberView>,
    /// Members whose streams were ended because of what they did, the last few.
    pub(crate) taken_out: Vec<TakenOut>,
}

/// The coordinator's task. Dropping it tells the task that nobody is left.
struct Running {
    task: JoinHandle<()>,
    _dropped: oneshot::Sender<()>,
}

/// The way to the coordinator, or why there is none.
#[derive(Clone)]
struct Handle(Result<mpsc::Sender<Command>, JournalError>);

impl Handle {
    async fn send(&self, command: Command) -> Result<(), GroupError> {
        let mailbox = self.0.as_ref().map_err(Clone::clone)?;
        mailbox.send(command).await.map_err(|_| GroupError::ShuttingDown)
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, GroupError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| GroupError::ShuttingDown)?
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Coordinator) -> Result<T, GroupError> + Send + 'static,
    ) -> Result<T, GroupError> {
        self.call(|reply| Command::Ask(Box::new(move |coordinator| drop(reply.send(question(coordinator)))))).await
    }

    /// As [`ask`](Self::ask), answered once what the answer may rest on is durable: what was told is never taken back.
    async fn ask_durably<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Coordinator) -> Result<T, GroupError> + Send + 'static,
    ) -> Result<T, GroupError> {
        self.call(|reply| {
            Command::Ask(Box::new(move |coordinator| {
                let answer = question(coordinator);
                coordinator.when_durable(move |durable| drop(reply.send(durable.and(answer))));
            }))
        })
        .await
    }

    async fn settle(&self, settlement: Settlement) -> Result<Vec<u32>, GroupError> {
        self.call(|reply| Command::Settle { settlement, reply }).await
    }
}

impl Groups {
    /// Reads the state of all groups. If it is damaged, the broker runs without groups, and every operation on them
    /// says why: events stay readable, and no group starts over unasked.
    ///
    /// # Errors
    /// If the engine cannot open the journal or read it.
    pub(crate) async fn open(
        meta: Arc<dyn MetaStore>,
        topics: Arc<Topics>,
        delays: Arc<Delays>,
        unpacking: Arc<FairSemaphore>,
    ) -> Result<Arc<Self>, EngineError> {
        let runtime = tokio::runtime::Handle::current();
        let (moves, moved) = watch::channel(());
        let (clients, trends, copies) = (Arc::default(), Trends::default(), copies_pool());
        let (journal, state) = match Journal::open(meta, SNAPSHOT_AFTER_BYTES).await {
            Ok(opened) => opened,
            Err(damaged @ JournalError::Damaged(_)) => {
                tracing::error!(error = %damaged, "consumer groups are out of service");
                let (handle, task) = (Handle(Err(damaged)), Mutex::new(None));
                return Ok(Arc::new(Self {
                    topics,
                    delays,
                    unpacking,
                    copies,
                    handle,
                    trends,
                    moved,
                    clients,
                    task,
                    runtime,
                }));
            }
            Err(error) => return Err(EngineError(error.to_string())),
        };
        let (mailbox, commands) = mpsc::channel(MAILBOX_COMMANDS);
        let (dropped, is_dropped) = oneshot::channel();
        let coordinator = Coordinator::new(journal, state, topics.clock().clone(), moves);
        let task = tokio::spawn(coordinator.run(commands, is_dropped));
        let running = Running { task, _dropped: dropped };
        let (handle, task) = (Handle(Ok(mailbox)), Mutex::new(Some(running)));
        let groups =
            Arc::new(Self { topics, delays, unpacking, copies, handle, trends, moved, clients, task, runtime });
        tokio::spawn(trend::sample(Arc::downgrade(&groups)));
        Ok(groups)
    }

    /// Ends every stream after what it has settled is durable, and closes the journal. Streams that have not ended by
    /// `deadline` are left to themselves.
    pub(crate) async fn shutdown(&self, deadline: Duration) {
        let Some(running) = self.task.lock().take() else { return };
        // Half of it for the members, so that the other half is left for the journal.
        let deadline = Instant::now() + deadline / 2;
        // If it has ended by itself, there is nothing to ask.
        let _ = self.handle.send(Command::Shutdown { deadline }).await;
        if let Err(panic) = running.task.await {
            tracing::error!("the coordinator of groups has failed: {panic}");
        }
    }

    /// Notified when positions of any group may have changed.
    pub(crate) fn moved(&self) -> watch::Receiver<()> {
        self.moved.clone()
    }

    /// Which clients are members of which groups.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Makes a group.
    ///
    /// # Errors
    /// [`GroupError::Exists`], [`GroupError::Name`], and what is wrong with the policy.
    pub(crate) async fn create(&self, group: String, opinion: PolicyOpinion) -> Result<Group, GroupError> {
        check_name(&group)?;
        self.handle.call(|reply| Command::Create { group, opinion, reply }).await
    }

    /// Changes a group's policy; what is absent stays.
    ///
    /// # Errors
    /// [`GroupError::Unknown`], and what is wrong with the policy.
    pub(crate) async fn alter(&self, group: String, opinion: PolicyOpinion) -> Result<Group, GroupError> {
        check_name(&group)?;
        self.handle.call(|reply| Command::Alter { group, opinion, reply }).await
    }

    /// Removes a group and its positions.
    ///
    /// # Errors
    /// [`GroupError::Unknown`], [`GroupError::MembersActive`].
    pub(crate) async fn delete(&self, group: String) -> Result<(), GroupError> {
        check_name(&group)?;
        self.handle.call(|reply| Command::Delete { group, reply }).await
    }

    /// Every group, by name.
    ///
    /// # Errors
    /// While shutting down.
    pub(crate) async fn list(&self) -> Result<Vec<GroupView>, GroupError> {
        self.handle.ask(|coordinator| Ok(coordinator.list())).await
    }

    /// One group, its members, and those that it lost.
    ///
    /// # Errors
    /// [`GroupError::Unknown`].
    pub(crate) async fn describe(&self, group: String) -> Result<GroupDescription, GroupError> {
        check_name(&group)?;
        let question = move |coordinator: &Coordinator| {
            Ok(GroupDescription {
                view: coordinator.describe(&group)?,
                members: coordinator.members_of(&group),
                taken_out: coordinator.taken_out_of(&group),
            })
        };
        self.handle.ask(question).await
    }

    /// Until when a group of that policy is delivered nothing, in microseconds since the epoch; `None` while it is.
    pub(crate) fn closed_until_us(&self, policy: &Policy) -> Option<i64> {
        policy.hours.closed_until_us(self.topics.clock().now_us())
    }

    /// The names of topics, in order. A topic that has just been deleted has none any more.
    pub(crate) fn topic_names(&self, ids: &[TopicId]) -> Vec<String> {
        let topics = ids.iter().filter_map(|id| self.topics.find_by_id(id));
        let mut names: Vec<String> = topics.map(|topic| topic.meta().name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Serves one member, of `client`, until its stream ends. What goes wrong goes to its client.
    pub(crate) async fn consume(
        self: Arc<Self>,
        client: ClientId,
        requests: impl Stream<Item = Result<Request, GroupError>> + Send + 'static,
        outbound: Outbound,
        outgoing: Outgoing,
    ) {
        let mut requests = requests.boxed();
        let joined = async {
            let join = member::first_request(&mut requests).await?;
            let topic = self.find(&join.topic, &join.topic_id)?;
            sources::check_consumable(&join.topic, &join.group)?;
            let place = self.join(&join, &topic).await?;
            Ok((join, topic, place))
        };
        let (join, topic, place) = match joined.await {
            Ok(joined) => joined,
            // A client that has gone does not need it.
            Err(error) => return drop(outbound.send(Err(error)).await),
        };
        let JoinRequest { group, heartbeat, credit, .. } = join;
        let present = self.clients.enter(client, &group);
        let means = self.means(topic, group);
        let runtime = self.runtime.clone();
        // Streams do not keep a broker alive that nobody has a handle of any more.
        drop(self);
        let newcomer = |membership| Newcomer { membership, heartbeat, credit, requests, outbound, outgoing, present };
        // A hub that ends takes whoever comes along, and tells them.
        match place {
            Place::Owner(owner, membership) => {
                let (mailbox, newcomers) = mpsc::channel(1);
                drop(mailbox.send(newcomer(membership)).await);
                drop(mailbox);
                member::run(means, owner, newcomers).await;
            }
            Place::Seat(hub, membership) => drop(hub.send(newcomer(membership)).await),
            Place::FirstSeat(NewHub { owner, mailbox, newcomers }, membership) => {
                runtime.spawn(member::run(means, owner, newcomers));
                drop(mailbox.send(newcomer(membership)).await);
            }
        }
    }

    fn means(&self, topic: Arc<Topic>, group: String) -> Means {
        let (handle, clock) = (self.handle.clone(), self.topics.clock().clone());
        let sources = Sources::new(&self.topics, topic, group);
        let carrier = Carrier::new(handle.clone(), sources.clone(), &self.delays, clock.clone());
        let unpacker = Unpacker::new(Arc::clone(&self.unpacking));
        Means { handle, sources, carrier, unpacker, copies: self.copies.share(), clock }
    }

    async fn join(&self, join: &JoinRequest, topic: &Arc<Topic>) -> Result<Place, GroupError> {
        check_name(&join.group)?;
        let meta = topic.meta();
        let admission = self
            .handle
            .call(|reply| Command::Admit {
                group: join.group.clone(),
                opinion: join.opinion,
                topic: meta.id,
                partitions: meta.partitions,
                reply,
            })
            .await?;
        let starts = positions::starts(topic, admission.start, &admission.missing).await?;
        let join = Join {
            group: join.group.clone(),
            topic: Arc::clone(topic),
            member_name: join.member_name.clone(),
            keep: join.keep,
            starts,
            partitions: meta.partitions,
        };
        self.handle.call(|reply| Command::Join { join, reply }).await
    }

    /// Groups with members that consume a topic.
    ///
    /// # Errors
    /// While shutting down.
    pub(crate) async fn active_groups(&self, topic: TopicId) -> Result<Vec<String>, GroupError> {
        self.unless_damaged(self.handle.ask(move |coordinator| Ok(coordinator.active_groups(topic))).await)
    }

    /// Groups with a position in a topic.
    ///
    /// # Errors
    /// While shutting down.
    pub(crate) async fn groups_of_topic(&self, topic: TopicId) -> Result<Vec<String>, GroupError> {
        self.unless_damaged(self.handle.ask(move |coordinator| Ok(coordinator.groups_of_topic(topic))).await)
    }

    /// The topic has more partitions now: members get them.
    ///
    /// # Errors
    /// If the new positions could not be stored; they are when the next member joins.
    pub(crate) async fn topic_grown(&self, topic: Arc<Topic>) -> Result<(), GroupError> {
        self.unless_damaged(self.handle.call(|reply| Command::TopicGrown { topic, reply }).await)
    }

    /// The topic is gone: its positions go, and streams on it end.
    ///
    /// # Errors
    /// If that could not be stored. The positions then stay, but nobody gets to see them: they belong to its id.
    pub(crate) async fn topic_deleted(&self, topic: TopicId) -> Result<(), GroupError> {
        self.unless_damaged(self.handle.call(|reply| Command::TopicDeleted { topic, reply }).await)
    }

    /// Topics work while groups are out of service.
    fn unless_damaged<T: Default>(&self, outcome: Result<T, GroupError>) -> Result<T, GroupError> {
        if self.handle.0.is_err() { Ok(T::default()) } else { outcome }
    }

    /// The topic of that name, if it is the one that is meant.
    fn find(&self, name: &str, id: &[u8]) -> Result<Arc<Topic>, TopicError> {
        let topic = self.topics.find(name)?;
        topic.check_id(id)?;
        Ok(topic)
    }
}

fn check_name(group: &str) -> Result<(), GroupError> {
    // What is shown of a name that is far too long is bounded.
    names::check(group).map_err(|source| GroupError::Name { name: group.chars().take(260).collect(), source })
}

#[cfg(all(test, feature = "shuttle"))]
mod models;
#[cfg(test)]
mod tests;
