//! File descriptors that run out.

use std::process::Command;

use aqueduct_client::Client;
use aqueduct_tests::{BrokerProcess, Launch, RawHttp2, Refusal, cpu_time, descriptors, eventually, read_all};
use futures_util::future::join_all;

use crate::Siege;

fn with_descriptors(limit: usize) -> Launch {
    let wrapper = ["prlimit".to_owned(), format!("--nofile={limit}:")];
    Launch { wrapper: wrapper.into_iter().map(Into::into).collect(), ..Launch::with_args(&[]) }
}

/// Changes the limit of a running broker.
fn limit(broker: &BrokerProcess, descriptors: usize) {
    let limit = format!("--nofile={descriptors}:");
    let changed = Command::new("prlimit").args(["--pid", &broker.pid().to_string(), &limit]).status();
    assert!(changed.expect("prlimit runs").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_leave_descriptors_to_the_log() {
    let wrapper = ["prlimit".to_owned(), "--nofile=256:256".to_owned()];
    let launch = Launch {
        wrapper: wrapper.into_iter().map(Into::into).collect(),
        ..Launch::with_args(&["--set", "segment_bytes=64KiB"])
    };
    let mut siege = Siege::launch(launch).await;
    let log = siege.broker.log();
    assert!(log.contains("192 connections") && log.contains("ulimit -n"), "{log}");
    let port = siege.broker.port();
    let mut crowd = join_all((0..400).map(|_| RawHttp2::connect(port))).await;
    let mut answering = Vec::new();
    for mut raw in crowd.drain(..) {
        let _ = raw.write(aqueduct_tests::raw_http2::PREFACE).await;
        answering.push(raw);
    }
    eventually("the places are taken", async || siege.broker.log().contains("connections refused").then_some(())).await;
    // Files are opened and made all the while: every few records fill a segment.
    siege.client.topics().create("made-meanwhile").partitions(4).build().await.expect("a new topic");
    let large = || aqueduct_client::Record::new(vec![7; 40_000]);
    for _ in 0..20 {
        siege.client.publish("made-meanwhile", large()).await.expect("a receipt");
    }
    siege.publish(50).await;
    drop(answering);
    assert_eq!(read_all(&siege.client, "made-meanwhile").await.len(), 20);
    siege.client.topics().delete("made-meanwhile").await.expect("deleted");
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_newcomers_are_refused_and_everything_comes_back() {
    let mut siege = Siege::launch(with_descriptors(1024)).await;
    let port = siege.broker.port();
    limit(&siege.broker, descriptors(siege.broker.pid()) + 4);
    let mut crowd = Vec::new();
    loop {
        let mut raw = RawHttp2::begin(port, &[]).await;
        if !raw.answers().await {
            break;
        }
        crowd.push(raw);
    }
    for _ in 0..50 {
        // Closed, not left waiting for what will not come.
        assert!(!RawHttp2::begin(port, &[]).await.answers().await);
    }
    let log = siege.broker.log();
    assert!(log.contains("ulimit -n") && log.contains("LimitNOFILE"), "{log}");
    assert!(log.lines().count() < 30, "{log}");
    // What needs no new file goes on, what does fails with a reason, and nothing is half done.
    siege.publish(100).await;
    let created = siege.client.topics().create("half").partitions(8).build().await;
    assert!(!Refusal::of(created).reason.is_empty());
    let busy = cpu_time(siege.broker.pid()).expect("the broker runs");
    siege.publish(50).await;
    println!("{:?} of CPU time for 50 records", cpu_time(siege.broker.pid()).expect("the broker runs") - busy);

    limit(&siege.broker, 1024);
    drop(crowd);
    let newcomer = eventually("newcomers get in", async || Client::connect(siege.broker.url()).await.ok()).await;
    newcomer.topics().create("half").partitions(8).build().await.expect("made now");
    newcomer.publish("half", aqueduct_client::Record::new("x")).await.expect("a receipt");
    newcomer.topics().delete("half").await.expect("deleted");
    drop(newcomer);
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_open_its_next_file_loses_nothing_and_goes_on_when_it_can() {
    let launch = with_descriptors(1024);
    let launch = Launch { args: vec!["--set".to_owned(), "segment_bytes=64KiB".to_owned()], ..launch };
    let siege = Siege::launch(launch).await;
    siege.client.topics().create("rolling").build().await.expect("a new topic");
    let record = |n: u32| aqueduct_client::Record::new([&n.to_be_bytes()[..], &[7; 20_000]].concat());
    let producer = siege.client.producer("rolling").build().await.expect("a producer");
    producer.publish(record(0)).await.expect("a receipt");
    // Below what is open already: nothing can be opened.
    limit(&siege.broker, 3);
    let mut tickets = Vec::new();
    for n in 1..40 {
        tickets.push(producer.enqueue(record(n)).await.expect("room"));
    }
    // Files are needed and cannot be opened; the client tries again for as long as it is patient.
    eventually("a file could not be opened", async || siege.broker.log().contains("Too many open files").then_some(()))
        .await;
    limit(&siege.broker, 1024);
    for ticket in tickets {
        aqueduct_tests::within("a receipt", ticket).await.expect("a receipt");
    }
    let events = read_all(&siege.client, "rolling").await;
    let numbers: Vec<u32> = events
        .iter()
        .map(|event| {
            let value = event.value().expect("a value");
            u32::from_be_bytes(value[..4].try_into().expect("four bytes"))
        })
        .collect();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>(), "each once, in order");
    siege.client.topics().delete("rolling").await.expect("deleted");
    siege.over().await;
}
