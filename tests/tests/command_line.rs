//! The tour of the README on real input, and what scripts rely on.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::Stdio,
};

use aqueduct_client::{GroupPolicy, Record, Timestamp};
use aqueduct_tests::{
    BrokerProcess, aqueduct, aqueduct_command, aqueduct_with_input, by_partition, eventually, may_have_huge_pages,
    read_all,
};

/// Real departures from New York, one JSON object a line.
const FLIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../broker/src/cli/demo/flights.ndjson");
const PUBLISH_FLIGHTS: [&str; 8] =
    ["publish", "flights", "--format", "json", "--key-field", "tailnum", "--file", FLIGHTS];

fn flights() -> String {
    std::fs::read_to_string(FLIGHTS).expect("the flights")
}

fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut lines: Vec<&str> = lines.collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn the_tour_of_the_readme_works_on_real_flights() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    let run = |words: &[&str]| aqueduct(Some(&url), words).success();
    run(&["topic", "create", "flights", "--partitions", "4", "--retention-age", "7d"]);
    let published = run(&PUBLISH_FLIGHTS);
    assert!(published.stderr.contains("5,000 records"), "{}", published.stderr);
    assert_eq!(published.stdout, "");

    let everything = run(&["subscribe", "flights", "--from", "earliest", "--until-end"]).stdout;
    let input = flights();
    assert_eq!(sorted(everything.lines()), sorted(input.lines()), "each line came back, byte for byte");

    let last = run(&["subscribe", "flights", "--last", "3", "--until-end", "--output", "json"]).json_lines();
    assert_eq!(last.len(), 3);
    for event in &last {
        for field in ["topic", "partition", "offset", "timestamp_us", "append_time_us", "key", "value", "headers"] {
            assert!(event.get(field).is_some(), "no {field} in {event}");
        }
    }

    let billed = run(&["subscribe", "flights", "--group", "billing", "--count", "100"]);
    assert_eq!(billed.stdout.lines().count(), 100);
    let lag = run(&["lag", "--output", "json"]).json_lines();
    assert_eq!(lag.len(), 4);
    for line in &lag {
        for field in ["group", "topic", "partition", "log_start_offset", "committed_offset", "high_watermark"] {
            assert!(line.get(field).is_some(), "no {field} in {line}");
        }
        for field in ["lag_records", "lag_bytes", "lag_seconds"] {
            assert!(line[field].is_number(), "no {field} in {line}");
        }
        for field in ["rate_in", "rate_out", "catch_up_seconds", "retention_loss_seconds", "retention_risk"] {
            assert!(line.get(field).is_some(), "no {field} in {line}");
        }
    }
    assert_eq!(lag.iter().map(|line| line["lag_records"].as_u64().expect("a number")).sum::<u64>(), 4900);
    assert!(run(&["lag"]).stdout.contains("billing"));

    aqueduct(Some(&url), &["lag", "billing", "--fail-over", "10"]).failure(1, &[]);
    aqueduct(Some(&url), &["lag", "billing", "--fail-over", "5000"]).success();
    aqueduct(Some(&url), &["lag", "billing", "--fail-over", "1h"]).success();

    let before = run(&["lag", "billing", "--output", "json"]).stdout;
    let plan = run(&["group", "reset", "billing", "flights", "--to", "earliest", "--dry-run", "--output", "json"]);
    assert!(plan.json_lines().iter().all(|line| line["to_offset"] == 0 && line["dry_run"] == true), "{}", plan.stdout);
    let committed = |lag: &str| -> Vec<u64> {
        let number =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["committed_offset"].as_u64();
        lag.lines().map(|line| number(line).expect("a number")).collect()
    };
    assert_eq!(committed(&run(&["lag", "billing", "--output", "json"]).stdout), committed(&before), "a dry run");
    run(&["group", "reset", "billing", "flights", "--to", "earliest"]);
    assert_eq!(committed(&run(&["lag", "billing", "--output", "json"]).stdout), [0, 0, 0, 0]);

    let long_ago = run(&["subscribe", "flights", "--from", "2026-01-31T12:00:00Z", "--until-end"]);
    assert_eq!(long_ago.stdout.lines().count(), 5000);
    let future = run(&["subscribe", "flights", "--from", "2226-01-31T12:00:00Z", "--until-end"]);
    assert_eq!(future.stdout, "");
    let from_offset =
        run(&["subscribe", "flights", "--partition", "2", "--from", "500", "--until-end", "--output", "json"]);
    let offsets: Vec<u64> = from_offset.json_lines().iter().map(|line| line["offset"].as_u64().expect("one")).collect();
    assert_eq!(offsets.first(), Some(&500));
    assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[tokio::test]
