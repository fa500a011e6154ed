//! A disk that is too slow, and readers that are: nobody waits without being told, and memory stays bounded.

use std::time::Duration;

use aqueduct_client::{Producer, PublishError, Record, Start};
use aqueduct_proto::v1::{self, publish_stream_response::Event};
use aqueduct_tests::{
    BrokerProcess, Fault, Launch, Raw, Refusal, drain, eventually, raw, read_all, resident_anonymous_bytes, within,
};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

const MIB: u64 = 1 << 20;

/// A broker with room for one MiB on its way to the disk, for each topic.
async fn small_broker() -> BrokerProcess {
    let sets =
        ["--set", "topic_budget_bytes=1MiB", "--set", "connection_budget_bytes=2MiB", "--set", "budget_bytes=4MiB"];
    let broker = BrokerProcess::launch(Launch::with_args(&sets));
    let client = broker.client().await;
    for topic in ["orders", "other"] {
        client.topics().create(topic).build().await.expect("a new topic");
        // Its files exist from here on.
        client.publish(topic, Record::new("first")).await.expect("a receipt");
    }
    broker
}

/// Every sync takes this long.
fn slow_disk(broker: &BrokerProcess, sync_takes: Duration) -> Fault {
    let delay = format!("fdatasync:delay_enter={}", sync_takes.as_micros());
    Fault::inject(broker.pid(), "fdatasync", &[&delay])
}

/// A publish stream without a client around it.
struct Publisher {
    requests: mpsc::Sender<v1::PublishRequest>,
    answers: Streaming<v1::PublishStreamResponse>,
}

impl Publisher {
    async fn open(raw: &mut Raw, buffered: usize) -> Self {
        let (requests, queued) = mpsc::channel(buffered);
        let queued = futures_util::stream::unfold(queued, async |mut queued: mpsc::Receiver<_>| {
            Some((queued.recv().await?, queued))
        });
        let answers = raw.log.publish_stream(queued).await.expect("a stream").into_inner();
        Self { requests, answers }
    }

    async fn next(&mut self) -> Option<Event> {
        within("an answer", self.answers.message()).await.expect("the stream goes on").and_then(|answer| answer.event)
    }
}

