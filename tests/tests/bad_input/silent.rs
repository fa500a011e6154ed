//! Members whose connections stand, and who read nothing, say nothing or settle nothing.

use std::{collections::BTreeSet, time::Duration};

use aqueduct_client::{Client, Record, TakenOutMember, WaitReason};
use aqueduct_proto::v1::{self, consume_request::Event as Ask};
use aqueduct_tests::{BrokerProcess, Raw, aqueduct, eventually, text, within};

use crate::member::{Member, ack};

const MODES: [v1::GroupMode; 3] = [v1::GroupMode::Ordered, v1::GroupMode::Shared, v1::GroupMode::Keyed];
/// Of the connection of a member that does not read: it is full at once.
const WINDOW_BYTES: u32 = 65_535;
const HEARTBEAT: Duration = Duration::from_millis(500);
const RECORDS: usize = 64;

/// What a member does not do.
#[derive(Debug, Clone, Copy)]
enum Omission {
    /// There is more for it than its connection takes, and it reads nothing of that.
    Reading,
    /// All of it is in its connection, which it does not read: nobody can tell that but by what it does not settle.
    Settling,
    /// It does not even say that it is there.
    Heartbeats,
}

impl Omission {
    fn record_bytes(self) -> usize {
        match self {
            Self::Reading => 128 << 10,
            Self::Settling | Self::Heartbeats => 8,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Reading => "MEMBER_NOT_READING",
            Self::Settling => "MEMBER_STUCK",
            Self::Heartbeats => "MEMBER_SILENT",
        }
    }

    /// Within which it is to say something.
    fn heartbeat(self) -> Duration {
        match self {
            Self::Reading | Self::Heartbeats => HEARTBEAT,
            Self::Settling => 20 * HEARTBEAT,
        }
    }

    fn policy(self, mode: v1::GroupMode) -> v1::GroupPolicy {
        let retry = v1::RetryPolicy { backoff_min_ms: 1, backoff_max_ms: 1, ..v1::RetryPolicy::default() };
        let ack_timeout_ms = match self {
            Self::Reading | Self::Heartbeats => 600_000,
            Self::Settling => 700,
        };
        v1::GroupPolicy { mode: mode.into(), ack_timeout_ms, retry: Some(retry), ..v1::GroupPolicy::default() }
    }
}

/// A broker with records in both partitions of `orders`.
async fn with_records(bytes: usize) -> (BrokerProcess, Client) {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").partitions(2).build().await.expect("a new topic");
    for partition in 0..2 {
        let producer = client.producer("orders").partition(partition).build().await.expect("a producer");
        let values = (0..RECORDS).map(|number| format!("{partition}/{number} {}", "x".repeat(bytes)));
        producer.publish_all(values.map(|value| Record::new(value.clone()).key(value))).await.expect("receipts");
    }
    (broker, client)
}

/// Joins as `sleeper`. It gets everything there is, and nobody takes it from the connection.
async fn sleeper(broker: &BrokerProcess, omission: Omission, mode: v1::GroupMode) -> Member {
    let mut raw = Raw::connect_with_window(&broker.url(), WINDOW_BYTES).await;
    let join = v1::Join {
        group: "billing".to_owned(),
        topic: "orders".to_owned(),
        member_name: "sleeper".to_owned(),
        policy: Some(omission.policy(mode)),
        credit: Some(v1::Credit { bytes: u64::MAX, records: u64::MAX }),
        heartbeat_ms: u32::try_from(omission.heartbeat().as_millis()).expect("it is short"),
        ..v1::Join::default()
    };
    let member = Member::join(&mut raw, join).await.expect("a stream");
    match omission {
        Omission::Heartbeats => {}
        Omission::Reading | Omission::Settling => member.go_on_saying_that_it_is_there(HEARTBEAT / 5),
    }
    member
}

/// Handles everything there is, once the sleeper is out of the way.
async fn handle_all(client: &Client) {
    let mut heir = client.consumer("orders", "billing").member_name("heir").build().await.expect("a member");
    let mut seen = BTreeSet::new();
    while seen.len() < 2 * RECORDS {
        let delivery = within("a delivery", heir.next()).await.expect("it goes on").expect("a delivery");
        seen.insert(text(&delivery).split(' ').next().map(str::to_owned));
        delivery.ack();
    }
    let group = client.group("billing");
    let is_through = async || {
        let lag = group.lag("orders").await.expect("a report");
        lag.iter().all(|lag| lag.lag_records == 0).then_some(())
    };
    eventually("the group is through", is_through).await;
    heir.close().await.expect("a clean end");
}

