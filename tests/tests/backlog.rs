//! Publishers bound to a group, on real broker processes: from the command line, across a kill, and at full speed.

use std::time::Duration;

use aqueduct::testing::TestBroker;
use aqueduct_client::{Backlog, Client, GroupPolicy, Record};
use aqueduct_tests::{
    BrokerProcess, Output, Raw, Refusal, Running, aqueduct, aqueduct_with_input, eventually, raw, until, within,
};
use tonic::Code;

async fn group(client: &Client) {
    client.group("billing").create(GroupPolicy::default()).await.expect("a new group");
}

/// Who holds publishers of `orders`.
async fn holds(client: &Client) -> Vec<aqueduct_client::PublisherHold> {
    client.topics().describe("orders").await.expect("a description").holds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_binds_a_topic_and_shows_who_holds_whom() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    let run = |words: &[&str]| aqueduct(Some(&url), words).success();
    let json = |output: Output| output.json_lines().remove(0);
    let bound =
        ["--backlog-group", "billing", "--backlog-records", "3", "--backlog-bytes", "1GiB", "--backlog-age", "1h"];
    let created = run(&[&["topic", "create", "orders", "--backlog", "reject"], &bound[..]].concat());
    let sentence = "reject publishers while billing is 3 records or 1 GiB or 1h behind";
    assert!(created.stderr.contains(sentence), "{}", created.stderr);
    let described = run(&["topic", "describe", "orders"]).stdout;
    assert!(described.contains(&format!("{sentence} (there is no such group now: nobody is held)")), "{described}");
    run(&["group", "create", "billing"]);
    let client = broker.client().await;
    let known = async || {
        let described = client.topics().describe("orders").await.expect("a description");
        (!described.backlog_group_unknown).then_some(())
    };
    eventually("the group is seen", known).await;

    let published = aqueduct_with_input(Some(&url), &["publish", "orders"], b"1\n2\n3\n");
    published.success();
    let refused = aqueduct_with_input(Some(&url), &["publish", "orders"], b"4\n");
    refused.failure(
        5,
        &["billing", "3 records (bound 3)", "GROUP_BACKLOG", "start more members of that group", "topic alter"],
    );
    let shown = run(&["topic", "describe", "orders"]).stdout;
    let held = "publishers of orders are held since ";
    assert!(shown.contains(held) && shown.contains("aqueduct topic alter orders --backlog"), "{shown}");
    let of_topic = json(run(&["topic", "describe", "orders", "--output", "json"]));
    assert_eq!(of_topic["backlog"]["mode"], "reject");
    assert_eq!(
        (&of_topic["backlog"]["group"], &of_topic["backlog"]["max_records"], &of_topic["backlog"]["max_seconds"]),
        (&"billing".into(), &3.into(), &3600.0.into())
    );
    assert_eq!((&of_topic["holds"][0]["group"], &of_topic["holds"][0]["lag_records"]), (&"billing".into(), &3.into()));
    let shown = run(&["group", "describe", "billing"]).stdout;
    assert!(shown.contains(held), "{shown}");
    let of_group = json(run(&["group", "describe", "billing", "--output", "json"]));
    assert_eq!(of_group["holds"], of_topic["holds"]);

    // Waiting is said, and with what helps.
    run(&[&["topic", "alter", "orders", "--backlog", "hold"], &bound[..]].concat());
    let mut waiting = Running::start(Some(&url), &["publish", "orders"]);
    waiting.feed(b"4\n");
    waiting.end_input();
    let said = until("it says who holds it", || Some(waiting.said()).filter(|said| said.contains("waiting: held by")));
    assert!(said.contains("group \"billing\"") && said.contains("start more members"), "{said}");
    assert_eq!(holds(&client).await[0].waiting, 1);
    let taken = run(&["subscribe", "orders", "--group", "billing", "--count", "3"]).stdout;
    assert_eq!(taken, "1\n2\n3\n");
    waiting.finish().success();
    let lag = json(run(&["lag", "billing", "--output", "json"]));
    assert_eq!((&lag["lag_records"], &lag["holds_publishers_since_us"]), (&1.into(), &serde_json::Value::Null));

    run(&["topic", "alter", "orders", "--backlog", "none"]);
    let many = aqueduct_with_input(Some(&url), &["publish", "orders"], b"5\n6\n7\n8\n9\n");
    many.success();
    assert!(run(&["lag"]).stdout.contains('6'));
}

