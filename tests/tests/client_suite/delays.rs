//! Events that are published now and delivered later.

use std::time::Duration;

use aqueduct::testing::TestBroker;
use aqueduct_client::{
    Client, Code, DUE_HEADER, Due, Event, Record, ScheduleError, Start, Timestamp, partition_for_key,
};
use aqueduct_tests::{text, within};

use crate::stage::Stage;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The first `count` events of a topic.
async fn first(client: &Client, topic: &str, count: usize) -> Vec<Event> {
    let mut events = client.subscribe(topic).from(Start::Earliest).build().await.expect("a subscription");
    within("what is due", async {
        let mut found = Vec::new();
        while found.len() < count {
            found.push(events.next().await.expect("it goes on").expect("an event"));
        }
        found
    })
    .await
}

fn due_of(event: &Event) -> i64 {
    text_of(event.header(DUE_HEADER).expect("it tells when it was due")).parse().expect("microseconds")
}

fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

pub(crate) async fn what_is_delivered_later_comes_in_order_of_its_time_and_as_it_was(stage: Stage) {
    stage.topic("reminders", 1).await;
    let mut expected = Vec::new();
    for (number, delay_ms) in [600, 200, 400, 0].into_iter().enumerate() {
        let record = Record::new(number.to_string()).key("k").header("h", "1").header("h", "2");
        let record = record.timestamp(Timestamp::from_micros(7));
        let due = Due::In(Duration::from_millis(delay_ms));
        let scheduled = stage.client.schedule("reminders", record.clone(), due).await.expect("it is scheduled");
        assert_eq!((&*scheduled.topic, scheduled.partition), ("reminders", 0));
        expected.push((scheduled.due.as_micros(), record));
    }
    expected.sort_by_key(|(due_us, _)| *due_us);
    let events = first(&stage.client, "reminders", 4).await;
    for (event, (due_us, record)) in events.iter().zip(expected) {
        assert!(event.append_time.as_micros() >= due_us, "it came early");
        assert_eq!(due_of(event), due_us);
        assert_eq!(event.record, record.header(DUE_HEADER, due_us.to_string()), "the mark comes last");
    }
}

pub(crate) async fn keys_and_partitions_hold_for_what_is_delivered_later(stage: Stage) {
    stage.topic("reminders", 4).await;
    let due = Due::In(Duration::from_millis(100));
    let scheduler = stage.client.scheduler("reminders", due);
    let keys: Vec<String> = (0..20).map(|number| format!("customer-{}", number % 7)).collect();
    let records = keys.iter().enumerate().map(|(number, key)| Record::new(number.to_string()).key(key.clone()));
    let scheduled = scheduler.publish_many(records).await.expect("they are scheduled");
    let to = stage.client.scheduler("reminders", due).partition(3).publish(Record::new("20")).await;
    assert_eq!(to.expect("it is scheduled").partition, 3);
    let mut seen = vec![Vec::new(); 4];
    for event in first(&stage.client, "reminders", 21).await {
        seen[event.partition as usize].push(text(&event).parse::<usize>().expect("a number"));
    }
    for (number, (key, scheduled)) in keys.iter().zip(&scheduled).enumerate() {
        assert_eq!(scheduled.partition, partition_for_key(key.as_bytes(), 4));
        assert!(seen[scheduled.partition as usize].contains(&number));
    }
    assert!(seen.iter().all(|numbers| numbers.is_sorted()), "of one time, they keep their order: {seen:?}");
}

pub(crate) async fn what_is_already_due_comes_at_once(stage: Stage) {
    stage.topic("reminders", 1).await;
    for (value, due) in [
        ("past", Due::At(Timestamp::from_micros(1))),
        ("before the epoch", Due::At(Timestamp::from_micros(-1))),
        ("now", Due::In(Duration::ZERO)),
    ] {
        let scheduled = stage.client.schedule("reminders", Record::new(value), due).await.expect("it is scheduled");
        let events = first(&stage.client, "reminders", 1).await;
        assert_eq!(events.len(), 1);
        drop(scheduled);
    }
    let events = first(&stage.client, "reminders", 3).await;
    let mut values: Vec<&str> = events.iter().map(text).collect();
    values.sort_unstable();
    assert_eq!(values, ["before the epoch", "now", "past"]);
}