async fn taken_out(client: &Client, name: &str) -> TakenOutMember {
    let group = client.group("billing");
    eventually("it is named", async || {
        let description = group.describe().await.expect("a description");
        description.taken_out.into_iter().find(|member| member.name == name)
    })
    .await
}

async fn is_found(omission: Omission) {
    for mode in MODES {
        let (broker, client) = with_records(omission.record_bytes()).await;
        let sleeper = sleeper(&broker, omission, mode).await;
        eventually("it has records", async || {
            let members = client.group("billing").describe().await.ok()?.members;
            members.iter().any(|member| member.name == "sleeper" && member.open_records > 0).then_some(())
        })
        .await;
        handle_all(&client).await;
        // The heir may have taken all of it after the first time-out: this is for nobody else.
        client.publish("orders", Record::new("late")).await.expect("it is stored");
        let named = taken_out(&client, "sleeper").await;
        assert_eq!((named.reason.as_str(), named.topic.as_str()), (omission.reason(), "orders"), "{mode:?}: {named:?}");
        let description = client.group("billing").describe().await.expect("a description");
        assert_eq!(description.failed.len(), 0, "{mode:?}: {:?}", description.failed);
        let described = aqueduct(Some(&broker.url()), &["group", "describe", "billing"]).success().stdout;
        assert!(described.contains("sleeper (orders) was taken out at 2"), "{described}");
        assert!(described.contains(&named.message), "it says what to do: {described}");
        let logged = async || {
            let log = broker.log();
            let mut lines = log.lines().filter(|line| line.contains("member taken out"));
            lines.any(|line| line.contains("sleeper")).then_some(())
        };
        eventually("the log says so", logged).await;
        drop(sleeper);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_reads_nothing_is_named_and_the_others_get_what_it_had() {
    is_found(Omission::Reading).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_settles_nothing_is_named_and_the_others_get_what_it_had() {
    is_found(Omission::Settling).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_says_nothing_is_named_and_the_others_get_what_it_had() {
    is_found(Omission::Heartbeats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_waits_for_one_record_says_for_which_and_with_whom() {
    const AHEAD: u64 = 131_072;
    const BACKLOG: u64 = 140_000;
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    // No batch reaches over the bound: there is always something left that waits.
    for records in [AHEAD, BACKLOG - AHEAD] {
        client.publish_many("orders", (0..records).map(|_| Record::new("x"))).await.expect("receipts");
    }
    let mut raw = Raw::connect(&broker.url()).await;
    let policy = v1::GroupPolicy { mode: v1::GroupMode::Shared.into(), ..v1::GroupPolicy::default() };
    let join = v1::Join {
        group: "billing".to_owned(),
        topic: "orders".to_owned(),
        member_name: "hoarder".to_owned(),
        policy: Some(policy),
        credit: Some(v1::Credit { bytes: u64::MAX, records: u64::MAX }),
        ..v1::Join::default()
    };
    let mut member = Member::join(&mut raw, join).await.expect("a member");
    let first = member.delivery().await;
    let mut delivered = 0;
    let mut last = first.clone();
    // Everything but the first record is settled; what is delivered ends the bound away from it.
    while delivered < AHEAD {
        let mut acked = ack(&last, 0);
        acked.ranges.iter_mut().for_each(|range| range.from = range.from.max(1));
        member.say(Ask::Ack(acked)).await;
        delivered = last.ranges.iter().map(|range| range.to).max().expect("it has records");
        if delivered < AHEAD {
            last = member.delivery().await;
        }
    }
    let group = client.group("billing");
    let waits = async || group.describe().await.expect("a description").waits.pop();
    let wait = eventually("it says for what it waits", waits).await;
    assert_eq!((wait.topic.as_str(), wait.partition, wait.reason), ("orders", 0, Some(WaitReason::OpenRecords)));
    assert_eq!((wait.offset, wait.member.as_deref(), wait.until), (Some(0), Some("hoarder"), None));
    let described = aqueduct(Some(&broker.url()), &["group", "describe", "billing"]).success().stdout;
    assert!(described.contains("orders/0 waits for hoarder: 131072 records from offset 0 on"), "{described}");
    let json = aqueduct(Some(&broker.url()), &["--output", "json", "group", "describe", "billing"]).success();
    let told = &json.json_lines()[0]["waits"][0];
    assert_eq!((&told["reason"], &told["offset"]), (&"open-records".into(), &0.into()), "{told}");

    let ranges = vec![v1::OffsetRange { from: 0, to: 1 }];
    member.say(Ask::Ack(v1::Ack { ranges, ..ack(&first, 1) })).await;
    let mut next = member.delivery().await;
    while next.ranges.iter().all(|range| range.to < BACKLOG) {
        next = member.delivery().await;
    }
    assert_eq!(group.describe().await.expect("a description").waits, []);
}
