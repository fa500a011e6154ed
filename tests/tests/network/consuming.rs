//! Members of a group and readers that are cut off.

use std::{collections::BTreeSet, time::Duration};

use aqueduct_client::{AckError, Client, ConsumeError, Consumer, Delivery, Record, Start};
use aqueduct_tests::{BrokerProcess, Flow, Launch, Proxy, drain, eventually, resident_anonymous_bytes, within};

const PARTITIONS: u32 = 4;
const RECORDS: u64 = 80;

/// A topic with records in every partition.
async fn broker_with_records() -> BrokerProcess {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").partitions(PARTITIONS).build().await.expect("a new topic");
    let records = (0..RECORDS).map(|number| Record::new(number.to_string()).key(number.to_string()));
    client.publish_many("orders", records).await.expect("receipts");
    broker
}

async fn committed(client: &Client) -> Vec<u64> {
    let lag = eventually("the group answers", async || client.group("billing").lag("orders").await.ok()).await;
    lag.iter().map(|one| one.committed_offset).collect()
}

async fn next(member: &mut Consumer) -> Delivery {
    within("a delivery", member.next()).await.expect("no end").expect("a delivery")
}

/// Acks everything until the group has seen all records.
async fn consume_all(member: &mut Consumer, client: &Client) -> BTreeSet<(u32, u64)> {
    let mut seen = BTreeSet::new();
    while (seen.len() as u64) < RECORDS {
        let delivery = next(member).await;
        seen.insert((delivery.event().partition, delivery.event().offset));
        delivery.ack();
    }
    let all_committed = async || (committed(client).await.iter().sum::<u64>() == RECORDS).then_some(());
    eventually("everything is committed", all_committed).await;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cut_off_in_the_middle_of_a_rebalance_commits_nothing_as_a_zombie() {
    let broker = broker_with_records().await;
    let direct = broker.client().await;
    let proxy = Proxy::before(broker.port()).await;
    let cut_off = Client::connect(proxy.url()).await.expect("the broker answers");
    let mut zombie = cut_off.consumer("orders", "billing").build().await.expect("a member");
    let mut held = Vec::new();
    for _ in 0..RECORDS {
        held.push(next(&mut zombie).await);
    }
    // Its words are lost from here on: it can neither settle nor give partitions back, as the next member needs.
    proxy.to_broker(Flow::Lost);
    let mut heir = direct.consumer("orders", "billing").build().await.expect("another member");
    let waiting: Vec<_> = held.drain(..).map(|delivery| tokio::spawn(delivery.ack_durable())).collect();
    let moved = async || (zombie.assignment().len() < PARTITIONS as usize).then_some(());
    eventually("the rebalance has begun", moved).await;
    assert_eq!(committed(&direct).await, vec![0; PARTITIONS as usize]);

    proxy.break_and_heal();
    for ack in waiting {
        let outcome = within("the outcome of an ack", ack).await.expect("no panic");
        assert!(matches!(outcome, Err(AckError::SessionLost | AckError::Aborted { .. })), "{outcome:?}");
    }
    assert_eq!(committed(&direct).await, vec![0; PARTITIONS as usize], "nothing that the zombie said counts");
    drop(zombie);
    assert_eq!(consume_all(&mut heir, &direct).await.len() as u64, RECORDS);
    heir.close().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_in_the_middle_of_a_rebalance_delivers_what_was_not_committed_again() {
    let broker = broker_with_records().await;
    let client = broker.client().await;
    let mut first = client.consumer("orders", "billing").build().await.expect("a member");
    let mut held = Vec::new();
    let mut promised = vec![0; PARTITIONS as usize];
    for number in 0..RECORDS {
        let delivery = next(&mut first).await;
        let (partition, offset) = (delivery.event().partition as usize, delivery.event().offset);
        // Only a beginning of each partition can be committed.
        if number % 2 == 0 && promised[partition] == offset {
            delivery.ack_durable().await.expect("stored");
            promised[partition] = offset + 1;
        } else {
            held.push(delivery);
        }
    }
    let other = broker.client().await;
    let mut second = other.consumer("orders", "billing").build().await.expect("another member");
    let revoked = async || (first.assignment().len() < PARTITIONS as usize).then_some(());
    eventually("the rebalance has begun", revoked).await;
    let broker = broker.kill_and_restart();
    let zombie = within("the outcome of an ack", held.remove(0).ack_durable()).await;
    assert!(matches!(zombie, Err(AckError::SessionLost | AckError::Aborted { .. })), "{zombie:?}");
    let direct = broker.client().await;
    assert_eq!(committed(&direct).await, promised, "what was promised, and no more");
    drop((held, first));
    let left = RECORDS - promised.iter().sum::<u64>();
    let mut seen = BTreeSet::new();
    while (seen.len() as u64) < left {
        let delivery = next(&mut second).await;
        let (partition, offset) = (delivery.event().partition, delivery.event().offset);
        assert!(offset >= promised[partition as usize], "{partition}@{offset} was committed");
        seen.insert((partition, offset));
        delivery.ack();
    }
    let all_committed = async || (committed(&direct).await.iter().sum::<u64>() == RECORDS).then_some(());
    eventually("everything is committed", all_committed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_closed_without_answers_says_that_its_acks_may_not_count() {
    let broker = broker_with_records().await;
    let proxy = Proxy::before(broker.port()).await;
    let client = Client::builder(proxy.url()).request_timeout(Duration::from_secs(1)).connect().await;
    let client = client.expect("the broker answers");
    let mut member = client.consumer("orders", "billing").build().await.expect("a member");
    let delivery = next(&mut member).await;
    proxy.to_broker(Flow::Lost);
    delivery.ack();
    let closed = within("the end", member.close()).await;
    assert!(matches!(closed, Err(ConsumeError::Unsettled { records: 1 })), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_behind_a_stalled_network_cost_no_memory_and_the_others_are_unaffected() {
    const RECORDS: u64 = 1500;
    const RECORD_BYTES: usize = 100_000;
    const MIB: u64 = 1 << 20;
    // Once the streams hold what is on its way in them, nothing more is kept for them, whatever is published.
    const FULL_AFTER: u64 = RECORDS / 3;
    const GROWTH_MAX: u64 = 24 * MIB;
    let sets = ["--set", "budget_bytes=8MiB", "--set", "tail_cache_bytes=2MiB"];
    let broker = BrokerProcess::launch(Launch::with_args(&sets));
    let client = broker.client().await;
    client.topics().create("orders").partitions(2).segment_bytes(8 << 20).build().await.expect("a new topic");
    let proxy = Proxy::before(broker.port()).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let client = Client::connect(proxy.url()).await.expect("the broker answers");
        let subscription = client.subscribe("orders").from(Start::Earliest).build().await.expect("a subscription");
        let member = client.consumer("orders", "billing").build().await.expect("a member");
        slow.push((client, subscription, member));
    }
    proxy.to_client(Flow::Stalled);
    let fast = client.subscribe("orders").from(Start::Earliest).until(0, RECORDS / 2).until(1, RECORDS / 2);
    let fast = fast.build().await.expect("a subscription");
    let fast = tokio::spawn(async move { drain(fast).await.len() as u64 });
    let (mut full, mut most) = (0, 0);
    let mut producers = Vec::new();
    for partition in 0..2 {
        producers.push(client.producer("orders").partition(partition).build().await.expect("a producer"));
    }
    for published in (0..RECORDS).step_by(50) {
        let producer = &producers[usize::from(published % 100 == 0)];
        let stored = producer.publish_all((0..50).map(|_| Record::new(vec![7; RECORD_BYTES])));
        within("receipts", stored).await.expect("receipts");
        most = most.max(resident_anonymous_bytes(broker.pid()));
        if published < FULL_AFTER {
            full = most;
        }
    }
    assert_eq!(within("the fast reader has everything", fast).await.expect("it does not fail"), RECORDS);
    let grown = most.max(resident_anonymous_bytes(broker.pid())) - full;
    println!(
        "{} MiB, then {} MiB more for {} MiB published",
        full / MIB,
        grown / MIB,
        RECORDS * RECORD_BYTES as u64 / MIB
    );
    assert!(grown < GROWTH_MAX, "{grown} bytes more for readers that do not read");
    proxy.break_and_heal();
    drop(slow);
}
