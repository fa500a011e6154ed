//! Brokers that end, kindly or not, while programs publish and consume: what they had promised holds afterwards.

mod load;
mod oracle;

use aqueduct_client::{Record, Start};
use aqueduct_proto::v1;
use aqueduct_tests::{BrokerProcess, Fault, Raw, eventually, raw, read_all, text, within};
use futures_util::StreamExt as _;
use load::Load;

/// Records between two kills.
const ROUND_RECORDS: std::ops::Range<u64> = 300..3000;

async fn kill_under_load(seed: u64, rounds: usize) {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut broker = BrokerProcess::start();
    let load = Load::start(&broker, random.u64(..)).await;
    for round in 0..rounds {
        load.stored_more(random.u64(ROUND_RECORDS)).await;
        let before = load.promises();
        let stopped = broker.kill();
        broker = stopped.restart();
        oracle::check_committed(&broker, &before, round).await;
    }
    load.stored_more(1000).await;
    let witnessed = load.finish().await;
    oracle::check(&broker.client().await, &witnessed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_again_and_again_under_load_keeps_every_promise() {
    kill_under_load(1, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_at_other_moments_keeps_every_promise() {
    kill_under_load(fastrand::u64(..), 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_drains_and_exits_with_zero() {
    let mut broker = BrokerProcess::start();
    let load = Load::start(&broker, 7).await;
    for round in 0..3 {
        load.stored_more(500).await;
        let before = load.promises();
        let (status, stopped) = broker.terminate();
        assert_eq!(status.code(), Some(0), "round {round}");
        broker = stopped.restart();
        oracle::check_committed(&broker, &before, round).await;
    }
    load.stored_more(500).await;
    let witnessed = load.finish().await;
    oracle::check(&broker.client().await, &witnessed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_what_is_in_flight_before_it_exits_with_zero() {
    const REQUESTS: u64 = 10;
    let mut broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    client.publish("orders", Record::new("before")).await.expect("a receipt");
    drop(client);
    let injections = ["fdatasync:delay_enter=300000"];
    let slow_disk = Fault::inject(broker.pid(), "pwritev,fdatasync", &injections);
    let mut raw = Raw::connect(&broker.url()).await;
    let request =
        |request_id| v1::PublishRequest { request_id, ..raw::publish_records("orders", vec![raw::record("x")]) };
    // The client does not end its stream: it would send more.
    let requests = futures_util::stream::iter((1..=REQUESTS).map(request)).chain(futures_util::stream::pending());
    let mut answers = raw.log.publish_stream(requests).await.expect("a stream").into_inner();
    // Written, and about to be synced, which takes its time.
    let written = async || slow_disk.trace().iter().any(|line| line.contains("pwritev")).then_some(());
    eventually("they are on their way to the disk", written).await;
    broker.send_sigterm();

    let mut answered = 0;
    while let Ok(Some(answer)) = within("an answer", answers.message()).await {
        let Some(v1::publish_stream_response::Event::Outcome(outcome)) = answer.event else { continue };
        assert!(matches!(outcome.outcome, Some(v1::outcome::Outcome::Response(_))), "{outcome:?}");
        answered += 1;
    }
    assert_eq!(answered, REQUESTS, "what was in flight is finished");
    let status = eventually("the broker ends", async || broker.ended()).await;
    assert_eq!(status.code(), Some(0));
    assert!(!broker.log().contains("still connected"), "it waited for nobody in vain:\n{}", broker.log());
    drop(slow_disk);
    let broker = broker.kill().restart();
    assert_eq!(read_all(&broker.client().await, "orders").await.len() as u64, REQUESTS + 1);
}

/// How a broker ends between two attempts.
#[derive(Clone, Copy)]
enum Ending {
    Sigkill,
    Sigterm,
}

async fn retry_across(ending: Ending) {
    let mut broker = BrokerProcess::start();
    broker.client().await.topics().create("orders").build().await.expect("a new topic");
    let attempt = |sequence: u64, count: usize| v1::PublishRequest {
        producer: Some(v1::ProducerSequence { id: vec![9; 16].into(), epoch: 0, sequence }),
        ..raw::publish_records("orders", vec![raw::record("x"); count])
    };
    let mut client = Raw::connect(&broker.url()).await;
    let mut originals = Vec::new();
    for (sequence, count) in [(0, 3), (3, 1), (4, 5)] {
        let ack = client.publish(attempt(sequence, count)).await.expect("a receipt");
        assert!(!ack.duplicate);
        originals.push((sequence, count, ack));
        // Somebody else's records lie between.
        client.publish(raw::publish_records("orders", vec![raw::record("other")])).await.expect("a receipt");
    }
    for round in 0..2 {
        broker = match ending {
            Ending::Sigkill => broker.kill_and_restart(),
            Ending::Sigterm => broker.terminate().1.restart(),
        };
        let mut client = Raw::connect(&broker.url()).await;
        for (sequence, count, original) in &originals {
            let again = client.publish(attempt(*sequence, *count)).await.expect("a receipt");
            assert!(again.duplicate, "round {round}, sequence {sequence}");
            assert_eq!(
                (again.base_offset, again.record_count, again.append_time_us),
                (original.base_offset, original.record_count, original.append_time_us),
                "round {round}, sequence {sequence}"
            );
        }
        let gap = client.publish(attempt(11, 1)).await.expect_err("sequences 9 and 10 are missing");
        aqueduct_tests::Refusal::from(gap).expect(tonic::Code::FailedPrecondition, "SEQUENCE_GAP");
    }
    let mut client = Raw::connect(&broker.url()).await;
    let next = client.publish(attempt(9, 1)).await.expect("a receipt");
    assert_eq!((next.base_offset, next.duplicate), (12, false));
    assert_eq!(read_all(&broker.client().await, "orders").await.len(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_kill_is_answered_with_the_original_offset() {
    retry_across(Ending::Sigkill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_clean_restart_is_answered_with_the_original_offset() {
    retry_across(Ending::Sigterm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_epoch_of_a_producer_stays_fenced_after_a_kill() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    let old = client.producer("orders").name("importer").build().await.expect("a producer");
    old.publish(Record::new("old")).await.expect("a receipt");
    let new = client.producer("orders").name("importer").build().await.expect("a newer one");
    let broker = broker.kill_and_restart();
    let refused = within("the answer", old.publish(Record::new("zombie"))).await;
    aqueduct_tests::Refusal::of(refused).expect(tonic::Code::FailedPrecondition, "PRODUCER_FENCED");
    within("the answer", new.publish(Record::new("new"))).await.expect("a receipt");
    let newest = broker.client().await.producer("orders").name("importer").build().await.expect("the newest one");
    newest.publish(Record::new("newest")).await.expect("a receipt");
    let events = read_all(&broker.client().await, "orders").await;
    assert_eq!(events.iter().map(text).collect::<Vec<_>>(), ["old", "new", "newest"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_and_groups_made_and_deleted_before_a_kill_stay_so() {
    let mut broker = BrokerProcess::start();
    for round in 0..3 {
        let client = broker.client().await;
        let made = client.topics().create(format!("t{round}")).partitions(2).build().await.expect("a new topic");
        client.publish(&made.name, Record::new("x")).await.expect("a receipt");
        client.group(format!("g{round}")).create(aqueduct_client::GroupPolicy::default()).await.expect("a new group");
        if round > 0 {
            client.topics().delete(&format!("t{}", round - 1)).await.expect("deleted");
            client.group(format!("g{}", round - 1)).delete().await.expect("deleted");
        }
        broker = broker.kill_and_restart();
        let client = broker.client().await;
        assert_eq!(client.topics().list().await.expect("a list"), std::slice::from_ref(&made));
        let groups = client.groups().list().await.expect("a list");
        assert_eq!(groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>(), [format!("g{round}")]);
        assert_eq!(read_all(&client, &made.name).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncation_before_a_kill_is_not_undone() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("numbers").build().await.expect("a new topic");
    client.publish_many("numbers", (0..10).map(|n: u32| Record::new(n.to_string()))).await.expect("receipts");
    client.topics().truncate("numbers", 0, 10).await.expect("truncated");
    let broker = broker.kill_and_restart();
    let client = broker.client().await;
    let partition = client.topics().describe("numbers").await.expect("a description").partitions.remove(0);
    assert_eq!((partition.log_start, partition.high_watermark), (10, 10));
    assert_eq!(client.publish("numbers", Record::new("next")).await.expect("a receipt").offset, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_waits_for_the_broker_to_come_back() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("news").build().await.expect("a new topic");
    client.publish("news", Record::new("before")).await.expect("a receipt");
    let mut reader = client.subscribe("news").from(Start::Earliest).build().await.expect("a subscription");
    assert_eq!(text(&within("an event", reader.next()).await.expect("no end").expect("an event")), "before");
    let stopped = broker.kill();
    let error = eventually("the client notices", async || client.topics().list().await.err()).await;
    assert!(error.broker().is_none(), "{error}");
    let _broker = stopped.restart();
    let publish =
        eventually("publishing works again", async || client.publish("news", Record::new("after")).await.ok());
    let receipt = publish.await;
    assert_eq!(receipt.offset, 1);
    let event = within("the event after", reader.next()).await.expect("no end").expect("an event");
    assert_eq!((event.offset, text(&event)), (1, "after"));
    assert!(reader.stats().reconnects >= 1);
}
