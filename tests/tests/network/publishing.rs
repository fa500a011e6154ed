//! Publishers whose answers do not come.

use std::time::Duration;

use aqueduct_client::{Client, Idempotence, PublishError, Record};
use aqueduct_proto::v1::{self, publish_stream_response::Event};
use aqueduct_tests::{BrokerProcess, Flow, Proxy, Raw, Running, eventually, raw, read_all, text, within};

async fn high_watermark(client: &Client) -> u64 {
    client.topics().describe("orders").await.expect("a description").partitions[0].high_watermark
}

async fn with_topic() -> (BrokerProcess, Proxy) {
    let broker = BrokerProcess::start();
    broker.client().await.topics().create("orders").build().await.expect("a new topic");
    let proxy = Proxy::before(broker.port()).await;
    (broker, proxy)
}

async fn stored(broker: &BrokerProcess) -> Vec<String> {
    read_all(&broker.client().await, "orders").await.iter().map(|event| text(event).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_whose_ack_was_lost_gets_its_offset_again_also_after_a_restart() {
    let (broker, proxy) = with_topic().await;
    let client = broker.client().await;
    client.publish("orders", Record::new("somebody else's")).await.expect("a receipt");
    let attempt = || v1::PublishRequest {
        producer: Some(v1::ProducerSequence { id: vec![7; 16].into(), epoch: 0, sequence: 0 }),
        ..raw::publish_records("orders", vec![raw::record("a"), raw::record("b"), raw::record("c")])
    };
    let mut raw = Raw::connect(&proxy.url()).await;
    proxy.to_client(Flow::Lost);
    let mut publisher = raw.clone();
    let unanswered = tokio::spawn(async move { publisher.publish(attempt()).await });
    eventually("it is stored", async || (high_watermark(&client).await == 4).then_some(())).await;
    client.publish("orders", Record::new("somebody else's")).await.expect("a receipt");
    proxy.break_and_heal();
    within("the connection breaks", unanswered).await.expect("no panic").expect_err("the ack was lost");

    let again = raw.publish(attempt()).await.expect("a receipt");
    assert_eq!((again.base_offset, again.record_count, again.duplicate), (1, 3, true));
    let broker = broker.kill_and_restart();
    let again = eventually("the broker is back", async || raw.clone().publish(attempt()).await.ok()).await;
    assert_eq!((again.base_offset, again.record_count, again.duplicate), (1, 3, true));
    assert_eq!(stored(&broker).await, ["somebody else's", "a", "b", "c", "somebody else's"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_finds_out_what_became_of_batches_whose_acks_were_lost() {
    const RECORDS: usize = 600;
    let (broker, proxy) = with_topic().await;
    let client = Client::connect(proxy.url()).await.expect("the broker answers");
    let producer = client.producer("orders").batch_records_max(5).build().await.expect("a producer");
    let mut tickets = Vec::new();
    for number in 0..RECORDS {
        if number % 200 == 100 {
            let direct = broker.client().await;
            let before = high_watermark(&direct).await;
            proxy.to_client(Flow::Lost);
            tickets.push(producer.enqueue(Record::new(number.to_string())).await.expect("room"));
            let stored = async || (high_watermark(&direct).await > before).then_some(());
            eventually("something is stored that nobody hears of", stored).await;
            proxy.break_and_heal();
        } else {
            tickets.push(producer.enqueue(Record::new(number.to_string())).await.expect("room"));
        }
    }
    let mut duplicates = 0;
    for (number, ticket) in tickets.into_iter().enumerate() {
        let receipt = within("a receipt", ticket).await.expect("it finds out");
        assert_eq!(receipt.offset, number as u64, "in order, without loss");
        duplicates += usize::from(receipt.duplicate);
    }
    assert!(duplicates >= 3, "{duplicates}");
    assert_eq!(stored(&broker).await, (0..RECORDS).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_up_says_unknown_and_tried_again_only_if_that_is_safe() {
    for idempotence in [Idempotence::Disabled, Idempotence::Enabled] {
        let (broker, proxy) = with_topic().await;
        let direct = broker.client().await;
        let client = Client::connect(proxy.url()).await.expect("the broker answers");
        let producer = client.producer("orders").idempotence(idempotence).delivery_timeout(Duration::from_secs(2));
        let producer = producer.build().await.expect("a producer");
        producer.publish(Record::new("before")).await.expect("a receipt");

        // Nobody answers until the client gives up.
        proxy.to_client(Flow::Lost);
        let given_up = within("the client gives up", producer.publish(Record::new("unanswered"))).await;
        assert!(matches!(given_up, Err(PublishError::Unknown { partition: 0, .. })), "{given_up:?}");
        assert!(given_up.is_err_and(|error| error.record().is_none()), "a record that may be stored is not given back");
        proxy.break_and_heal();

        // The connection breaks after the record is stored.
        let before = high_watermark(&direct).await;
        let after = eventually("publishing works again", async || producer.publish(Record::new("between")).await.ok());
        let between = after.await.offset;
        assert!(between >= before, "{between} {before}");
        proxy.to_client(Flow::Lost);
        let ticket = producer.enqueue(Record::new("broken")).await.expect("room");
        let stored_now = async || (high_watermark(&direct).await > between + 1).then_some(());
        eventually("it is stored", stored_now).await;
        proxy.break_and_heal();
        let outcome = within("an outcome", ticket).await;
        match idempotence {
            Idempotence::Enabled => assert!(outcome.expect("it finds out").duplicate),
            Idempotence::Disabled => assert!(matches!(outcome, Err(PublishError::Unknown { .. })), "{outcome:?}"),
        }
        let last = eventually("publishing works", async || producer.publish(Record::new("last")).await.ok()).await;
        let stored = stored(&broker).await;
        assert_eq!(stored.len() as u64, last.offset + 1);
        for value in ["unanswered", "broken"] {
            let times = stored.iter().filter(|stored| *stored == value).count();
            assert_eq!(times, 1, "{value}, {idempotence:?}: {stored:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_unknown_and_which_line_was_the_last_durable_one() {
    let (broker, proxy) = with_topic().await;
    let url = proxy.url();
    let mut publish = Running::start(Some(&url), &["publish", "orders", "--output", "json", "--timeout", "2s"]);
    publish.feed(b"one\n");
    eventually("the first receipt", async || (publish.lines() == 1).then_some(())).await;
    proxy.to_client(Flow::Lost);
    publish.feed(b"two\n");
    publish.end_input();
    let output = tokio::task::spawn_blocking(|| publish.finish()).await.expect("it ends");
    assert_eq!(output.json_lines().len(), 1);
    output.failure(6, &["last durable input line: 1;", "unknown"]);
    assert_eq!(stored(&broker).await, ["one", "two"], "unknown is neither stored nor lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_stream_cut_at_any_byte_leaves_whole_batches_or_nothing() {
    const RECORDS: usize = 7;
    const CUTS: usize = 40;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (broker, proxy) = with_topic().await;
    let mut answered = Vec::new();
    for cut in 0..CUTS {
        let mut raw = Raw::connect(&proxy.url()).await;
        let request = |number: u64| {
            let record = |index: usize| raw::record(format!("{cut} {number} {index} {}", "x".repeat(100)));
            let batch = raw::batch((0..RECORDS).map(record).collect());
            v1::PublishRequest { request_id: number, ..raw::publish_batch("orders", batch) }
        };
        let requests: Vec<v1::PublishRequest> = (0..60).map(request).collect();
        proxy.to_broker(Flow::CutAfter(random.u64(1..50_000)));
        let mut acks = 0;
        if let Ok(answers) = within("an answer", raw.log.publish_stream(futures_util::stream::iter(requests))).await {
            let mut answers = answers.into_inner();
            while let Ok(Some(answer)) = within("the stream breaks", answers.message()).await {
                acks += u64::from(matches!(answer.event, Some(Event::Outcome(_))));
            }
        }
        answered.push(acks);
        proxy.break_and_heal();
    }
    let stored = stored(&broker).await;
    // Of each connection: its first batches, each whole.
    let mut batches = vec![0; CUTS];
    for batch in stored.chunks(RECORDS) {
        let words: Vec<&str> = batch[0].split(' ').collect();
        let cut: usize = words[0].parse().expect("a number");
        for (index, value) in batch.iter().enumerate() {
            assert!(value.starts_with(&format!("{cut} {} {index} ", batches[cut])), "{value} is out of place");
        }
        batches[cut] += 1;
    }
    assert_eq!(stored.len() % RECORDS, 0);
    assert!(batches.iter().zip(&answered).all(|(stored, acked)| stored >= acked), "{batches:?} {answered:?}");
    println!(
        "{} batches of {CUTS} connections, {} of them acknowledged",
        stored.len() / RECORDS,
        answered.iter().sum::<u64>()
    );
}
