//! A disk without room.

use std::sync::Arc;

use aqueduct_client::{GroupPolicy, Record};
use aqueduct_tests::{BrokerProcess, Launch, Raw, Refusal, eventually, raw, read_all, within};
use tonic::Code;

/// A broker on a disk of 12 MiB of its own: a file system in memory, in a mount namespace that goes with the process.
/// Needs no root where users may make namespaces.
fn small_disk() -> BrokerProcess {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("made");
    let script = "mount -t tmpfs -o size=12m tmpfs \"$0\" && exec \"$@\"";
    let words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script];
    let wrapper = words.into_iter().map(Into::into).chain([data.into_os_string()]).collect();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let launch = Launch { wrapper, ..Launch::default() };
    BrokerProcess::launch_in(directory, launch, port.expect("a free port").port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_publishes_while_the_rest_goes_on_and_resumes_by_itself() {
    let broker = small_disk();
    let client = broker.client().await;
    client.topics().create("orders").segment_bytes(1 << 20).build().await.expect("a new topic");
    let group = client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    let mut raw = Raw::connect(&broker.url()).await;
    let large = || raw::publish_records("orders", vec![raw::record(vec![b'x'; 200_000])]);
    let mut stored = 0;
    let refusal = loop {
        match within("an answer", raw.publish(large())).await {
            Ok(ack) => {
                assert_eq!(ack.base_offset, stored);
                stored += 1;
            }
            Err(status) => break status,
        }
        assert!(stored < 100, "20 MB on a disk of 12 MiB");
    };
    let retry = aqueduct_client::BrokerError::from(refusal.clone()).retry_after;
    assert!(retry.is_some(), "{refusal:?}");
    Refusal::from(refusal).expect(Code::ResourceExhausted, "DISK_FULL");
    assert!(stored > 20, "only {stored} records of 200 KB fit on a disk of 12 MiB");

    // Reads, commits, health and administration go on.
    assert_eq!(read_all(&client, "orders").await.len() as u64, stored);
    for offset in 1..10 {
        group.commit("orders", [(0, offset)]).await.expect("commits go on");
    }
    assert_eq!(group.lag("orders").await.expect("a report")[0].committed_offset, 9);
    let mut consumer = client.consumer("orders", "billing").build().await.expect("a member");
    let delivery = within("a delivery", consumer.next()).await.expect("it goes on").expect("a delivery");
    assert_eq!(delivery.offset, 9);
    within("the ack", delivery.ack_durable()).await.expect("acks go on");
    consumer.close().await.expect("a clean end");
    let altered = client.topics().alter("orders").owner("team").build().await.expect("administration goes on");
    assert_eq!(altered.config.owner.as_deref(), Some("team"));
    let described = client.topics().describe("orders").await.expect("a description").partitions.remove(0);
    assert_eq!(described.high_watermark, stored);
    Refusal::of(raw.publish(large()).await).expect(Code::ResourceExhausted, "DISK_FULL");

    // The client gives the record back and says when to try again.
    let error =
        within("an answer", client.publish("orders", Record::new(vec![b'y'; 200_000]))).await.expect_err("full");
    assert!(error.record().is_some() && error.retry_after().is_some(), "{}", Refusal::of::<(), _>(Err(error)).message);

    // Room is made, and publishing resumes by itself.
    let before = stored - 5;
    assert_eq!(client.topics().truncate("orders", 0, before).await.expect("truncated"), before);
    let again = eventually("publishing works", async || raw.clone().publish(large()).await.ok()).await;
    assert_eq!(again.base_offset, stored);
    let events = read_all(&client, "orders").await;
    assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), (before..=stored).collect::<Vec<_>>());
}
