//! The broker, a publisher that never stops, the groups, and whoever kills them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct_client::{Client, DeadLetter, GroupMode, GroupPolicy, LetterFilter, Record, RetryPolicy};
use aqueduct_tests::{BrokerProcess, eventually, within};
use fastrand::Rng;
use tokio::task::JoinHandle;

use super::{
    ledger::Event,
    member::{Group, Member},
};

const TOPIC: &str = "work";
const PARTITIONS: u32 = 4;
const KEYS: u32 = 97;
const MEMBERS: usize = 3;
/// Published and receipted together.
const TOGETHER: usize = 200;
/// Handled by each group while one broker lives.
const EVENTS_A_LIFE: usize = 1_500;
/// The publisher is not further ahead of the slowest group than this.
const AHEAD_MAX: usize = 3_000;
const MEMBERS_KILLED_A_LIFE: usize = 6;
/// Before the publisher looks again how far the groups are.
const PACE: Duration = Duration::from_millis(2);

pub(crate) struct Campaign {
    random: Rng,
    broker: Option<BrokerProcess>,
    groups: Vec<Group>,
    members: Vec<(usize, Member)>,
    publisher: JoinHandle<BTreeSet<Event>>,
    enough: Arc<AtomicBool>,
}

fn group(name: &'static str, mode: GroupMode) -> Group {
    let retry = RetryPolicy {
        backoff_min: Some(Duration::from_millis(2)),
        backoff_max: Some(Duration::from_millis(10)),
        max_attempts: Some(6),
        on_exhausted: None,
    };
    let policy =
        GroupPolicy { mode: Some(mode), ack_timeout: Some(Duration::from_secs(2)), retry, ..GroupPolicy::default() };
    Group { name, topic: TOPIC, policy, handled: Arc::default() }
}

impl Campaign {
    pub(crate) async fn start(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let broker = BrokerProcess::start();
        let client = broker.client().await;
        client.topics().create(TOPIC).partitions(PARTITIONS).build().await.expect("a new topic");
        let modes = [("ordered", GroupMode::Ordered), ("shared", GroupMode::Shared), ("keyed", GroupMode::Keyed)];
        let groups: Vec<Group> = modes.into_iter().map(|(name, mode)| group(name, mode)).collect();
        let mut members = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            for _ in 0..MEMBERS {
                members.push((index, Member::start(group.clone(), broker.port(), random.u64(..)).await));
            }
        }
        let enough = Arc::<AtomicBool>::default();
        let publisher = Publisher { random: random.fork(), groups: groups.clone(), enough: Arc::clone(&enough) };
        let publisher = tokio::spawn(publisher.run(client));
        Self { random, broker: Some(broker), groups, members, publisher, enough }
    }

    /// Some events are published and handled; some members are killed, and others come in their place.
    pub(crate) async fn live(&mut self) {
        let before = slowest(&self.groups);
        for death in 1..=MEMBERS_KILLED_A_LIFE {
            let then = before + EVENTS_A_LIFE * death / MEMBERS_KILLED_A_LIFE;
            eventually("events are handled", async || (slowest(&self.groups) >= then).then_some(())).await;
            let (group, member) = self.members.swap_remove(self.random.usize(..self.members.len()));
            member.kill().await;
            let port = self.broker.as_ref().expect("it runs").port();
            let successor = Member::start(self.groups[group].clone(), port, self.random.u64(..)).await;
            self.members.push((group, successor));
        }
    }

    /// kill -9, and a new process on the same data and port.
    pub(crate) async fn kill_the_broker(&mut self) {
        let broker = self.broker.take().expect("it runs");
        self.broker = Some(tokio::task::spawn_blocking(|| broker.kill_and_restart()).await.expect("it comes back"));
    }

    /// Lets everything come to its end, and judges.
    pub(crate) async fn finish(mut self) {
        self.enough.store(true, Ordering::Relaxed);
        let published = within("the last receipts", &mut self.publisher).await.expect("the publisher lives");
        let client = self.broker.as_ref().expect("it runs").client().await;
        for group in &self.groups {
            let poison = published.iter().filter(|event| event.is_poison()).count();
            println!("{}: {} of {} handled", group.name, group.handled.count(), published.len());
            eventually("every record is handled or parked", async || {
                let parked = parked(&client, group.name).await;
                let settled = group.handled.events().union(&parked).count();
                (settled == published.len() && parked.len() >= poison).then_some(())
            })
            .await;
            self.judge(&client, group, &published).await;
        }
    }

    async fn judge(&self, client: &Client, group: &Group, published: &BTreeSet<Event>) {
        let parked = parked(client, group.name).await;
        let handled = group.handled.events();
        let settled: BTreeSet<Event> = handled.union(&parked).copied().collect();
        assert_eq!(settled, *published, "{}", group.name);
        assert!(handled.iter().all(|event| !event.is_poison()));
        let (repeats, parked) = (group.handled.repeats(), parked.len());
        println!("{}: {} handled, {repeats} of them again, {parked} parked", group.name, handled.len());
        match group.policy.mode {
            Some(GroupMode::Ordered | GroupMode::Keyed) | None => group.handled.check_order(group.name),
            Some(GroupMode::Shared) => {}
        }
    }
}

async fn parked(client: &Client, group: &str) -> BTreeSet<Event> {
    let mut parked = BTreeSet::new();
    let see = |letter: DeadLetter| {
        parked.insert(Event::parse(letter.event.value().expect("a value")));
    };
    client.dead_letters(TOPIC, group).read(&LetterFilter::default(), see).await.expect("letters");
    parked
}

/// How many events the slowest group has handled.
fn slowest(groups: &[Group]) -> usize {
    groups.iter().map(|group| group.handled.count()).min().unwrap_or_default()
}

struct Publisher {
    random: Rng,
    groups: Vec<Group>,
    enough: Arc<AtomicBool>,
}

impl Publisher {
    /// Publishes until it is enough. Every record has its receipt, whatever happens to the broker.
    async fn run(mut self, client: Client) -> BTreeSet<Event> {
        let producer = client.producer(TOPIC).build().await.expect("a producer");
        let mut numbers = vec![0; KEYS as usize];
        let mut events = BTreeSet::new();
        while !self.enough.load(Ordering::Relaxed) {
            if events.len() > slowest(&self.groups) + AHEAD_MAX {
                tokio::time::sleep(PACE).await;
                continue;
            }
            let together: Vec<Event> = (0..TOGETHER).map(|_| self.next(&mut numbers)).collect();
            let record = |event: &Event| Record::new(event.value()).key(event.key.to_string());
            let records: Vec<Record> = together.iter().map(record).collect();
            producer.publish_all(records).await.expect("receipts, in the end");
            events.extend(together);
        }
        events
    }

    fn next(&mut self, numbers: &mut [u64]) -> Event {
        let key = self.random.u32(..KEYS);
        let number = &mut numbers[key as usize];
        *number += 1;
        Event { key, number: *number }
    }
}
