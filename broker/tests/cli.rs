//! The command line against a broker process: what scripts rely on.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const AQUEDUCT: &str = env!("CARGO_BIN_EXE_aqueduct");

/// A broker on a free port; killed when dropped.
struct Broker {
    child: Child,
    url: String,
}

impl Broker {
    /// With one topic, `t`.
    fn start(data: &Path) -> Self {
        let mut command = aqueduct();
        command.args(["serve", "--listen", "127.0.0.1:0", "--output", "json", "--data"]).arg(data);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let broker = Self { child, url: format!("http://{}", ready["listen"].as_str().unwrap()) };
        assert_eq!(code(&broker.run(&["topic", "create", "t"])), 0);
        broker
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, b"")
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = aqueduct();
        command.env("AQUEDUCT_SERVER", &self.url).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Commands that do not read their input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without what the environment says for other brokers.
fn aqueduct() -> Command {
    let mut command = Command::new(AQUEDUCT);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AQUEDUCT_")) {
        command.env_remove(name);
    }
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The events of a JSON reading, without what differs between a topic and its copy.
fn content(output: &Output) -> Vec<Value> {
    let parse = |line: &str| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let fields = event.as_object_mut().unwrap();
        fields.remove("topic");
        fields.remove("append_time_us");
        event
    };
    stdout(output).lines().map(parse).collect()
}

#[test]
fn a_topic_copied_through_json_is_the_same_byte_for_byte() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path());
    assert_eq!(code(&broker.run(&["topic", "create", "copy"])), 0);
    let lines = [
        r#"{"key":"k","value":"text","timestamp_us":-7,"headers":[{"name":"h","value":"1"},{"name":"h","value":"2"}]}"#,
        r#"{"key_base64":"/wA=","value_base64":"AP+A","headers":[{"name":"b","value_base64":"/g=="}]}"#,
        r#"{"key":"gone","value":null}"#,
        r#"{"key":null,"value":""}"#,
    ];
    let published = broker.run_with(&["publish", "t", "--format", "json"], lines.join("\n").as_bytes());
    assert_eq!(code(&published), 0, "{}", stderr(&published));
    let read = |topic| broker.run(&["subscribe", topic, "--until-end", "--output", "json"]);
    let source = read("t");
    let copied = broker.run_with(&["publish", "copy", "--format", "json"], &source.stdout);
    assert_eq!(code(&copied), 0, "{}", stderr(&copied));
    assert_eq!(content(&source).len(), 4);
    assert_eq!(content(&source), content(&read("copy")));
    assert_eq!(content(&source)[1]["value_base64"], "AP+A");
    assert_eq!(content(&source)[0]["timestamp_us"], -7);
}

#[test]
fn a_malformed_line_stops_publishing_and_names_what_is_durable() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path());
    let input = b"{\"value\":\"a\"}\n{\"value\":\"b\"}\noops\n{\"value\":\"d\"}\n";
    let output = broker.run_with(&["publish", "t", "--format", "json", "--output", "json"], input);
    assert_eq!(code(&output), 1);
    assert_eq!(stdout(&output).lines().count(), 2, "one receipt for each line before");
    assert!(stderr(&output).contains("line 3 is not a record"), "{}", stderr(&output));
    assert!(stderr(&output).contains("last durable input line: 2"), "{}", stderr(&output));
    assert_eq!(stdout(&broker.run(&["subscribe", "t", "--until-end"])), "a\nb\n");
}

