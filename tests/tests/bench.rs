//! `aqueduct bench`: that it works, cleans up, and that its counts add up. Never how fast anything is.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use aqueduct_tests::{BrokerProcess, aqueduct, aqueduct_command, eventually};
use serde_json::Value;

/// Short, and without the limits of the machine.
const SHORT: [&str; 7] = ["--duration", "300ms", "--warm-up", "50ms", "--no-limits", "--output", "json"];

fn bench(server: Option<&str>, words: &[&str]) -> Value {
    let output = aqueduct(server, &[&["bench"], words, &SHORT].concat()).success();
    assert_eq!(output.stderr, "", "nothing is said where nobody watches");
    let mut lines = output.json_lines();
    assert_eq!(lines.len(), 1, "{}", output.stdout);
    lines.remove(0)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a count: {value}"))
}

/// The parts that every report has.
fn check_shape(report: &Value, workload: &str) {
    assert_eq!(report["workload"], workload);
    assert!(report["version"].is_string() && report["broker"]["version"].is_string(), "{report}");
    assert_eq!(report["config"]["record_bytes"], 100);
    assert_eq!(report["limits"], Value::Null);
    assert_eq!(report["fractions"], Value::Array(Vec::new()));
    let result = &report["result"];
    assert!(result["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report}");
    for flow in result["flows"].as_array().expect("flows") {
        let per_record = if workload == "subscribe" { 110 } else { 100 };
        assert_eq!(number(&flow["bytes"]), number(&flow["records"]) * per_record, "{report}");
        assert!(flow["records_per_second"].is_number() && flow["mb_per_second"].is_number(), "{report}");
    }
    for latency in result["latencies"].as_array().expect("latencies") {
        let buckets = latency["buckets"].as_array().expect("buckets");
        let sum: u64 = buckets.iter().map(|bucket| number(&bucket["count"])).sum();
        assert_eq!(sum, number(&latency["count"]), "{report}");
        let percentiles = ["p50_us", "p90_us", "p99_us", "p99_9_us", "max_us"];
        let percentiles = percentiles.map(|name| latency[name].as_f64().expect("a percentile"));
        assert!(percentiles.is_sorted(), "{latency}");
    }
}

fn latency<'a>(report: &'a Value, name: &str) -> &'a Value {
    let latencies = report["result"]["latencies"].as_array().expect("latencies");
    latencies.iter().find(|latency| latency["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn publishing_counts_what_was_acknowledged() {
    for words in [&["publish"][..], &["publish", "--producers", "3", "--partitions", "2"], &["publish", "--tasks", "8"]]
    {
        let report = bench(None, words);
        check_shape(&report, "publish");
        let result = &report["result"];
        let (measured, all) = (number(&result["flows"][0]["records"]), number(&result["totals"]["published"]));
        // A slow build may not have had its first receipts while it was measured.
        assert!(all > 0 && measured <= all, "{report}");
        assert!(result["broker_anonymous_bytes_peak"].is_number(), "the broker is ours: {report}");
    }
    let report = bench(None, &["latency"]);
    check_shape(&report, "latency");
    assert!(number(&latency(&report, "ack")["count"]) > 0, "{report}");
}

#[test]
fn an_open_loop_accounts_for_every_record_that_was_due() {
    for words in [&["latency", "--rate", "200"][..], &["publish", "--rate", "200"]] {
        let report = bench(None, words);
        check_shape(&report, words[0]);
        // 50 ms of warm-up and 300 ms to be measured, at 200/s; the first is due at once.
        let totals = &report["result"]["totals"];
        let (published, unsent) = (number(&totals["published"]), number(&totals["unsent"]));
        assert_eq!(published + unsent, 70, "{report}");
        // A machine that is slow at the moment may fall behind; what it did not send was measured at the end.
        assert_eq!(number(&latency(&report, "ack")["count"]), published - 10, "{report}");
    }
}

#[test]
fn replays_count_only_what_was_read_and_was_right() {
    let report = bench(None, &["subscribe", "--records", "5000", "--subscribers", "2", "--partitions", "3"]);
    check_shape(&report, "subscribe");
    let totals = &report["result"]["totals"];
    assert_eq!(totals["published"], 5000);
    assert!(number(&totals["delivered"]) >= number(&report["result"]["flows"][0]["records"]), "{report}");
    assert!(number(&totals["delivered"]) >= 10_000, "each reads it at least once: {report}");
}

#[test]
fn every_subscriber_and_the_group_get_everything() {
    for (words, subscribers, members) in [
        (&["end-to-end", "--rate", "200"][..], 1, 0),
        (&["fan-out", "--rate", "100", "--subscribers", "10"], 10, 0),
        (&["mixed", "--rate", "400"], 2, 2),
    ] {
        let report = bench(None, words);
        check_shape(&report, words[0]);
        let totals = &report["result"]["totals"];
        let published = number(&totals["published"]);
        assert!(published > 0, "{report}");
        assert_eq!(number(&totals["delivered"]), published * subscribers, "{report}");
        assert_eq!(number(&latency(&report, "end_to_end")["count"]) % subscribers, 0, "{report}");
        assert!(members == 0 || number(&totals["consumed"]) >= published, "{report}");
    }
}

#[test]
fn limits_are_measured_and_set_beside_the_load() {
    let limits = aqueduct(None, &["bench", "limits", "--duration", "200ms", "--output", "json"]).success();
    let limits = limits.json_lines().remove(0);
    assert_eq!(limits["workload"], "limits");
    for limit in ["fdatasync_growing", "fdatasync_zeroed", "grpc_call"] {
        assert!(limits["limits"][limit]["p50_us"].as_f64().is_some_and(|us| us > 0.0), "{limit}: {limits}");
    }
    for limit in ["fdatasync_parallel_per_second", "sequential_write_mb_per_second", "memcpy_gb_per_second"] {
        assert!(limits["limits"][limit].as_f64().is_some_and(|rate| rate > 0.0), "{limit}: {limits}");
    }
    let load = ["bench", "latency", "--duration", "200ms", "--warm-up", "0s", "--output", "json"];
    let report = aqueduct(None, &load).success().json_lines().remove(0);
    let fraction = &report["fractions"][0];
    let (reached, allowed) = (fraction["reached"].as_f64().expect("one"), fraction["allowed"].as_f64().expect("one"));
    assert!((fraction["ratio"].as_f64().expect("one") - reached / allowed).abs() < 1e-9, "{report}");
    let text = aqueduct(None, &["bench", "latency", "--duration", "200ms"]).success().stdout;
    for part in ["Throughput", "p99.9", "┤█", "broker memory", "This machine by itself", "Reached"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn a_load_on_schedule_is_set_beside_bare_grpc_and_the_disk_on_the_same_schedule() {
    let load = ["bench", "end-to-end", "--rate", "200", "--duration", "300ms", "--warm-up", "0s", "--output", "json"];
    let report = aqueduct(None, &load).success().json_lines().remove(0);
    let limit = &report["limits"]["on_schedule"];
    assert_eq!(limit["rate"], 200, "{report}");
    let p99_us = limit["p99_us"].as_f64().expect("a percentile");
    assert!(limit["p50_us"].as_f64().is_some_and(|p50_us| p50_us > 0.0 && p50_us <= p99_us), "{report}");
    let fractions = report["fractions"].as_array().expect("fractions");
    for name in ["end_to_end", "ack"] {
        let reached = &latency(&report, name)["p99_us"];
        let beside = |fraction: &&Value| fraction["reached"] == *reached && fraction["allowed"] == limit["p99_us"];
        assert!(fractions.iter().any(|fraction| beside(&fraction)), "{name}: {report}");
    }
}

#[tokio::test]
async fn a_running_broker_is_left_as_it_was() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("kept").build().await.expect("a new topic");
    let report = bench(Some(&broker.url()), &["mixed", "--rate", "200"]);
    assert_eq!(report["broker"]["origin"], "named");
    assert_eq!(report["result"]["broker_anonymous_bytes_peak"], Value::Null, "not ours to look into");
    let topics = client.topics().list().await.expect("topics");
    assert_eq!(topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    assert!(client.groups().list().await.expect("groups").is_empty());
}

#[tokio::test]
async fn ctrl_c_cleans_up_and_says_so() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    let directory = tempfile::tempdir().expect("a directory");
    let server = broker.url();
    for server in [None, Some(&server)] {
        let mut command = aqueduct_command();
        command.args(["bench", "end-to-end", "--duration", "60s", "--no-limits", "--dir"]).arg(directory.path());
        command.args(server.map(|server| format!("--server={server}"))).env_remove("AQUEDUCT_SERVER");
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        eventually("the load is under way", async || {
            match server {
                Some(_) => client
                    .topics()
                    .list()
                    .await
                    .expect("topics")
                    .iter()
                    .any(|topic| topic.name.starts_with("aqueduct-bench-")),
                None => has_a_topic(directory.path()),
            }
            .then_some(())
        })
        .await;
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(1), "{server:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("interrupted"), "{said}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0, "{server:?}");
        assert!(client.topics().list().await.expect("topics").is_empty(), "{server:?}");
    }
}

/// `DIR/aqueduct-bench-…/data/topics/aqueduct-bench-…`
fn has_a_topic(directory: &Path) -> bool {
    let homes = std::fs::read_dir(directory).expect("it is there").filter_map(Result::ok);
    let topics = homes.filter_map(|home| std::fs::read_dir(home.path().join("data/topics")).ok());
    topics.flatten().next().is_some()
}
