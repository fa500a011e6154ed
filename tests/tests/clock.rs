//! Wall clocks that jump: the broker lives under libfaketime, which changes the wall clock alone.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aqueduct_client::{Client, Due, Record};
use aqueduct_proto::v1;
use aqueduct_tests::{BrokerProcess, Launch, Raw, by_partition, eventually, free_port, raw, read_all, text, within};
use tempfile::TempDir;

const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// A broker, and the file that says how far its wall clock is off.
struct Clocked {
    broker: BrokerProcess,
    directory: Arc<TempDir>,
}

fn offset_file(directory: &Path) -> PathBuf {
    directory.join("clock")
}

/// Replaced as a whole: the broker reads it all the time.
fn set_clock(directory: &Path, offset: &str) {
    let new = directory.join("clock.new");
    fs::write(&new, offset).expect("written");
    fs::rename(new, offset_file(directory)).expect("renamed");
}

/// # Panics
/// If it is not installed: these tests are not to be passed over in silence.
fn libfaketime() -> PathBuf {
    let in_faketime = |library: &Path| library.join("faketime/libfaketimeMT.so.1");
    let libraries =
        fs::read_dir("/usr/lib").expect("/usr/lib").map(|entry| in_faketime(&entry.expect("an entry").path()));
    let found = libraries.chain([in_faketime(Path::new("/usr/lib"))]).find(|path| path.exists());
    found.expect("libfaketime is needed to let clocks jump: install the package `faketime`")
}

