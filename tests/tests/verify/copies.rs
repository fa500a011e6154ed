//! A copy of the directory is a backup: it opens elsewhere and holds the same.

use std::{fs, path::Path, process::Command, sync::Arc};

use aqueduct_client::{Client, Event, GroupPolicy};
use aqueduct_tests::{BrokerProcess, Launch, read_all};

use crate::{numbered, record, run, snapshot};

/// Everything that a user could compare: offset, time, key, value and headers of every event.
fn digest(events: &[Event]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for event in events {
        let whole = format!("{} {} {:?} {:?}", event.partition, event.offset, event.append_time, event.record);
        hasher.update(whole.as_bytes());
    }
    hasher.finalize()
}

async fn digest_of(client: &Client) -> (usize, u32) {
    let events = read_all(client, "numbers").await;
    (events.len(), digest(&events))
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_directory_opens_elsewhere_verifies_and_has_the_same_digests() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    numbered(&client, "numbers", 500).await;
    let group = client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("numbers", [(0, 123)]).await.expect("committed");
    let original = digest_of(&client).await;
    let (_, stopped) = broker.terminate();
    let elsewhere = Arc::new(tempfile::tempdir().expect("a directory"));
    copy(&stopped.data(), &elsewhere.path().join("data"));
    let copied = elsewhere.path().join("data");
    let contents = |data: &Path| -> Vec<(String, Option<Vec<u8>>)> {
        snapshot(data).into_iter().map(|(name, entry)| (name, entry.content)).collect()
    };
    assert_eq!(contents(&copied), contents(&stopped.data()));
    assert!(run("verify", &copied, &[]).success().stdout.ends_with("no damage\n"));

    // The original is still there and running, as on another machine.
    let first = stopped.restart();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let second = BrokerProcess::launch_in(elsewhere, Launch::default(), port.expect("a free port").port());
    let client = second.client().await;
    assert_eq!(digest_of(&client).await, original);
    assert_eq!(digest_of(&first.client().await).await, original);
    assert_eq!(client.group("billing").lag("numbers").await.expect("a report")[0].committed_offset, 123);
    assert_eq!(client.publish("numbers", record(500)).await.expect("a receipt").offset, 500);
    let (_, stopped) = second.terminate();
    run("verify", &stopped.data(), &[]).success();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_broker_that_was_killed_recovers_elsewhere_as_the_original_does() {
    let broker = BrokerProcess::start();
    numbered(&broker.client().await, "numbers", 300).await;
    let stopped = broker.kill();
    let elsewhere = Arc::new(tempfile::tempdir().expect("a directory"));
    copy(&stopped.data(), &elsewhere.path().join("data"));
    let before = fs::read_dir(elsewhere.path().join("data")).expect("a directory").count();
    run("verify", &elsewhere.path().join("data"), &[]).success();
    assert_eq!(fs::read_dir(elsewhere.path().join("data")).expect("a directory").count(), before);
    let first = stopped.restart();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let second = BrokerProcess::launch_in(elsewhere, Launch::default(), port.expect("a free port").port());
    let (one, other) = (digest_of(&first.client().await).await, digest_of(&second.client().await).await);
    assert_eq!(one.0, 300);
    assert_eq!(one, other);
}
