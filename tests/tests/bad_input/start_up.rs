//! A broker that cannot start says why, and touches nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use aqueduct_client::Record;
use aqueduct_tests::{BrokerProcess, Output, aqueduct, read_all};

/// Runs `serve`, which has to fail.
fn serve(data: &Path, more: &[&str]) -> Output {
    let data = data.to_str().expect("a path");
    aqueduct(None, &[&["serve", "--data", data, "--listen", "127.0.0.1:0"], more].concat())
}

/// Every file below `directory`, with its bytes.
fn bytes_of(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(bytes_of(&path));
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path).expect("a file");
            found.insert(path, Some(bytes));
        }
    }
    found
}

#[tokio::test]
async fn a_second_process_on_the_data_directory_is_refused_with_the_pid_of_the_first() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    let pid = broker.pid().to_string();
    serve(&broker.data(), &[]).failure(1, &["in use", &pid]);
    let data = broker.data();
    let data = data.to_str().expect("a path");
    aqueduct(None, &["subscribe", "orders", "--data", data]).failure(1, &["in use", &pid]);
    client.publish("orders", Record::new("x")).await.expect("the first goes on");
    // A process that was killed holds nothing.
    let broker = broker.kill_and_restart();
    assert_eq!(read_all(&broker.client().await, "orders").await.len(), 1);
}

#[tokio::test]
async fn a_data_directory_of_an_unknown_version_is_refused_untouched() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    client.publish("orders", Record::new("x")).await.expect("a receipt");
    let stopped = broker.kill();
    let format = stopped.data().join("FORMAT");
    let known = fs::read_to_string(&format).expect("a version");
    let digits = known.find(|c: char| c.is_ascii_digit()).expect("a number in it");
    for unknown in [format!("{}9{}", &known[..digits], &known[digits..]), "nonsense\n".to_owned(), String::new()] {
        fs::write(&format, &unknown).expect("written");
        let before = bytes_of(&stopped.data());
        let output = serve(&stopped.data(), &[]);
        let output = output.failure(1, &["ormat"]);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
        let mut after = bytes_of(&stopped.data());
        // The lock names whoever held it last.
        let lock = stopped.data().join("LOCK");
        after.insert(lock.clone(), before[&lock].clone());
        assert!(before == after, "with {unknown:?}: something was changed");
    }
    fs::write(&format, known).expect("written");
    let broker = stopped.restart();
    assert_eq!(read_all(&broker.client().await, "orders").await.len(), 1);
}

#[test]
fn a_port_in_use_is_told() {
    let broker = BrokerProcess::start();
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("other");
    let (data, listen) = (data.to_str().expect("a path"), format!("127.0.0.1:{}", broker.port()));
    aqueduct(None, &["serve", "--data", data, "--listen", &listen]).failure(1, &[&listen, "--listen", "in use"]);
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "in the way").expect("written");
    // Not permissions: they do not hold whoever runs as root.
    for data in
        [file.join("data"), file.clone(), PathBuf::from("/proc/aqueduct"), PathBuf::from("/proc/self/nowhere/data")]
    {
        let output = serve(&data, &[]).failure(1, &[data.to_str().expect("a path")]);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
    assert_eq!(fs::read(&file).expect("still there"), b"in the way");
}

#[test]
fn a_nonsense_configuration_is_refused_by_key_and_origin() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let config = directory.path().join("aqueduct.toml");
    let file = config.to_str().expect("a path");
    for (content, words) in [
        ("segment_byte = 1", &["segment_byte", "segment_bytes", "aqueduct.toml"][..]),
        ("segment_bytes = \"12 parsecs\"", &["segment_bytes", "parsecs"]),
        ("segment_bytes = 1", &["segment_bytes", "65536"]),
        ("budget_bytes = -5", &["budget_bytes"]),
        ("io_threads = 0", &["io_threads"]),
        ("listen = \"nowhere\"", &["listen", "nowhere"]),
        ("log_level = \"loud\"", &["log_level", "loud"]),
        ("record_bytes_max = \"10MiB\"", &["record_bytes_max"]),
        ("[limits]\nrecord_bytes_max = 1", &["limits"]),
        ("= = =", &["aqueduct.toml"]),
    ] {
        fs::write(&config, content).expect("written");
        for check in [&["--config", file][..], &["--config", file, "--check-config"]] {
            let output = serve(&data, check);
            assert_eq!(output.code, 2, "{content:?}: {output:?}");
            for word in words {
                assert!(output.stderr.contains(word), "{content:?}: no {word:?} in {}", output.stderr);
            }
        }
    }
    serve(&data, &["--config", "/nowhere/aqueduct.toml"]).failure(2, &["/nowhere/aqueduct.toml"]);
    serve(&data, &["--set", "colour=blue"]).failure(2, &["colour"]);
    assert!(!data.exists(), "nothing was made");
}

#[test]
fn unknown_keys_in_the_environment_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    for (key, value) in [("AQUEDUCT_SEGMENT_BYTE", "1"), ("AQUEDUCT_IO_THREADS", "0"), ("AQUEDUCT_COLOUR", "blue")] {
        let output = aqueduct_tests::aqueduct_command()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .env(key, value)
            .output()
            .expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{key}: {stderr}");
        assert!(stderr.contains(key) || stderr.contains(&key["AQUEDUCT_".len()..].to_lowercase()), "{key}: {stderr}");
    }
    assert!(!data.exists(), "nothing was made");
}