async fn a_copy_through_json_is_faithful_byte_for_byte() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    let client = broker.client().await;
    for topic in ["original", "copy"] {
        client.topics().create(topic).partitions(3).build().await.expect("a new topic");
    }
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut records = vec![
        Record::new(""),
        Record::new(every_byte.clone()).key(every_byte.clone()),
        Record::tombstone("gone"),
        Record::new("{\"a\": 1}\r\n\t\"quoted\" \\ \u{0}\u{7f} \u{2028} \u{1f986}").key("\u{e9}\n"),
        Record::new("h")
            .key("k")
            .header("a", "1")
            .header("b", every_byte)
            .header("a", "2")
            .header("a", "")
            .header("", "x"),
        Record::new("t").key("k").timestamp(Timestamp::from_micros(i64::MIN)),
        Record::new("t").key("k").timestamp(Timestamp::from_micros(0)),
    ];
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let bytes =
            |random: &mut fastrand::Rng| -> Vec<u8> { (0..random.usize(0..40)).map(|_| random.u8(..)).collect() };
        let key = bytes(&mut random);
        records.push(Record::new(bytes(&mut random)).key(key).header("r", bytes(&mut random)));
    }
    client.publish_many("original", records).await.expect("receipts");

    let printed =
        aqueduct(Some(&url), &["subscribe", "original", "--from", "earliest", "--until-end", "--output", "json"]);
    let printed = printed.success().stdout;
    let publish = ["publish", "copy", "--format", "json", "--output", "json"];
    let receipts = aqueduct_with_input(Some(&url), &publish, printed.as_bytes()).success();
    assert_eq!(receipts.json_lines().len(), 207, "one receipt a line");

    let records_of = async |topic| -> BTreeMap<u32, Vec<Record>> {
        let partitions = by_partition(read_all(&client, topic).await).into_iter();
        partitions
            .map(|(partition, events)| (partition, events.into_iter().map(|event| event.record).collect()))
            .collect()
    };
    let (original, copy) = (records_of("original").await, records_of("copy").await);
    // What has no key may go anywhere; the rest keeps partition and order.
    let keyed = |partitions: &BTreeMap<u32, Vec<Record>>| -> BTreeMap<u32, Vec<Record>> {
        let keyed = |records: &Vec<Record>| records.iter().filter(|record| record.key.is_some()).cloned().collect();
        partitions.iter().map(|(partition, records)| (*partition, keyed(records))).collect()
    };
    assert_eq!(keyed(&copy), keyed(&original));
    assert_eq!(copy.values().map(Vec::len).sum::<usize>(), original.values().map(Vec::len).sum::<usize>());
}

#[tokio::test]
async fn subscribe_into_head_ends_quietly() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    aqueduct(Some(&url), &["topic", "create", "flights"]).success();
    aqueduct(Some(&url), &PUBLISH_FLIGHTS).success();
    for more in [&["--from", "earliest"][..], &["--group", "pipe"]] {
        let mut child = aqueduct_command()
            .args(["--server", &url, "subscribe", "flights"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("aqueduct starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        for _ in 0..3 {
            stdout.read_line(&mut line).expect("a line");
        }
        drop(stdout);
        // What comes next finds the pipe closed.
        let ended = eventually("it ends", async || {
            aqueduct_with_input(Some(&url), &["publish", "flights"], b"one more\n").success();
            child.try_wait().expect("its status")
        });
        assert_eq!(ended.await.code(), Some(0), "{more:?}");
        let mut said = String::new();
        child.stderr.take().expect("stderr is piped").read_to_string(&mut said).expect("text");
        assert!(!said.contains("error") && !said.contains("panicked"), "{more:?}: {said}");
    }
}

#[tokio::test]
async fn a_group_acks_what_was_printed_and_nothing_else() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    let client = broker.client().await;
    client.topics().create("numbers").build().await.expect("a new topic");
    let input: String = (0..50).map(|number| format!("{number}\n")).collect();
    aqueduct_with_input(Some(&url), &["publish", "numbers"], input.as_bytes()).success();
    let mut printed = String::new();
    for count in ["7", "1", "20"] {
        printed += &aqueduct(Some(&url), &["subscribe", "numbers", "--group", "g", "--count", count]).success().stdout;
        let committed = client.group("g").lag("numbers").await.expect("a report")[0].committed_offset;
        assert_eq!(committed, printed.lines().count() as u64);
    }
    printed += &aqueduct(Some(&url), &["subscribe", "numbers", "--group", "g", "--until-end"]).success().stdout;
    assert_eq!(printed, input, "each once, in order");
}