impl Clocked {
    fn start() -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        set_clock(directory.path(), "+0");
        let text = |path: &OsStr| path.to_str().expect("a path").to_owned();
        let env = [
            ("LD_PRELOAD", text(libfaketime().as_os_str())),
            ("FAKETIME_TIMESTAMP_FILE", text(offset_file(directory.path()).as_os_str())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let launch = Launch {
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            ..Launch::with_args(&["--set", "retention_interval=100ms"])
        };
        let broker = BrokerProcess::launch_in(Arc::clone(&directory), launch, free_port());
        Self { broker, directory }
    }

    fn jump(&self, offset: &str) {
        set_clock(self.directory.path(), offset);
    }

    fn kill_and_restart(self) -> Self {
        Self { broker: self.broker.kill_and_restart(), ..self }
    }

    async fn client(&self) -> Client {
        self.broker.client().await
    }
}

/// Topics that keep their events for an hour, and for a second.
async fn make_topics(client: &Client) {
    for (topic, age) in [("orders", Duration::from_secs(3600)), ("ticks", Duration::from_secs(1))] {
        let topic = client.topics().create(topic).retention_age(age).segment_bytes(64 * 1024);
        topic.build().await.expect("a new topic");
    }
}

/// Several segments more.
async fn publish(client: &Client, topic: &str, from: u64) -> u64 {
    let producer = client.producer(topic).build().await.expect("a producer");
    for number in from..from + 30 {
        let receipt = producer.publish(Record::new(format!("{number} {}", "x".repeat(8_000)))).await;
        assert_eq!(receipt.expect("a receipt").offset, number);
    }
    from + 30
}

/// Waits until retention has passed over all topics, and has removed what was more than a second old by any honest clock.
async fn retention_passes(client: &Client) {
    let log_start = async || {
        let described = client.topics().describe("ticks").await.expect("a description");
        described.partitions[0].log_start
    };
    let end = {
        let described = client.topics().describe("ticks").await.expect("a description");
        publish(client, "ticks", described.partitions[0].high_watermark).await
    };
    // All but the segment that is being written.
    eventually("old events go", async || (log_start().await + 10 >= end).then_some(())).await;
}

/// Everything is there, in order, with times that do not go back; gives the time of the last one.
async fn assert_all_there(client: &Client, count: u64) -> i64 {
    let mut log = by_partition(read_all(client, "orders").await);
    let events = log.remove(&0).expect("events");
    assert_eq!(events.len() as u64, count, "nothing expires early");
    for (number, event) in (0..).zip(&events) {
        assert_eq!(event.offset, number);
        assert!(text(event).starts_with(&format!("{number} ")));
    }
    assert!(events.is_sorted_by_key(|event| event.append_time), "append times go back");
    events.last().expect("events").append_time.as_micros()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_under_a_running_broker_expires_nothing_and_takes_no_lease_away() {
    let clocked = Clocked::start();
    let client = clocked.client().await;
    make_topics(&client).await;
    let mut count = publish(&client, "orders", 0).await;
    let before = assert_all_there(&client, count).await;
    let mut member = client.consumer("orders", "billing").build().await.expect("a member");
    let first = within("a delivery", member.next()).await.expect("no end").expect("a delivery");

    clocked.jump("+400d");
    count = publish(&client, "orders", count).await;
    let in_the_future = assert_all_there(&client, count).await;
    assert!(in_the_future > before + 399 * DAY_US, "the clock did not jump: this test tests nothing");
    retention_passes(&client).await;
    assert_all_there(&client, count).await;
    assert_eq!(first.attempt(), 1);
    first.ack_durable().await.expect("the delivery is still its member's");

    clocked.jump("-400d");
    count = publish(&client, "orders", count).await;
    retention_passes(&client).await;
    assert_eq!(assert_all_there(&client, count).await, in_the_future, "time stands still until the clock catches up");
    let mut next = 1;
    while next < count {
        let delivery = within("a delivery", member.next()).await.expect("no end").expect("a delivery");
        assert_eq!((delivery.event().offset, delivery.attempt()), (next, 1), "nothing is delivered twice");
        delivery.ack_durable().await.expect("stored");
        next += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_across_restarts_expires_nothing_and_forgets_no_producer() {
    let mut clocked = Clocked::start();
    let client = clocked.client().await;
    make_topics(&client).await;
    let mut count = publish(&client, "orders", 0).await;
    client.topics().create("payments").build().await.expect("a new topic");
    let attempt = || v1::PublishRequest {
        producer: Some(v1::ProducerSequence { id: vec![5; 16].into(), epoch: 0, sequence: 0 }),
        ..raw::publish_records("payments", vec![raw::record("once")])
    };
    Raw::connect(&clocked.broker.url()).await.publish(attempt()).await.expect("a receipt");
    let mut latest = assert_all_there(&client, count).await;
    for offset in ["+400d", "-400d", "+30d", "+0"] {
        clocked.jump(offset);
        clocked = clocked.kill_and_restart();
        let client = clocked.client().await;
        count = publish(&client, "orders", count).await;
        retention_passes(&client).await;
        let now = assert_all_there(&client, count).await;
        assert!(now >= latest, "{offset}: append times go back");
        latest = now;
        let again = Raw::connect(&clocked.broker.url()).await.publish(attempt()).await.expect("a receipt");
        assert_eq!((again.base_offset, again.duplicate), (0, true), "{offset}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_neither_loses_nor_repeats_what_is_delivered_later() {
    let mut clocked = Clocked::start();
    let mut client = clocked.client().await;
    client.topics().create("reminders").build().await.expect("a new topic");
    let hours = |hours: u64| Due::In(Duration::from_secs(hours * 3600));
    let values = async |client: &Client| {
        let events = read_all(client, "reminders").await;
        events.iter().map(|event| text(event).to_owned()).collect::<Vec<_>>()
    };
    let arrives = async |client: &Client, expected: &[&str]| {
        eventually("what is due", async || (values(client).await.len() >= expected.len()).then_some(())).await;
        assert_eq!(values(client).await, expected);
    };
    client.schedule("reminders", Record::new("a"), hours(1)).await.expect("scheduled");
    client.schedule("reminders", Record::new("d"), hours(60)).await.expect("scheduled");
    clocked.jump("+2h");
    arrives(&client, &["a"]).await;

    client.schedule("reminders", Record::new("c"), hours(1)).await.expect("scheduled");
    clocked.jump("+0");
    // Due between the two, although it is put after them: by a clock that has gone back.
    client.schedule("reminders", Record::new("b"), Due::In(Duration::from_millis(300))).await.expect("scheduled");
    arrives(&client, &["a", "b"]).await;
    clocked = clocked.kill_and_restart();
    client = clocked.client().await;
    arrives(&client, &["a", "b"]).await;
    clocked.jump("+4h");
    arrives(&client, &["a", "b", "c"]).await;
    clocked = clocked.kill_and_restart();
    client = clocked.client().await;
    clocked.jump("+400d");
    arrives(&client, &["a", "b", "c", "d"]).await;
    clocked.jump("+0");
    client.schedule("reminders", Record::new("e"), hours(0)).await.expect("scheduled");
    arrives(&client, &["a", "b", "c", "d", "e"]).await;
}