pub(crate) async fn absurd_times_and_unknown_topics_are_refused(stage: Stage) {
    stage.topic("reminders", 1).await;
    let schedule = async |topic: &str, due| {
        let error = stage.client.schedule(topic, Record::new("x"), due).await.expect_err("it is refused");
        match error {
            ScheduleError::Rejected(error) => error,
            ScheduleError::Unknown(error) => panic!("{error}"),
        }
    };
    let eleven_years = 11 * 366 * DAY;
    assert_eq!(schedule("reminders", Due::In(eleven_years)).await.code, Code::InvalidArgument);
    assert_eq!(schedule("reminders", Due::In(Duration::MAX)).await.code, Code::InvalidArgument);
    assert_eq!(schedule("reminders", Due::At(Timestamp::from_micros(i64::MAX))).await.code, Code::InvalidArgument);
    assert_eq!(schedule("nowhere", Due::In(DAY)).await.code, Code::NotFound);
    let too_large = Record::new(vec![0; 2 << 20]);
    let error = stage.client.schedule("reminders", too_large, Due::In(DAY)).await.expect_err("it is too large");
    assert!(
        matches!(&error, ScheduleError::Rejected(error) if error.reason.as_deref() == Some("TOO_LARGE")),
        "{error}"
    );
    let beyond = stage.client.scheduler("reminders", Due::In(DAY)).partition(1).publish(Record::new("x")).await;
    assert!(matches!(beyond, Err(ScheduleError::Rejected(error)) if error.code == Code::NotFound));
}

pub(crate) async fn a_topic_made_again_gets_nothing_that_was_scheduled_before(stage: Stage) {
    stage.topic("reminders", 1).await;
    let soon = Due::In(Duration::from_millis(400));
    stage.client.schedule("reminders", Record::new("old"), soon).await.expect("it is scheduled");
    stage.client.topics().delete("reminders").await.expect("it is deleted");
    stage.topic("reminders", 1).await;
    stage.client.schedule("reminders", Record::new("new"), soon).await.expect("it is scheduled");
    let events = first(&stage.client, "reminders", 1).await;
    assert_eq!(text(&events[0]), "new");
}

pub(crate) async fn what_waits_is_counted(stage: Stage) {
    stage.topic("reminders", 1).await;
    let info = stage.client.info().await.expect("what it is");
    assert!(info.features.iter().any(|feature| feature == "delayed_delivery"));
    assert_eq!(info.delayed_records, 0);
    stage.client.schedule("reminders", Record::new("x"), Due::In(30 * DAY)).await.expect("it is scheduled");
    assert_eq!(stage.client.info().await.expect("what it is").delayed_records, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn months_pass_in_a_test_and_across_restarts() {
    let mut broker = TestBroker::start().await.expect("a broker");
    broker.client().topics().create("reminders").build().await.expect("a topic");
    for days in [200, 3, 90, 1, 30] {
        let (client, record) = (broker.client(), Record::new(format!("day {days}")));
        client.schedule("reminders", record, Due::In(days * DAY)).await.expect("it is scheduled");
    }
    let mut passed = 0;
    for (day, count) in [(2, 1), (31, 3), (365, 5)] {
        broker.advance((day - passed) * DAY);
        passed = day;
        let events = first(&broker.client(), "reminders", count).await;
        let expected = ["day 1", "day 3", "day 30", "day 90", "day 200"];
        assert_eq!(events.iter().map(text).collect::<Vec<_>>(), expected[..count]);
        broker = broker.restart().await.expect("it starts again");
    }
    let end = broker.client().fetch("reminders", 0, 0).build().await.expect("what is there").high_watermark;
    assert_eq!(end, 5, "nothing comes twice");
}
