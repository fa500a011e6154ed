//! Interleavings of members that come, commit, hand over and vanish, tried out by the scheduler `shuttle`: the coordinator,
//! its journal and the engine themselves, on the simulated disk.
//!
//! Members are told here and not delivered to: what they would deliver lies between being granted a partition and giving
//! it up.

use std::{collections::BTreeMap, sync::LazyLock};

use aqueduct_storage::{Offset, sim::SimDisk};
use shuttle::future::{block_on, spawn, yield_now};

use super::{
    assignment::MemberId,
    coordinator::{Owner, PartitionGeneration, PartitionProgress},
    progress::Progress,
    roster::Standing,
    state::PositionKey,
    *,
};
use crate::{
    engine::embedded::models::{engine_on, explore},
    topics::settings::NewTopic,
};

const PARTITIONS: u32 = 2;
/// So small that the journal is cut again and again.
const SNAPSHOT_BYTES: u64 = 300;

/// Nothing runs on it: members of ordered groups need no hub.
static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));

/// What all members together know.
#[derive(Default)]
struct Told {
    /// Who delivers a partition.
    holders: BTreeMap<u32, MemberId>,
    /// The last tenure of a partition that anybody has begun.
    generations: BTreeMap<u32, u64>,
    /// Up to where somebody was told "committed".
    committed: BTreeMap<u32, Offset>,
}

/// What all members share.
struct Stage {
    disk: SimDisk,
    groups: Arc<Groups>,
    topic: Arc<Topic>,
    told: Mutex<Told>,
}

/// How a member goes.
#[derive(Debug, Clone, Copy)]
enum Goodbye {
    GivesBack,
    /// Without a word; and then it commits once more.
    Vanishes,
}

/// A member, and the partitions that it delivers.
struct Member {
    stage: Arc<Stage>,
    owner: Owner,
    held: BTreeMap<u32, Tenure>,
    /// What it has given up, and goes on committing, which nobody should.
    past: BTreeMap<u32, Tenure>,
}

#[derive(Debug, Clone, Copy)]
struct Tenure {
    generation: u64,
    standing: Standing,
    next: Offset,
}

impl Member {
    async fn join(stage: Arc<Stage>) -> Self {
        let request = JoinRequest {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            topic_id: bytes::Bytes::new(),
            member_name: String::new(),
            keep: Duration::ZERO,
            opinion: PolicyOpinion::default(),
            credit: Credit::default(),
            heartbeat: HEARTBEAT_DEFAULT,
        };
        let place = stage.groups.join(&request, &stage.topic).await.expect("it joins");
        let Place::Owner(owner, _) = place else { panic!("the group is ordered") };
        Self { stage, owner, held: BTreeMap::new(), past: BTreeMap::new() }
    }

    /// Begins with what it was granted meanwhile.
    fn look(&mut self) {
        let target = self.owner.target.borrow_and_update();
        let mut told = self.stage.told.lock();
        for (&partition, grant) in &target.grants {
            if let Some(tenure) = self.held.get_mut(&partition).filter(|held| held.generation == grant.generation) {
                tenure.standing = grant.standing;
                continue;
            }
            let holder = told.holders.insert(partition, self.owner.id);
            assert_eq!(holder, None, "partition {partition} has two members");
            let before = told.generations.insert(partition, grant.generation).unwrap_or(0);
            assert!(before < grant.generation, "generation {} comes after {before}", grant.generation);
            let next = grant.progress.as_ref().map_or(0, Progress::committed);
            let committed = told.committed.get(&partition).copied().unwrap_or(0);
            assert!(next >= committed, "partition {partition} goes on at {next}, committed was {committed}");
            self.held.insert(partition, Tenure { generation: grant.generation, standing: grant.standing, next });
        }
    }

    /// Commits one more record of each partition that it has or once had, and gives up those of its own for which
    /// `gives_up` says so.
    async fn settle(&mut self, gives_up: impl Fn(&Tenure) -> bool) {
        self.held.values_mut().chain(self.past.values_mut()).for_each(|tenure| tenure.next += 1);
        let is_past = |(partition, _): &(&u32, &Tenure)| !self.held.contains_key(partition);
        let claims: BTreeMap<u32, Tenure> =
            self.held.iter().chain(self.past.iter().filter(is_past)).map(|(partition, of)| (*partition, *of)).collect();
        let given_up: Vec<u32> =
            self.held.iter().filter(|(_, of)| gives_up(of)).map(|(partition, _)| *partition).collect();
        let superseded: Vec<u32> = {
            let mut told = self.stage.told.lock();
            told.holders.retain(|partition, _| !given_up.contains(partition));
            claims
                .iter()
                .filter(|(partition, of)| told.generations[partition] > of.generation)
                .map(|(p, _)| *p)
                .collect()
        };
        let at = |partition: u32| PartitionGeneration { partition, generation: claims[&partition].generation };
        let advance = |(&partition, of): (&u32, &Tenure)| PartitionProgress {
            at: at(partition),
            progress: Progress::at(of.next),
        };
        let settlement = Settlement {
            member: self.owner.id,
            advanced: claims.iter().map(advance).collect(),
            given_up: given_up.iter().map(|partition| at(*partition)).collect(),
        };
        let stale = self.stage.groups.handle.settle(settlement).await.expect("the journal works");
        for partition in superseded {
            assert!(stale.contains(&partition), "a commit of an earlier generation of {partition} was taken");
        }
        let mut told = self.stage.told.lock();
        for (&partition, of) in claims.iter().filter(|(partition, _)| !stale.contains(partition)) {
            let committed = told.committed.entry(partition).or_default();
            *committed = of.next.max(*committed);
        }
        for (partition, _) in self.held.iter().filter(|(p, _)| told.holders.get(p) == Some(&self.owner.id)) {
            assert!(!stale.contains(partition), "the commit of the owner of {partition} was refused");
        }
        for partition in given_up {
            self.past.extend(self.held.remove_entry(&partition));
        }
    }