#[test]
fn a_group_is_acknowledged_what_was_printed_and_no_more() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path());
    assert_eq!(code(&broker.run_with(&["publish", "t"], b"1\n2\n3\n4\n5\n")), 0);
    let group = |more: &[&str]| broker.run(&[&["subscribe", "t", "--group", "g"], more].concat());
    assert_eq!(stdout(&group(&["--count", "2"])), "1\n2\n");
    assert_eq!(code(&broker.run(&["lag", "g", "--fail-over", "2"])), 1);
    assert_eq!(code(&broker.run(&["lag", "g", "--fail-over", "3"])), 0);
    assert_eq!(stdout(&group(&["--until-end"])), "3\n4\n5\n");
    let lag: Value = serde_json::from_str(&stdout(&broker.run(&["lag", "g", "--output", "json"]))).unwrap();
    assert_eq!((lag["committed_offset"].as_u64(), lag["lag_records"].as_u64()), (Some(5), Some(0)));
    let reset = broker.run(&["group", "reset", "g", "t", "--to", "earliest", "--dry-run", "--output", "json"]);
    let reset: Value = serde_json::from_str(&stdout(&reset)).unwrap();
    assert_eq!((reset["from_offset"].as_u64(), reset["to_offset"].as_u64()), (Some(5), Some(0)));
    assert_eq!(stdout(&group(&["--until-end"])), "", "a dry run changes nothing");
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path());
    for (arguments, expected) in [
        (&["topic", "describe", "nowhere"][..], 4),
        (&["publish", "nowhere"], 4),
        (&["subscribe", "nowhere"], 4),
        (&["lag", "nobody"], 4),
        (&["topic", "create", "a/b"], 2),
        (&["topic", "create", "t"], 1),
        (&["topic", "delete", "t"], 2),
        (&["subscribe", "t", "--group", "g", "--from", "earliest"], 2),
        (&["publish", "t", "--data", "/tmp"], 2),
        (&["topic", "list", "--data", "/nowhere"], 4),
        (&["--server", "http://127.0.0.1:1", "info"], 3),
        (&["--server", "nonsense", "info"], 2),
        (&["topic", "delete", "t", "--yes"], 0),
    ] {
        let output = broker.run(arguments);
        assert_eq!(code(&output), expected, "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_directory_in_use_names_its_holder_and_a_stopped_one_can_be_read() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path());
    assert_eq!(code(&broker.run_with(&["publish", "t"], b"kept\n")), 0);
    let second = aqueduct().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data.path()).output().unwrap();
    assert_eq!(code(&second), 1);
    assert!(stderr(&second).contains(&format!("process {}", broker.child.id())), "{}", stderr(&second));
    drop(broker);
    let read = aqueduct().args(["subscribe", "t", "--data"]).arg(data.path()).output().unwrap();
    assert_eq!((code(&read), stdout(&read).as_str()), (0, "kept\n"), "{}", stderr(&read));
}

#[test]
fn a_bench_that_makes_no_sense_is_refused_with_what_to_do() {
    for (arguments, words) in [
        (&["bench"][..], &["Usage: aqueduct bench", "fan-out"][..]),
        (&["bench", "publsh"], &["'publish'"]),
        (&["bench", "publish", "--rate", "0"], &["--rate", "from 1 to 10,000,000"]),
        (&["bench", "publish", "--producers", "0"], &["--producers", "from 1 to 10,000"]),
        (&["bench", "publish", "--in-flight", "65"], &["--in-flight", "from 1 to 64"]),
        (&["bench", "publish", "--tasks", "4", "--rate", "9"], &["--tasks", "cannot be used with"]),
        (&["bench", "publish", "--record-bytes", "0"], &["at least 1 byte"]),
        (&["bench", "publish", "--duration", "0s"], &["from 10ms to 24h"]),
        (&["bench", "publish", "--codec", "gzip"], &["none, lz4 or zstd"]),
        (&["bench", "publish", "--partitions", "10001"], &["--partitions", "from 1 to 10,000"]),
        (&["bench", "publish", "--record-bytes", "2MiB", "--no-limits"], &["--record-bytes", "limit of 1 MiB"]),
        (&["bench", "subscribe", "--records", "many"], &["from 1 to 1,000,000,000"]),
        (&["bench", "latency", "--data", "./data"], &["--dir"]),
    ] {
        let output = aqueduct().args(arguments).output().unwrap();
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        for word in words {
            assert!(stderr(&output).contains(word), "{arguments:?} without {word:?}: {}", stderr(&output));
        }
    }
    for (arguments, expected) in [
        (&["bench", "limits", "--dir", "/nowhere"][..], 4),
        (&["bench", "publish", "--dir", "/nowhere"], 4),
        (&["--server", "http://127.0.0.1:1", "bench", "publish"], 3),
    ] {
        let output = aqueduct().args(arguments).output().unwrap();
        assert_eq!(code(&output), expected, "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn every_bench_teaches_with_examples_within_80_columns() {
    let workloads = ["", "publish", "subscribe", "latency", "end-to-end", "fan-out", "mixed", "limits"];
    for workload in workloads {
        let mut command = aqueduct();
        command.arg("bench").args(Some(workload).filter(|workload| !workload.is_empty())).arg("--help");
        let help = stdout(&command.output().unwrap());
        assert!(help.contains("Examples:\n  aqueduct bench "), "{workload}: {help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{workload}: {line:?}");
        }
    }
}
