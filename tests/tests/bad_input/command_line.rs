//! Bad input on the command line: what is said, and the exit code.

use aqueduct_tests::{BrokerProcess, aqueduct, aqueduct_with_input, read_all, text};

use crate::Victim;

#[tokio::test]
async fn a_malformed_json_line_is_named_with_the_last_durable_one() {
    let victim = Victim::start().await;
    let url = victim.broker.url();
    for (bad, why) in
        [("{\"value\": \"c\"", "line 3"), ("no json", "line 3"), ("[1]", "line 3"), ("{\"key\":\"k\"}", "value")]
    {
        let input = format!("{{\"value\":\"a\"}}\n{{\"value\":\"b\"}}\n{bad}\n{{\"value\":\"d\"}}\n");
        let output = aqueduct_with_input(Some(&url), &["publish", "orders", "--format", "json"], input.as_bytes());
        let output = output.failure(1, &["line 3", why]);
        assert!(output.stderr.contains("last durable input line: 2"), "it is not named: {}", output.stderr);
    }
    let events = read_all(&victim.broker.client().await, "orders").await;
    let values: Vec<&str> = events.iter().map(text).collect();
    assert_eq!(values, ["a", "b"].repeat(4), "what came before is stored, nothing of the line itself or after it");
}

#[tokio::test]
async fn a_malformed_first_line_publishes_nothing() {
    let victim = Victim::start().await;
    let publish = ["publish", "orders", "--format", "json"];
    aqueduct_with_input(Some(&victim.broker.url()), &publish, b"{\n").failure(1, &["line 1"]);
    assert_eq!(read_all(&victim.broker.client().await, "orders").await.len(), 0);
}

#[tokio::test]
async fn what_does_not_exist_exits_with_4_and_a_hint() {
    let victim = Victim::start().await;
    let url = victim.broker.url();
    let hint = "aqueduct topic create nowhere";
    aqueduct_with_input(Some(&url), &["publish", "nowhere"], b"x\n").failure(4, &["nowhere", hint]);
    for command in [
        &["subscribe", "nowhere", "--until-end"][..],
        &["topic", "describe", "nowhere"],
        &["topic", "delete", "nowhere", "--yes"],
        &["group", "describe", "nobody"],
        &["group", "delete", "nobody"],
        &["lag", "nobody"],
    ] {
        aqueduct(Some(&url), command)
            .failure(4, &[command.iter().find(|word| word.starts_with("no")).expect("a name")]);
    }
}

#[tokio::test]
async fn names_and_numbers_that_make_no_sense_exit_with_2() {
    let victim = Victim::start().await;
    let url = victim.broker.url();
    for command in [
        &["topic", "create", "a/b"][..],
        &["topic", "create", "t", "--partitions", "0"],
        &["topic", "create", "t", "--partitions", "many"],
        &["topic", "create", "t", "--retention-age", "yesterday"],
        &["topic", "create", "t", "--durability", "maybe"],
        &["group", "create", "a~b"],
        &["subscribe", "orders", "--from", "somewhere"],
        &["subscribe", "orders", "--group", "g", "--from", "earliest"],
        &["publish", "orders", "--codec", "gzip"],
        &["publish", "orders", "--key-field", "k"],
        &["lag", "--fail-over", "soon"],
        &["--server", "ftp://nowhere", "topic", "list"],
        &["frobnicate"],
    ] {
        aqueduct(Some(&url), command).failure(2, &[]);
    }
    assert_eq!(victim.broker.client().await.topics().list().await.expect("a list").len(), 1);
}

#[tokio::test]
async fn what_the_broker_refuses_exits_with_5() {
    let victim = Victim::start().await;
    let url = victim.broker.url();
    let client = victim.broker.client().await;
    client.publish("orders", aqueduct_client::Record::new("x")).await.expect("a receipt");
    let mut consumer = client.consumer("orders", "billing").build().await.expect("a consumer");
    let delivery = aqueduct_tests::within("a delivery", consumer.next()).await.expect("no end").expect("a delivery");
    aqueduct(Some(&url), &["topic", "delete", "orders", "--yes"]).failure(5, &["in use", "billing"]);
    aqueduct(Some(&url), &["group", "reset", "billing", "orders", "--to", "latest"]).failure(5, &["billing", "active"]);
    aqueduct(Some(&url), &["group", "delete", "billing"]).failure(5, &["billing", "active"]);
    let large = vec![b'x'; (1 << 20) + 1];
    aqueduct_with_input(Some(&url), &["publish", "orders"], &large).failure(5, &["limit"]);
    delivery.ack_durable().await.expect("the member goes on");
}

#[tokio::test]
async fn an_offset_out_of_range_is_told_with_the_valid_range() {
    let victim = Victim::start().await;
    let client = victim.broker.client().await;
    client.publish("orders", aqueduct_client::Record::new("x")).await.expect("a receipt");
    let subscribe = ["subscribe", "orders", "--partition", "0", "--from", "99", "--until-end"];
    aqueduct(Some(&victim.broker.url()), &subscribe).failure(1, &["99", "[0, 1"]);
}

#[test]
fn an_unreachable_broker_exits_with_3_and_a_hint() {
    let port = {
        let broker = BrokerProcess::start();
        broker.port()
    };
    let url = format!("http://127.0.0.1:{port}");
    for command in [&["topic", "list"][..], &["publish", "orders"], &["subscribe", "orders"], &["lag"], &["info"]] {
        let command = [command, &["--timeout", "5s"]].concat();
        aqueduct_with_input(Some(&url), &command, b"x\n").failure(3, &[&url, "aqueduct serve"]);
    }
}

#[test]
fn something_else_that_listens_is_no_broker() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let _stranger = std::thread::spawn(move || {
        use std::io::Write as _;
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"220 mail.example.com ESMTP\r\n"));
        }
    });
    aqueduct(Some(&url), &["topic", "list", "--timeout", "5s"]).failure(3, &[&url]);
}