    async fn live(mut self, goodbye: Goodbye) {
        for _ in 0..3 {
            self.look();
            yield_now().await;
            self.settle(|tenure| tenure.standing == Standing::Leaving).await;
            yield_now().await;
        }
        match goodbye {
            Goodbye::GivesBack => {
                self.settle(|_| true).await;
                self.stage.assert_committed_is_kept().await;
            }
            Goodbye::Vanishes => {
                // Its stream is cut: from here on it delivers nothing, and the coordinator learns it in its own time.
                self.stage.told.lock().holders.retain(|_, holder| *holder != self.owner.id);
                self.owner.target = tokio::sync::watch::Sender::default().subscribe();
                for _ in 0..2 {
                    yield_now().await;
                    self.settle(|_| false).await;
                }
            }
        }
    }
}

/// All groups of a broker whose coordinator is a task of the scheduler.
async fn begin(meta: &Arc<dyn MetaStore>, topics: Arc<Topics>) -> (Arc<Groups>, shuttle::future::JoinHandle<()>) {
    let (journal, state) = Journal::open(Arc::clone(meta), SNAPSHOT_BYTES).await.expect("it opens");
    let (mailbox, commands) = mpsc::channel(MAILBOX_COMMANDS);
    let (moves, moved) = watch::channel(());
    let clock = topics.clock().clone();
    let coordinator = spawn(async move {
        let (_dropped, is_dropped) = oneshot::channel();
        Coordinator::new(journal, state, clock, moves).run(commands, is_dropped).await;
    });
    let delays = Delays::open(Arc::clone(meta), Arc::clone(&topics)).await.expect("it opens");
    let (handle, clients, task) = (Handle(Ok(mailbox)), Arc::default(), Mutex::new(None));
    let (trends, runtime) = (Trends::default(), RUNTIME.handle().clone());
    let (unpacking, copies) = (Arc::new(FairSemaphore::new(1)), super::copies_pool());
    (Arc::new(Groups { topics, delays, unpacking, copies, handle, trends, moved, clients, task, runtime }), coordinator)
}

impl Stage {
    /// A power loss at this moment takes nothing that somebody was told "committed".
    async fn assert_committed_is_kept(&self) {
        let committed = self.told.lock().committed.clone();
        let meta: Arc<dyn MetaStore> = Arc::new(engine_on(&self.disk.after_power_loss(0)));
        let (_, state) = Journal::open(meta, SNAPSHOT_BYTES).await.expect("it opens again");
        for (partition, committed) in committed {
            let key = PositionKey { group: "g".to_owned(), topic: self.topic.meta().id, partition };
            let kept = state.position(&key).map_or(0, Progress::committed);
            assert!(kept >= committed, "partition {partition}: {committed} was committed, {kept} is kept");
        }
    }
}

async fn rebalance(goodbyes: &[Goodbye]) {
    let disk = SimDisk::new();
    let meta: Arc<dyn MetaStore> = Arc::new(engine_on(&disk));
    let topics = Topics::open(Arc::clone(&meta), 1 << 20, Arc::default(), crate::clock::Clock::default())
        .await
        .expect("the topics open");
    let new = NewTopic { partitions: PARTITIONS, ..NewTopic::default() };
    let topic = topics.create("t", new).await.expect("the topic is made");
    let (groups, coordinator) = begin(&meta, topics).await;
    let stage = Arc::new(Stage { disk, groups, topic, told: Mutex::default() });
    let live = |&goodbye| {
        let stage = Arc::clone(&stage);
        spawn(async move { Member::join(stage).await.live(goodbye).await })
    };
    let lives: Vec<_> = goodbyes.iter().map(live).collect();
    for life in lives {
        life.await.expect("the member is content");
    }
    let deadline = Instant::now() + Duration::from_secs(3600);
    stage.groups.handle.send(Command::Shutdown { deadline }).await.expect("it listens");
    coordinator.await.expect("it ends");
    stage.assert_committed_is_kept().await;
}

fn explore_goodbyes(goodbyes: &'static [Goodbye]) {
    // Timers are made and never due.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    explore(move || block_on(rebalance(goodbyes)));
}

#[test]
fn a_partition_never_has_two_members_and_goes_on_where_the_last_one_has_committed() {
    explore_goodbyes(&[Goodbye::GivesBack, Goodbye::GivesBack, Goodbye::GivesBack]);
}

#[test]
fn a_commit_of_an_earlier_generation_is_refused_whoever_vanishes() {
    explore_goodbyes(&[Goodbye::Vanishes, Goodbye::GivesBack, Goodbye::Vanishes]);
}
