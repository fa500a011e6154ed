//! Names that want to be paths, other names, or nothing at all.

use aqueduct_client::{GroupPolicy, Record};
use aqueduct_proto::v1;
use aqueduct_tests::{Raw, Refusal, raw, read_all, text};
use tonic::Code;

use crate::Siege;

/// Not names, each for another reason.
fn hostile_names() -> Vec<String> {
    let short = [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "/",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "~",
        "~root",
        "orders~billing~dlq",
        "-",
        "-rf",
        ".hidden",
        "a\0b",
        "\0",
        "a\nb",
        "a\r",
        "a b",
        " a",
        "a ",
        "%2e%2e",
        "a%00",
        "caf\u{e9}",
        "cafe\u{301}",
        "\u{ff4f}rders",
        "\u{43e}rders",
        "orders\u{200b}",
        "\u{202e}sredro",
        "\u{feff}orders",
        "ord\u{ad}ers",
        "\u{130}stanbul",
        "K\u{212a}",
        "\u{1f4a9}",
        "$(id)",
        "`id`",
        "a;b",
        "a|b",
        "*",
        "?",
        "con:",
        "a\"b",
        "a'b",
        "\u{7f}",
    ];
    let long =
        ["n".repeat(250), "n".repeat(10 << 10), "../".repeat(3500), "\u{1f4a9}".repeat(2500), "\0".repeat(10 << 10)];
    short.into_iter().map(str::to_owned).chain(long).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_make_nothing_anywhere() {
    let mut siege = Siege::start(&["auto_create_topics=true"]).await;
    let mut raw = Raw::connect(&siege.broker.url()).await;
    let files_before = files_below(&siege.broker.data());
    let parent_before = entries_beside(&siege.broker.data());
    for name in hostile_names() {
        let name = || name.clone();
        let config = Some(v1::TopicConfig { partitions: 1, ..v1::TopicConfig::default() });
        let offsets = vec![v1::PartitionOffset { partition: 0, offset: 0 }];
        let commit = v1::CommitRequest { group: name(), topic: "orders".to_owned(), offsets, ..Default::default() };
        let reset = v1::ResetGroupRequest { group: name(), topic: "orders".to_owned(), ..Default::default() };
        let join = v1::Join { group: name(), topic: "orders".to_owned(), ..v1::Join::default() };
        let join = v1::ConsumeRequest { event: Some(v1::consume_request::Event::Join(join)) };
        let joined = match raw.groups.consume(futures_util::stream::iter([join])).await {
            Ok(answers) => answers.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        // What makes something.
        for refusal in [
            Refusal::of(raw.topics.create(v1::CreateTopicRequest { name: name(), config }).await),
            Refusal::of(raw.publish(raw::publish_records(&name(), vec![raw::record("x")])).await),
            Refusal::of(raw.groups.create(v1::CreateGroupRequest { group: name(), policy: None }).await),
            Refusal::of(joined),
        ] {
            refusal.expect(Code::InvalidArgument, "INVALID_NAME");
        }
        let opened = raw.log.open_producer(v1::OpenProducerRequest { topic: "orders".to_owned(), name: name() }).await;
        let opened = Refusal::of(opened);
        assert!(opened.code == Code::InvalidArgument && !opened.reason.is_empty(), "{opened:?}");
        // What finds something.
        for refusal in [
            Refusal::of(raw.fetch(&name(), 0, 0).await),
            Refusal::of(raw.log.subscribe(v1::SubscribeRequest { topic: name(), ..Default::default() }).await),
            Refusal::of(raw.topics.describe(v1::DescribeTopicRequest { name: name() }).await),
            Refusal::of(raw.topics.alter(v1::AlterTopicRequest { name: name(), ..Default::default() }).await),
            Refusal::of(
                raw.topics.delete(v1::DeleteTopicRequest { name: name(), force: true, ..Default::default() }).await,
            ),
            Refusal::of(raw.topics.truncate(v1::TruncateTopicRequest { name: name(), ..Default::default() }).await),
            Refusal::of(raw.groups.describe(v1::DescribeGroupRequest { group: name() }).await),
            Refusal::of(raw.groups.alter(v1::AlterGroupRequest { group: name(), ..Default::default() }).await),
            Refusal::of(raw.groups.delete(v1::DeleteGroupRequest { group: name() }).await),
            Refusal::of(raw.groups.commit(commit).await),
            Refusal::of(raw.groups.reset(reset).await),
        ] {
            assert!(matches!(refusal.code, Code::InvalidArgument | Code::NotFound), "{:?}: {refusal:?}", name());
            assert!(!refusal.reason.is_empty(), "{refusal:?}");
        }
    }
    assert_eq!(siege.client.topics().list_all().await.expect("a list").len(), 1);
    assert_eq!(siege.client.groups().list().await.expect("a list").len(), 0);
    assert_eq!(files_below(&siege.broker.data()), files_before);
    assert_eq!(entries_beside(&siege.broker.data()), parent_before);
    siege.publish(10).await;
    siege.over().await;
}

fn files_below(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn entries_beside(directory: &std::path::Path) -> usize {
    std::fs::read_dir(directory.parent().expect("a parent")).expect("a directory").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_differ_only_in_case_never_collide() {
    let siege = Siege::start(&[]).await;
    let names = ["case", "Case", "CASE", "cAsE"];
    for name in names {
        siege.client.topics().create(name).build().await.expect("a new topic");
        siege.client.publish(name, Record::new(name)).await.expect("a receipt");
        siege.client.group(name).create(GroupPolicy::default()).await.expect("a new group");
        siege.client.group(name).commit(name, [(0, 1)]).await.expect("committed");
    }
    siege.client.topics().delete("CASE").await.expect("deleted");
    let broker = siege.broker.kill_and_restart();
    let client = broker.client().await;
    for name in names.into_iter().filter(|&name| name != "CASE") {
        let events = read_all(&client, name).await;
        assert_eq!(events.iter().map(text).collect::<Vec<_>>(), [name]);
        let lag = client.group(name).lag(name).await.expect("a report");
        assert_eq!((lag.len(), lag[0].committed_offset), (1, 1), "{name}");
    }
    Refusal::of(client.topics().describe("CASE").await).expect(Code::NotFound, "TOPIC_NOT_FOUND");
    client.topics().create("CASE").build().await.expect("made again");
    assert_eq!(read_all(&client, "CASE").await.len(), 0);
    assert!(!broker.log().contains("panicked"));
}
