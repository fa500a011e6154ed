//! A group whose members are restarted one after another, while events keep coming.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aqueduct_client::{Client, ConsumerItem, Offset, Record, partition_for_key};
use aqueduct_tests::{text, within};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use crate::stage::Stage;

const MEMBERS: usize = 10;
const PARTITIONS: u32 = 100;

pub(crate) async fn a_rolling_restart_moves_only_what_the_restarted_member_had(stage: Stage) {
    restart_all(stage, Names::NewEachTime).await;
}

pub(crate) async fn a_rolling_restart_of_static_members_moves_nothing(stage: Stage) {
    restart_all(stage, Names::Static).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    NewEachTime,
    Static,
}

async fn restart_all(stage: Stage, names: Names) {
    stage.topic("orders", PARTITIONS).await;
    let (seen, seeing) = mpsc::unbounded_channel();
    let mut group = Group { stage, names, seen, seeing, workers: BTreeMap::new(), model: Model::default() };
    for number in 0..MEMBERS {
        group.start(number).await;
    }
    group.until("everybody has a share", Model::is_balanced).await;
    let (stop, stopped) = oneshot::channel();
    let publisher = tokio::spawn(publish(group.stage.another_client().await, stopped));
    group.until("the group works", |model| model.round > 3).await;

    for number in 0..MEMBERS {
        let before = group.model.assigned.clone();
        let moving = before[&number].clone();
        group.model.may_be_revoked = if names == Names::Static { BTreeSet::new() } else { moving.clone() };
        group.stop(number).await;
        // The others go on: each handles something that was published after the restart began.
        let begun = group.model.round;
        group.until("the others go on", |model| model.rounds.values().all(|round| *round > begun + 1)).await;
        if names == Names::NewEachTime {
            // Else the newcomer would be one more, and everybody would have to give it something.
            group.until("the others have its share", |model| model.has_everything_without(number)).await;
        }
        group.start(number).await;
        group.until("it has its share again", |model| model.is_balanced() && model.rounds.len() == MEMBERS).await;
        group.model.settled();
        assert_eq!(group.model.assigned, before, "everybody has what it had");
    }
    stop.send(()).expect("it publishes");
    let rounds = publisher.await.expect("it does not fail");
    group.until("everything is handled", |model| model.handled_everywhere(rounds)).await;
    println!("{rounds} rounds, {} deliveries", group.model.deliveries);
}

/// One record for each partition, again and again. Returns how many rounds.
async fn publish(client: Client, mut stopped: oneshot::Receiver<()>) -> u64 {
    let mut keys = BTreeMap::new();
    for number in 0u32.. {
        let key = number.to_string();
        keys.entry(partition_for_key(key.as_bytes(), PARTITIONS)).or_insert(key);
        if keys.len() == PARTITIONS as usize {
            break;
        }
    }
    let producer = client.producer("orders").build().await.expect("a producer");
    let mut rounds = 0;
    while stopped.try_recv().is_err() {
        let records: Vec<_> = keys.values().map(|key| Record::new(rounds.to_string()).key(key.clone())).collect();
        producer.publish_all(records).await.expect("receipts");
        rounds += 1;
    }
    rounds
}

/// What a worker has seen.
enum Seen {
    Assignment { worker: usize, life: u64, assigned: Vec<u32>, revoked: Vec<u32> },
    Handled { worker: usize, life: u64, partition: u32, offset: Offset, round: u64 },
}

/// A member with a runtime of its own, so that it can be lost without a word.
struct Worker {
    runtime: Option<Runtime>,
    close: Option<oneshot::Sender<oneshot::Sender<()>>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.runtime.take().expect("it is dropped once").shutdown_background();
    }
}

struct Group {
    stage: Stage,
    names: Names,
    seen: mpsc::UnboundedSender<Seen>,
    seeing: mpsc::UnboundedReceiver<Seen>,
    workers: BTreeMap<usize, Worker>,
    model: Model,
}

impl Group {
    async fn start(&mut self, number: usize) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let life = self.model.begin(number);
        let (connect, seen, names) = (self.stage.connector(), self.seen.clone(), self.names);
        let (close, closing) = oneshot::channel();
        runtime.spawn(async move { work(&connect.client().await, names, (number, life), seen, closing).await });
        self.workers.insert(number, Worker { runtime: Some(runtime), close: Some(close) });
    }

    /// Half of them close, half of them are lost.
    async fn stop(&mut self, number: usize) {
        let mut worker = self.workers.remove(&number).expect("it runs");
        if number.is_multiple_of(2) {
            let (closed, has_closed) = oneshot::channel();
            worker.close.take().expect("it is closed once").send(closed).expect("it listens");
            within("a clean end", has_closed).await.expect("it ends");
        }
        drop(worker);
        self.model.end(number);
    }

    /// Follows what the workers see until `condition` holds.
    async fn until(&mut self, what: &str, condition: impl Fn(&Model) -> bool) {
        let following = async {
            while !condition(&self.model) {
                let seen = self.seeing.recv().await.expect("the sender is here");
                self.model.follow(seen);
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), following).await.is_err() {
            panic!("{what}: not in time; {:?}", self.model);
        }
    }
}