/// Requests of 64 KiB each.
fn requests(topic: &str, count: u64) -> Vec<v1::PublishRequest> {
    let records = || vec![raw::record(vec![b'x'; 64 * 1024])];
    (1..=count).map(|request_id| v1::PublishRequest { request_id, ..raw::publish_records(topic, records()) }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_faster_than_the_disk_is_held_and_told_by_whom_and_goes_on() {
    const REQUESTS: u64 = 60;
    let broker = small_broker().await;
    let mut raw = Raw::connect(&broker.url()).await;
    let fault = slow_disk(&broker, Duration::from_millis(300));
    let mut publisher = Publisher::open(&mut raw, usize::try_from(REQUESTS).expect("small")).await;
    for request in requests("orders", REQUESTS) {
        publisher.requests.send(request).await.expect("room here");
    }
    let (mut holds, mut resumes, mut stored) = (Vec::new(), 0, 0);
    while stored < REQUESTS {
        match publisher.next().await.expect("no end") {
            Event::Hold(hold) => holds.push(hold),
            Event::Resume(_) => resumes += 1,
            Event::Outcome(outcome) => {
                assert!(matches!(outcome.outcome, Some(v1::outcome::Outcome::Response(_))), "{outcome:?}");
                stored += 1;
            }
        }
    }
    assert!(!holds.is_empty(), "4 MiB fit into a budget of 1 MiB");
    assert_eq!(resumes, holds.len(), "every hold ends");
    for hold in holds {
        assert_eq!(hold.reason, "TOPIC_BUDGET");
        assert!(hold.culprit.contains("orders") && hold.retry_after_ms > 0, "{hold:?}");
    }
    drop(fault);
    assert_eq!(read_all(&broker.client().await, "orders").await.len() as u64, REQUESTS + 1);
}

/// Fills the budget of `orders`, and waits until the broker says so.
async fn fill(raw: &mut Raw) -> Publisher {
    let mut publisher = Publisher::open(raw, 64).await;
    for request in requests("orders", 40) {
        publisher.requests.send(request).await.expect("room here");
    }
    while !matches!(publisher.next().await.expect("no end"), Event::Hold(_)) {}
    publisher
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unary_call_gets_the_culprit_and_a_retry_time_at_its_deadline() {
    let broker = small_broker().await;
    let mut filler = Raw::connect(&broker.url()).await;
    let mut raw = Raw::connect(&broker.url()).await;
    let fault = slow_disk(&broker, Duration::from_secs(4));
    let publisher = fill(&mut filler).await;

    let mut request = tonic::Request::new(raw::publish_records("orders", vec![raw::record(vec![0; 64 * 1024])]));
    request.set_timeout(Duration::from_secs(1));
    let status = within("the refusal", raw.log.publish(request)).await.expect_err("there is no room");
    let retry = aqueduct_client::BrokerError::from(status.clone()).retry_after;
    assert!(retry.is_some_and(|after| after > Duration::ZERO), "{status:?}");
    let refusal = Refusal::from(status).expect(Code::ResourceExhausted, "TOPIC_BUDGET");
    assert!(refusal.fact("culprit").contains("orders"), "{refusal:?}");

    // Reading needs no room, and what is not durable is not shown.
    let fetched = raw.fetch("orders", 0, 0).await.expect("an answer");
    assert_eq!(fetched.records.len() as u64, fetched.high_watermark);
    drop(fault);
    drop(publisher);
    let again = raw::publish_records("orders", vec![raw::record("again")]);
    eventually("there is room again", async || raw.clone().publish(again.clone()).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_topic_that_is_held_does_not_hold_another() {
    let broker = small_broker().await;
    let mut filler = Raw::connect(&broker.url()).await;
    let fault = slow_disk(&broker, Duration::from_millis(700));
    let _publisher = fill(&mut filler).await;
    let mut raw = Raw::connect(&broker.url()).await;
    let other = raw::publish_records("other", vec![raw::record(vec![0; 64 * 1024])]);
    within("the other topic's receipt", raw.publish(other)).await.expect("a receipt");
    drop(fault);
}

/// Who waits for the budget of `orders`.
async fn waiting(broker: &BrokerProcess) -> u32 {
    let described = broker.client().await.topics().describe("orders").await.expect("a description");
    let of_budget = described.holds.into_iter().find(|hold| hold.reason == "TOPIC_BUDGET");
    of_budget.map_or(0, |hold| {
        assert!(hold.culprit.contains("orders") && hold.since > described.topic.created, "{hold:?}");
        hold.waiting
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_modest_publisher_is_served_between_those_of_a_runaway() {
    const RUNAWAY: u32 = 500;
    // A request of 8 KiB takes twice that of the topic's budget of 1 MiB.
    const ADMITTED_MAX: u64 = 64;
    let broker = BrokerProcess::launch(Launch::with_args(&["--set", "topic_budget_bytes=1MiB"]));
    broker.client().await.topics().create("orders").build().await.expect("a new topic");
    let runaway = Raw::connect(&broker.url()).await;
    let mut modest = Raw::connect(&broker.url()).await;
    async fn publish(raw: &mut Raw) -> u64 {
        let records = raw::publish_records("orders", vec![raw::record(vec![b'x'; 8 * 1024])]);
        let mut request = tonic::Request::new(records);
        request.set_timeout(Duration::from_secs(60));
        let answer = within("an answer", raw.log.publish(request)).await.expect("a receipt").into_inner();
        match &answer.results[0].outcome {
            Some(v1::publish_result::Outcome::Ack(ack)) => ack.base_offset,
            other => panic!("{other:?}"),
        }
    }
    publish(&mut modest).await;
    let fault = slow_disk(&broker, Duration::from_secs(1));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..RUNAWAY {
        let mut raw = runaway.clone();
        calls.spawn(async move { publish(&mut raw).await });
    }
    // Whatever has been stored meanwhile, more than four hundred are before the modest one.
    eventually("the runaway waits", async || (waiting(&broker).await > 400).then_some(())).await;
    let offset = publish(&mut modest).await;
    drop(fault);
    let mut later = 0;
    while let Some(of_runaway) = calls.join_next().await {
        later += u32::from(of_runaway.expect("it does not fail") > offset);
    }
    // What had been admitted, what one sync has let in, and one turn.
    println!("offset {offset}, before {later} of the runaway");
    assert!(offset <= 2 * ADMITTED_MAX + 2 && later > 300, "offset {offset}, before {later} of the runaway");
    assert_eq!(waiting(&broker).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_waits_or_says_who_holds_it() {
    let broker = small_broker().await;
    let client = broker.client().await;
    let producer = client.producer("orders").buffer_bytes_max(4 << 20).build().await.expect("a producer");
    let fault = slow_disk(&broker, Duration::from_millis(500));
    let mut tickets = Vec::new();
    let full: PublishError = eventually("the buffer is full and the holder known", async || {
        loop {
            match producer.try_enqueue(Record::new(vec![b'x'; 64 * 1024])) {
                Ok(ticket) => tickets.push(ticket),
                Err(error @ PublishError::Full { hold: Some(_), .. }) => return Some(error),
                Err(PublishError::Full { hold: None, .. }) => return None,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    assert!(full.culprit().is_some_and(|culprit| culprit.contains("orders")), "{full}");
    assert!(full.retry_after().is_some() && full.record().is_some(), "{full}");
    drop(fault);
    enqueue_and_settle(&producer, tickets).await;
}

/// Waiting for room ends, and everything that was admitted is stored.
async fn enqueue_and_settle(producer: &Producer, tickets: Vec<aqueduct_client::Ticket>) {
    let late = within("room", producer.enqueue(Record::new("late"))).await.expect("room");
    for ticket in tickets.into_iter().chain([late]) {
        within("a receipt", ticket).await.expect("a receipt");
    }
    assert_eq!(producer.hold(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_cost_no_memory_and_hold_nobody_up() {
    const RECORDS: u64 = 3000;
    const RECORD_BYTES: usize = 100_000;
    // A loaded broker may have its budgets and 64 MiB: a fraction of what is published.
    const GROWTH_MAX: u64 = (16 + 4 + 64) * MIB;
    let sets = ["--set", "budget_bytes=16MiB", "--set", "tail_cache_bytes=4MiB"];
    let broker = BrokerProcess::launch(Launch::with_args(&sets));
    let client = broker.client().await;
    client.topics().create("orders").segment_bytes(8 << 20).build().await.expect("a new topic");
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::connect(&broker.url()).await;
        let request = v1::SubscribeRequest { topic: "orders".to_owned(), ..v1::SubscribeRequest::default() };
        // Nobody ever looks at what comes.
        slow.push(raw.log.subscribe(request).await.expect("a subscription"));
    }
    let idle_group = client.consumer("orders", "idle").prefetch_records(1).build().await.expect("a member");
    let before = resident_anonymous_bytes(broker.pid());
    let fast =
        client.subscribe("orders").from(Start::Earliest).until(0, RECORDS).build().await.expect("a subscription");
    let fast = tokio::spawn(async move { drain(fast).await.len() as u64 });
    let producer = client.producer("orders").build().await.expect("a producer");
    let mut most = 0;
    for _ in 0..RECORDS / 50 {
        let stored = producer.publish_all((0..50).map(|_| Record::new(vec![7; RECORD_BYTES])));
        within("receipts", stored).await.expect("receipts");
        most = most.max(resident_anonymous_bytes(broker.pid()));
    }
    assert_eq!(within("the fast reader has everything", fast).await.expect("it does not fail"), RECORDS);
    most = most.max(resident_anonymous_bytes(broker.pid()));
    let grown = most.saturating_sub(before);
    println!("{} MiB more for {} MiB published", grown / MIB, RECORDS * RECORD_BYTES as u64 / MIB);
    assert!(grown < GROWTH_MAX, "{grown} bytes more for readers that do not read");
    drop(idle_group);
    drop(slow);
}