#[test]
fn flags_that_make_no_sense_together_are_usage_errors() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    let refused = |flags: &[&str], words: &[&str]| {
        aqueduct(Some(&url), &[&["topic", "create", "orders"], flags].concat()).failure(2, words);
    };
    refused(&["--backlog", "hold"], &["--backlog-group"]);
    refused(&["--backlog", "hold", "--backlog-group", "billing"], &["--backlog-records", "--backlog-age"]);
    refused(&["--backlog-group", "billing"], &["--backlog <"]);
    refused(&["--backlog", "halt", "--backlog-group", "billing"], &["halt"]);
    refused(&["--backlog", "none", "--backlog-records", "1"], &["none takes neither"]);
    refused(&["--backlog", "hold", "--backlog-group", "billing", "--backlog-records", "0"], &["max_records"]);
    refused(&["--backlog", "hold", "--backlog-group", "a~b", "--backlog-records", "1"], &["backlog.group"]);
    assert!(aqueduct(Some(&url), &["topic", "list"]).success().stderr.contains("there are no topics"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_held_is_held_again_before_it_takes_anything() {
    let mut broker = BrokerProcess::start();
    let client = broker.client().await;
    group(&client).await;
    let backlog = Backlog::hold("billing").records(5);
    client.topics().create("orders").backlog(backlog.clone()).build().await.expect("a new topic");
    for _ in 0..5 {
        within("a receipt", client.publish("orders", Record::new("x"))).await.expect("a receipt");
    }
    for _ in 0..2 {
        broker = broker.kill_and_restart();
        let mut raw = Raw::connect(&broker.url()).await;
        // Everybody at once, and nobody gets in. They have waited for as long as they could.
        let calls = (0..20).map(|_| {
            let mut raw = raw.clone();
            async move {
                let mut request = tonic::Request::new(raw::publish_records("orders", vec![raw::record("late")]));
                request.set_timeout(Duration::from_secs(2));
                raw.log.publish(request).await
            }
        });
        for answer in within("answers", futures_util::future::join_all(calls)).await {
            let refusal = Refusal::of(answer).expect(Code::ResourceExhausted, "GROUP_BACKLOG");
            assert_eq!((refusal.fact("lag_records"), refusal.fact("bound_records")), ("5", "5"));
        }
        let high_watermark = raw.fetch("orders", 0, 0).await.expect("an answer").high_watermark;
        assert_eq!(high_watermark, 5);
    }
    let client = broker.client().await;
    let kept = client.topics().describe("orders").await.expect("a description").topic.config.backlog;
    assert_eq!(kept, Some(backlog));
    client.group("billing").delete().await.expect("deleted");
    within("a receipt", client.publish("orders", Record::new("x"))).await.expect("nobody holds it");
}

/// Streams and calls of several connections at full speed: the group reads nothing for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_full_speed_no_more_than_a_batch_is_stored_beyond_the_bound() {
    const BOUND: u64 = 2_000;
    const BATCH: u32 = 50;
    const PUBLISHERS: u64 = 6;
    const RECORDS: u64 = 3_000;
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    group(&client).await;
    let backlog = Backlog::hold("billing").records(BOUND);
    client.topics().create("orders").partitions(3).backlog(backlog).build().await.expect("a new topic");
    let mut publishing = Vec::new();
    for _ in 0..PUBLISHERS {
        let client = broker.client().await;
        publishing.push(tokio::spawn(async move {
            let producer = client.producer("orders").batch_records_max(BATCH).build().await.expect("a producer");
            let records = (0..RECORDS).map(|number| Record::new(number.to_string()).key(number.to_string()));
            producer.publish_all(records).await.expect("receipts").iter().map(|range| u64::from(range.records)).sum()
        }));
    }
    let held = async || holds(&client).await.pop().filter(|hold| u64::from(hold.waiting) == PUBLISHERS);
    let hold = eventually("everybody waits", held).await;
    let behind = hold.group.expect("a group").records;
    assert!((BOUND..BOUND + u64::from(BATCH)).contains(&behind), "{behind} records behind");

    let worker = broker.client().await;
    let mut consumer = worker.consumer("orders", "billing").build().await.expect("a consumer");
    let mut seen = 0;
    while seen < PUBLISHERS * RECORDS {
        within("a delivery", consumer.next()).await.expect("it goes on").expect("a delivery").ack();
        seen += 1;
    }
    let stored: u64 = within("everything is stored", futures_util::future::join_all(publishing))
        .await
        .into_iter()
        .map(|stored: Result<u64, _>| stored.expect("it does not fail"))
        .sum();
    assert_eq!(stored, PUBLISHERS * RECORDS);

    // However often they were held on the way.
    let log = broker.log();
    let holds = log.lines().filter_map(|line| line.split_once("\"orders\" by ")?.1.split_once(" records"));
    let behind: Vec<u64> =
        holds.map(|(behind, _)| behind.replace(',', "").parse().expect("a number of records")).collect();
    println!("held at {behind:?}");
    assert!(!behind.is_empty());
    for behind in behind {
        assert!((BOUND..BOUND + u64::from(BATCH)).contains(&behind), "{behind} records behind");
    }
}

#[tokio::test]
async fn an_age_is_reached_although_nobody_publishes_any_more() {
    let broker = TestBroker::start().await.expect("a broker");
    let (client, worker) = (broker.client(), broker.client());
    group(&client).await;
    let hour = Duration::from_secs(3600);
    client.topics().create("orders").backlog(Backlog::reject("billing").age(hour)).build().await.expect("a new topic");
    client.publish("orders", Record::new("old")).await.expect("a receipt");
    broker.advance(hour / 2);
    client.publish("orders", Record::new("younger")).await.expect("a receipt");
    broker.advance(hour / 2);
    let hold = eventually("the first one is an hour old", async || holds(&client).await.pop()).await;
    assert!(hold.group.is_some_and(|group| group.records == 2 && group.age >= hour));
    let refused = client.publish("orders", Record::new("too late")).await;
    Refusal::of(refused).expect(Code::ResourceExhausted, "GROUP_BACKLOG");

    let mut consumer = worker.consumer("orders", "billing").build().await.expect("a consumer");
    let first = within("a delivery", consumer.next()).await.expect("it goes on").expect("a delivery");
    first.ack_durable().await.expect("durable");
    eventually("the second one is half an hour old", async || holds(&client).await.is_empty().then_some(())).await;
    client.publish("orders", Record::new("in time")).await.expect("a receipt");
}

#[tokio::test]
async fn what_retention_takes_holds_nobody_any_more() {
    let broker = TestBroker::start().await.expect("a broker");
    let client = broker.client();
    group(&client).await;
    client.topics().create("orders").backlog(Backlog::hold("billing").records(2)).build().await.expect("a new topic");
    let producer = client.producer("orders").build().await.expect("a producer");
    for _ in 0..2 {
        producer.publish(Record::new("x")).await.expect("a receipt");
    }
    let late = producer.enqueue(Record::new("late")).await.expect("room");
    eventually("it is held", async || producer.hold()).await;
    client.topics().truncate("orders", 0, 2).await.expect("truncated");
    within("the receipt", late).await.expect("a receipt");
}

#[tokio::test]
async fn topics_of_the_broker_take_no_backlog() {
    let broker = TestBroker::start().await.expect("a broker");
    let client = broker.client();
    client.topics().create("orders").build().await.expect("a new topic");
    client.publish("orders", Record::new("x")).await.expect("a receipt");
    let mut consumer = client.consumer("orders", "billing").build().await.expect("a consumer");
    let delivery = within("a delivery", consumer.next()).await.expect("it goes on").expect("a delivery");
    delivery.park_durable("no route").await.expect("parked");
    let letters = aqueduct_client::dead_letter_topic("orders", "billing");
    let altered = client.topics().alter(&letters).backlog(Some(Backlog::hold("billing").records(1))).build().await;
    Refusal::of(altered).expect(Code::InvalidArgument, "INVALID_CONFIG");
}