async fn work(
    client: &Client,
    names: Names,
    (worker, life): (usize, u64),
    seen: mpsc::UnboundedSender<Seen>,
    mut closing: oneshot::Receiver<oneshot::Sender<()>>,
) {
    let builder = client.consumer("orders", "billing").prefetch_records(64);
    let builder = match names {
        Names::NewEachTime => builder,
        Names::Static => builder.static_member(format!("worker-{worker}"), Duration::from_secs(600)),
    };
    let mut consumer = builder.build().await.expect("a member");
    loop {
        let item = tokio::select! {
            item = consumer.next_item() => item,
            closed = &mut closing => {
                consumer.close().await.expect("a clean end");
                closed.expect("somebody waits").send(()).expect("it still waits");
                return;
            }
        };
        let said = match item.expect("it goes on").expect("an item") {
            ConsumerItem::Assignment { assigned, revoked } => Seen::Assignment { worker, life, assigned, revoked },
            ConsumerItem::Delivery(delivery) => {
                let round = text(&delivery).parse().expect("a number");
                let (partition, offset) = (delivery.partition, delivery.offset);
                delivery.ack();
                Seen::Handled { worker, life, partition, offset, round }
            }
            ConsumerItem::Gap(gap) => panic!("{gap:?}"),
        };
        // The test may be over.
        let _ = seen.send(said);
    }
}

/// What is known of the group, and what must hold whatever comes.
#[derive(Debug, Default)]
struct Model {
    lives: BTreeMap<usize, u64>,
    assigned: BTreeMap<usize, BTreeSet<u32>>,
    may_be_revoked: BTreeSet<u32>,
    /// Up to where each partition has been handled.
    next: BTreeMap<u32, Offset>,
    /// The last round that each running worker has handled something of.
    rounds: BTreeMap<usize, u64>,
    round: u64,
    deliveries: u64,
}

impl Model {
    fn begin(&mut self, worker: usize) -> u64 {
        let life = self.lives.entry(worker).or_default();
        *life += 1;
        *life
    }

    fn end(&mut self, worker: usize) {
        self.begin(worker);
        self.rounds.remove(&worker);
        self.assigned.remove(&worker);
    }

    fn follow(&mut self, seen: Seen) {
        match seen {
            Seen::Assignment { worker, life, assigned, revoked } => {
                if self.lives[&worker] != life {
                    return;
                }
                let share = self.assigned.entry(worker).or_default();
                for partition in revoked {
                    assert!(share.remove(&partition), "worker {worker} did not have {partition}");
                    let may = self.round == 0 || self.may_be_revoked.contains(&partition);
                    assert!(may, "partition {partition} was taken from worker {worker}");
                }
                share.extend(assigned);
            }
            Seen::Handled { worker, life, partition, offset, round } => {
                self.deliveries += 1;
                let next = self.next.entry(partition).or_default();
                assert!(offset <= *next, "partition {partition}: {offset} is handled before {next}");
                *next = (*next).max(offset + 1);
                self.round = self.round.max(round);
                if self.lives[&worker] == life {
                    self.rounds.insert(worker, round);
                }
            }
        }
    }

    fn is_balanced(&self) -> bool {
        let share = PARTITIONS as usize / MEMBERS;
        self.assigned.len() == MEMBERS && self.assigned.values().all(|assigned| assigned.len() == share)
    }

    fn has_everything_without(&self, gone: usize) -> bool {
        let others = self.assigned.iter().filter(|(worker, _)| **worker != gone);
        others.map(|(_, assigned)| assigned.len()).sum::<usize>() == PARTITIONS as usize
    }

    /// No partition is with two workers.
    fn settled(&self) {
        let all: BTreeSet<u32> = self.assigned.values().flatten().copied().collect();
        assert_eq!(all.len(), PARTITIONS as usize, "{:?}", self.assigned);
    }

    fn handled_everywhere(&self, rounds: u64) -> bool {
        self.next.len() == PARTITIONS as usize && self.next.values().all(|next| *next == rounds)
    }
}
