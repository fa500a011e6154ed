//! Writes and syncs that fail.

use std::time::Duration;

use aqueduct_client::Record;
use aqueduct_tests::{BrokerProcess, Fault, Launch, Raw, Refusal, eventually, raw, read_all, within};
use tonic::Code;

/// One thread writes and syncs, so that "the next sync" is one certain sync.
fn one_io_thread() -> BrokerProcess {
    BrokerProcess::launch(Launch::with_args(&["--set", "io_threads=1"]))
}

/// The path in a line such as `9328 fdatasync(14</data/…/00000000000000000000.log>) = 0`.
fn path_of(line: &str) -> &str {
    line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path)
}

/// The first segment whose sync failed, with `error`, is never synced after that.
pub(crate) fn assert_not_synced_again(trace: &[String], error: &str) {
    let failed = trace.iter().position(|line| line.contains("fdatasync") && line.contains(error)).expect("it failed");
    let path = path_of(&trace[failed]).to_owned();
    assert!(path.ends_with(".log"), "{}", trace[failed]);
    let same = |line: &&String| path_of(line) == path && line.contains("fdatasync");
    let again: Vec<&String> = trace[failed + 1..].iter().filter(same).collect();
    assert!(again.is_empty(), "{path} was synced again: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_unknown_and_the_partition_goes_on_by_itself_in_a_fresh_segment() {
    let broker = one_io_thread();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    client.publish("orders", Record::new("before")).await.expect("a receipt");
    let partition = async || client.topics().describe("orders").await.expect("a description").partitions.remove(0);
    let before = partition().await;
    let mut raw = Raw::connect(&broker.url()).await;

    let fault = Fault::inject(broker.pid(), "fdatasync,pwritev,pwrite64", &["fdatasync:error=EIO:when=1"]);
    let unknown = within("an answer", raw.publish(raw::publish_records("orders", vec![raw::record("lost?")]))).await;
    let unknown = Refusal::of(unknown).expect(Code::Unknown, "OUTCOME_UNKNOWN");
    assert!(unknown.message.contains("retry"), "{}", unknown.message);

    let request = raw::publish_records("orders", vec![raw::record("after")]);
    let ack = eventually("the partition takes writes again", async || raw.clone().publish(request.clone()).await.ok());
    let ack = ack.await;
    let after = partition().await;
    assert!(ack.epoch > before.epoch && after.segments > before.segments, "{before:?}, then {after:?}");
    assert_eq!(after.failure, None);

    // The file whose sync failed is never synced again as if nothing had happened, whatever the call would have said.
    assert_not_synced_again(&fault.trace(), "EIO");
    drop(fault);

    let values = |events: Vec<aqueduct_client::Event>| -> Vec<String> {
        events.iter().map(|event| aqueduct_tests::text(event).to_owned()).collect()
    };
    let shown = values(read_all(&client, "orders").await);
    assert_eq!(shown, ["before", "after"], "what was neither acknowledged nor visible is cut");
    let broker = broker.kill_and_restart();
    assert_eq!(values(read_all(&broker.client().await, "orders").await), shown, "and stays so");
}

/// Records large enough for rolls. Every injection hits at least once before the disk is well again.
async fn idempotent_producer_through(injections: &[&str]) {
    let broker = one_io_thread();
    let client = broker.client().await;
    client.topics().create("orders").partitions(2).segment_bytes(64 * 1024).build().await.expect("a new topic");
    let producer = client.producer("orders").build().await.expect("a producer");
    let mut tickets = Vec::new();
    let mut publish = async |count: u32| {
        for _ in 0..count {
            let number = tickets.len().to_string();
            let record = Record::new(format!("{number} {}", "x".repeat(500))).key(number);
            tickets.push(producer.enqueue(record).await.expect("room"));
        }
    };
    publish(500).await;
    producer.flush().await.expect("stored");
    let calls: Vec<&str> = injections.iter().filter_map(|injection| injection.split(':').next()).collect();
    let fault = Fault::inject(broker.pid(), &calls.join(","), injections);
    publish(500).await;
    // In small groups, whatever became of the large ones: only those are written into zeros, which are cut at a roll.
    let hit = async || {
        publish(10).await;
        let trace = fault.trace();
        let injected = |call: &&str| trace.iter().any(|line| line.contains(*call) && line.contains("INJECTED"));
        calls.iter().all(injected).then_some(())
    };
    eventually("the disk has failed", hit).await;
    publish(500).await;
    drop(fault);
    publish(500).await;
    within("the end", producer.flush()).await.expect("no ticket was dropped");
    let mut receipts = Vec::new();
    for ticket in tickets {
        receipts.push(within("a receipt", ticket).await.expect("an idempotent producer finds out"));
    }
    let broker = broker.kill_and_restart();
    let events = read_all(&broker.client().await, "orders").await;
    assert_eq!(events.len(), receipts.len(), "nothing lost, nothing twice");
    for event in events {
        let number = aqueduct_tests::text(&event).split(' ').next().and_then(|number| number.parse().ok());
        let number: usize = number.expect("a number");
        assert_eq!((receipts[number].partition, receipts[number].offset), (event.partition, event.offset));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_comes_through_failing_syncs_without_loss_or_duplicates() {
    idempotent_producer_through(&["fdatasync:error=EIO:when=1+3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_comes_through_failing_writes_without_loss_or_duplicates() {
    idempotent_producer_through(&["pwritev:error=EIO:when=1+4"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_comes_through_failing_syncs_of_directories_without_loss_or_duplicates() {
    idempotent_producer_through(&["fsync:error=EIO:when=1+2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_comes_through_failing_truncations_without_loss_or_duplicates() {
    idempotent_producer_through(&["ftruncate:error=EIO:when=1+2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_comes_through_failing_renames_and_new_files_without_loss_or_duplicates() {
    // A failed sync makes a fresh segment, which is written under another name and renamed.
    let sync = "fdatasync:error=EIO:when=2";
    idempotent_producer_through(&[sync, "rename:error=EIO:when=1+2"]).await;
    idempotent_producer_through(&["openat:error=EMFILE:when=1..3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_comes_through_interrupted_calls_without_loss_or_duplicates() {
    idempotent_producer_through(&["pwritev:error=EINTR:when=1+2", "fdatasync:error=EINTR:when=1+2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_calls_are_made_again_and_nobody_hears_of_it() {
    let broker = one_io_thread();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    let epoch = async || client.topics().describe("orders").await.expect("a description").partitions.remove(0).epoch;
    client.publish("orders", Record::new("first")).await.expect("a receipt");
    let before = epoch().await;
    let injections = ["pwritev:error=EINTR:when=1+2", "fdatasync:error=EINTR:when=1+2"];
    let fault = Fault::inject(broker.pid(), "pwritev,fdatasync", &injections);
    let mut raw = Raw::connect(&broker.url()).await;
    for offset in 1..20 {
        let ack = raw.publish(raw::publish_records("orders", vec![raw::record("x")])).await.expect("a receipt");
        assert_eq!((ack.base_offset, ack.epoch), (offset, before));
    }
    assert!(fault.trace().iter().filter(|line| line.contains("EINTR")).count() > 20);
    drop(fault);
    assert_eq!(epoch().await, before, "the log never failed");
    let broker = broker.kill_and_restart();
    assert_eq!(read_all(&broker.client().await, "orders").await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_sync_that_fails_at_a_roll_is_no_acknowledgement() {
    let broker = one_io_thread();
    let client = broker.client().await;
    client.topics().create("orders").segment_bytes(64 * 1024).build().await.expect("a new topic");
    client.publish("orders", Record::new("first")).await.expect("a receipt");
    let mut raw = Raw::connect(&broker.url()).await;
    let fault = Fault::inject(broker.pid(), "fsync", &["fsync:error=EIO:when=1"]);
    let large = || raw::publish_records("orders", vec![raw::record(vec![b'x'; 20_000])]);
    let mut stored = 1;
    let unknown = loop {
        match within("an answer", raw.publish(large())).await {
            Ok(ack) => assert_eq!(ack.base_offset, stored),
            Err(status) => break status,
        }
        stored += 1;
        assert!(stored < 20, "acknowledged into a segment whose directory entry may be lost");
    };
    Refusal::from(unknown).expect(Code::Unknown, "OUTCOME_UNKNOWN");
    assert!(path_of(&fault.trace()[0]).ends_with("/orders/0"), "{:?}", fault.trace());
    drop(fault);
    let again = async || raw.clone().publish(large()).await.ok();
    let again = eventually("the partition takes writes again", again).await;
    assert_eq!(again.base_offset, stored);
    let broker = broker.kill_and_restart();
    assert_eq!(read_all(&broker.client().await, "orders").await.len() as u64, stored + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_could_not_be_made_is_not_there_and_can_be_made_afterwards() {
    let mut broker = one_io_thread();
    for (round, call) in ["mkdir", "pwritev", "fdatasync", "fsync", "rename"].into_iter().enumerate() {
        for number in 1..=2 {
            let topic = format!("{call}-{number}");
            let client = broker.client().await;
            let fault = Fault::inject(broker.pid(), call, &[&format!("{call}:error=EIO:when={number}")]);
            let made = within("an answer", client.topics().create(&topic).build()).await;
            let injected = fault.trace().iter().any(|line| line.contains("INJECTED"));
            assert_eq!(made.is_err(), injected, "{topic}: {made:?}");
            drop(fault);
            let listed = client.topics().list().await.expect("a list");
            assert_eq!(listed.iter().any(|other| other.name == topic), made.is_ok(), "{topic}: {listed:?}");
            if made.is_err() {
                client.topics().create(&topic).build().await.unwrap_or_else(|error| panic!("{topic}: {error}"));
            }
            client.publish(&topic, Record::new("x")).await.expect("a receipt");
        }
        broker = broker.kill_and_restart();
        let client = broker.client().await;
        let listed = client.topics().list().await.expect("a list");
        assert_eq!(listed.len(), 2 * (round + 1), "{listed:?}");
        for topic in listed {
            assert_eq!(read_all(&client, &topic.name).await.len(), 1, "{}", topic.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_for_good_is_reported_and_recovers_when_it_is_well_again() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    client.publish("orders", Record::new("before")).await.expect("a receipt");
    let fault = Fault::inject(broker.pid(), "fdatasync", &["fdatasync,fsync:error=EIO"]);
    let mut raw = Raw::connect(&broker.url()).await;
    let request = raw::publish_records("orders", vec![raw::record("x")]);
    let refused = eventually("publishing is refused with the reason", async || {
        let refusal = Refusal::of(raw.clone().publish(request.clone()).await);
        (refusal.code == Code::Unavailable).then_some(refusal)
    });
    refused.await.expect(Code::Unavailable, "PARTITION_UNAVAILABLE");
    let failure =
        async || client.topics().describe("orders").await.expect("a description").partitions.remove(0).failure;
    assert!(failure().await.is_some(), "whoever looks is told");
    assert_eq!(raw.fetch("orders", 0, 0).await.expect("reads go on").records.len(), 1);
    drop(fault);
    eventually("publishing works again", async || raw.clone().publish(request.clone()).await.ok()).await;
    assert_eq!(failure().await, None);
    within("a receipt", client.publish("orders", Record::new("after"))).await.expect("a receipt");
    tokio::time::timeout(Duration::from_secs(30), raw.fetch("orders", 0, 0)).await.expect("in time").expect("readable");
}
