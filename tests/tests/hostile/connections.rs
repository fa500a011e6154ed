//! Connections that never begin, never answer, or are too many.

use aqueduct_client::Client;
use aqueduct_tests::{
    RawHttp2, eventually,
    raw_http2::{PREFACE, kind, reason},
};
use futures_util::future::join_all;

use crate::{SLACK_BYTES, Siege};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_not_begin_to_speak_http2_are_closed() {
    let mut siege = Siege::start(&["preface_timeout=1s"]).await;
    let beginnings = [
        &b""[..],
        &PREFACE[..1],
        &PREFACE[..23],
        // Other protocols are not waited for.
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n and more",
        &[0; 4096],
    ];
    let mut silent = Vec::new();
    for _ in 0..40 {
        for beginning in beginnings {
            let mut raw = RawHttp2::connect(siege.broker.port()).await;
            let _ = raw.write(beginning).await;
            silent.push(raw);
        }
    }
    siege.publish(50).await;
    let reasons = join_all(silent.iter_mut().map(RawHttp2::end)).await;
    assert!(reasons.iter().all(Option::is_none), "closed without a word");
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_are_closed_and_idle_ones_that_live_are_not() {
    let mut siege = Siege::start(&["keepalive_interval=300ms", "keepalive_timeout=300ms"]).await;
    let idle: Client = siege.broker.client().await;
    idle.topics().list().await.expect("a list");
    let mut dead = Vec::new();
    for n in 0..50 {
        let mut raw = RawHttp2::begin(siege.broker.port(), &[]).await;
        // With a stream that waits, or without.
        if n % 2 == 0 {
            raw.ask(1, "/aqueduct.v1.Log/Subscribe", b"\x0a\x06orders").await.expect("taken");
        }
        dead.push(raw);
    }
    // Nobody answers the broker's pings. They end without the client doing anything.
    join_all(dead.iter_mut().map(RawHttp2::end)).await;
    siege.publish(10).await;
    idle.topics().list().await.expect("the connection of before is there");
    idle.close(std::time::Duration::from_secs(5)).await.expect("closed");
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_limit_are_told_and_closed_and_those_who_are_in_go_on() {
    const PLACES: usize = 100;
    let mut siege = Siege::start(&[&format!("connections_max={PLACES}")]).await;
    let port = siege.broker.port();
    let mut crowd = Vec::new();
    let mut refused = loop {
        let mut raw = RawHttp2::begin(port, &[]).await;
        if !raw.answers().await {
            break RawHttp2::begin(port, &[]).await;
        }
        crowd.push(raw);
    };
    // The honest client has the others.
    assert!((PLACES - 10..PLACES).contains(&crowd.len()), "{} got in", crowd.len());
    let goodbye = refused.find(|frame| frame.kind == kind::GOAWAY).await.expect("a word");
    assert_eq!(goodbye.reason(), Some(reason::ENHANCE_YOUR_CALM));
    assert!(goodbye.payload.ends_with(b"too_many_connections"), "{goodbye:?}");
    assert_eq!(refused.end().await, None, "and the end");
    assert!(siege.broker.log().contains("connections_max"), "{}", siege.broker.log());
    // Thousands, over and over.
    siege
        .work_under(async move {
            loop {
                let more = join_all((0..500).map(|_| RawHttp2::connect(port))).await;
                join_all(more.into_iter().map(|mut raw| async move { raw.end().await })).await;
            }
        })
        .await;
    siege.assert_grown_less_than(SLACK_BYTES);
    let lines = siege.broker.log().lines().filter(|line| line.contains("connections_max")).count();
    assert!(lines < 20, "{lines} lines for refused connections");
    drop(crowd);
    let newcomer = eventually("there are places again", async || Client::connect(siege.broker.url()).await.ok()).await;
    newcomer.topics().list().await.expect("a list");
    drop(newcomer);
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_are_served() {
    let mut siege = Siege::start(&[]).await;
    let port = siege.broker.port();
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.extend(join_all((0..100).map(|_| RawHttp2::begin(port, &[]))).await);
    }
    assert!(join_all(crowd.iter_mut().map(RawHttp2::answers)).await.into_iter().all(|answers| answers));
    siege.publish(100).await;
    siege.assert_grown_less_than(SLACK_BYTES);
    drop(crowd);
    siege.over().await;
}