#[tokio::test]
async fn formats_keys_headers_and_templates_do_what_they_say() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    aqueduct(Some(&url), &["topic", "create", "t"]).success();
    let publish = |words: &[&str], input: &[u8]| {
        aqueduct_with_input(Some(&url), &[&["publish", "t"], words].concat(), input).success()
    };
    publish(&["--format", "null"], b"two\nlines\0next\0");
    publish(&["--key", "k", "--header", "a=1", "--header", "a=2", "--codec", "zstd"], b"with key\nno line end");
    let receipt = publish(&["--output", "json", "--partition", "0"], b"x\n").json_lines().remove(0);
    assert_eq!((receipt["partition"].as_u64(), receipt["offset"].as_u64()), (Some(0), Some(4)), "{receipt}");
    let template = ["subscribe", "t", "--from", "earliest", "--until-end", "--template", "%p@%o|%k|%v|%h"];
    let printed = aqueduct(Some(&url), &template).success().stdout;
    assert!(printed.contains("0@0||two\nlines|"), "{printed}");
    assert!(printed.contains("0@3|k|no line end|"), "{printed}");
    assert!(printed.contains("a=1"), "{printed}");
}

#[tokio::test]
async fn the_log_of_a_stopped_broker_can_be_read() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    let client = broker.client().await;
    client.group("billing").create(GroupPolicy::default()).await.expect("a new group");
    aqueduct(Some(&url), &["topic", "create", "flights", "--partitions", "2"]).success();
    aqueduct(Some(&url), &PUBLISH_FLIGHTS).success();
    client.group("billing").commit("flights", [(0, 10), (1, 20)]).await.expect("committed");
    let running = aqueduct(Some(&url), &["lag", "--output", "json"]).success().json_lines();
    // Killed: nothing has been tidied up.
    let stopped = broker.kill();
    let data = stopped.data();
    let data = data.to_str().expect("a path");
    let read = aqueduct(None, &["subscribe", "flights", "--data", data]).success().stdout;
    assert_eq!(sorted(read.lines()), sorted(flights().lines()));
    assert!(aqueduct(None, &["topic", "list", "--data", data]).success().stdout.contains("flights"));
    let lag = aqueduct(None, &["lag", "--data", data, "--output", "json"]).success().json_lines();
    let facts = |lag: &[serde_json::Value]| -> Vec<_> {
        lag.iter()
            .map(|line| (line["partition"].clone(), line["committed_offset"].clone(), line["lag_records"].clone()))
            .collect()
    };
    assert_eq!(facts(&lag), facts(&running));
    aqueduct_with_input(None, &["publish", "flights", "--data", data], b"x\n").failure(2, &["--data"]);
    let broker = stopped.restart();
    assert_eq!(read_all(&broker.client().await, "flights").await.len(), 5000);
}

#[test]
fn every_command_teaches_with_examples_and_completes() {
    let commands: [&[&str]; 12] = [
        &[],
        &["serve"],
        &["topic", "create"],
        &["topic", "delete"],
        &["publish"],
        &["subscribe"],
        &["lag"],
        &["group", "reset"],
        &["group", "create"],
        &["demo"],
        &["bench"],
        &["completions"],
    ];
    for command in commands {
        let help = aqueduct(None, &[command, &["--help"]].concat()).success().stdout;
        assert!(help.contains("aqueduct "), "no example in the help of {command:?}:\n{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = aqueduct(None, &["completions", shell]).success().stdout;
        assert!(script.contains("subscribe") && script.contains("publish"), "{shell}");
    }
    aqueduct(None, &["--version"]).success();
    aqueduct(None, &["completions", "cobol"]).failure(2, &[]);
    assert!(Path::new(FLIGHTS).exists());
}

#[test]
fn the_demo_ends_by_itself_and_everything_agrees() {
    let demo = aqueduct(None, &["demo", "--rounds", "10"]).success();
    for word in ["50,000", "lost or changed", "replay", "aqueduct serve"] {
        assert!(demo.stdout.contains(word) || demo.stderr.contains(word), "no {word:?} in\n{}", demo.stdout);
    }
}

#[test]
fn the_demo_notices_a_flipped_byte_and_exits_with_1() {
    let demo = aqueduct(None, &["demo", "--rounds", "10", "--flip-byte"]);
    assert_eq!(demo.code, 1, "{}{}", demo.stdout, demo.stderr);
    assert!((demo.stdout.clone() + &demo.stderr).to_lowercase().contains("damage"), "{}{}", demo.stdout, demo.stderr);
}

#[test]
fn the_kernel_clears_no_huge_pages_while_a_broker_writes() {
    let broker = BrokerProcess::start();
    assert!(!may_have_huge_pages(broker.pid()));
}
