//! `aqueduct verify DIR`.

use std::{fs, io::Write as _};

use aqueduct_client::GroupPolicy;
use aqueduct_tests::{BrokerProcess, aqueduct, segments};

use crate::{damage_batch, numbered, run, snapshot};

/// A broker with three hundred records, a group that has committed, and a topic without any.
async fn broker_with_data() -> BrokerProcess {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    numbered(&client, "numbers", 300).await;
    client.topics().create("empty").partitions(3).build().await.expect("a new topic");
    let group = client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("numbers", [(0, 7)]).await.expect("committed");
    broker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_closed_is_whole_and_verifying_changes_not_a_byte_nor_a_time() {
    let (_, stopped) = broker_with_data().await.terminate();
    let before = snapshot(&stopped.data());
    let output = run("verify", &stopped.data(), &[]).success();
    assert!(output.stdout.ends_with("no damage\n"), "{}", output.stdout);
    assert!(output.stdout.contains("5 logs") && output.stdout.contains("records ("), "{}", output.stdout);
    assert_eq!(output.stderr, "", "progress is for terminals");
    let lines = run("verify", &stopped.data(), &["--output", "json"]).success().json_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["type"], lines[0]["damage"].as_u64()), (&"summary".into(), Some(0)));
    assert_eq!(snapshot(&stopped.data()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_killed_with_a_torn_tail_is_no_damage_and_is_not_touched() {
    let stopped = broker_with_data().await.kill();
    let last = segments::segments(&stopped.data(), "numbers", 0).pop().expect("a segment");
    let end = *segments::batch_positions(&last).last().expect("a position");
    let start = segments::batch_positions(&last)[0];
    let bytes = fs::read(&last).expect("the segment");
    let torn = [&bytes[..end], &bytes[start..start + 200]].concat();
    fs::File::create(&last).and_then(|mut file| file.write_all(&torn)).expect("torn");
    let before = snapshot(&stopped.data());
    let lines = run("verify", &stopped.data(), &["--output", "json"]).success().json_lines();
    assert!(lines.iter().all(|line| line["severity"] != "damage"), "{lines:?}");
    assert!(lines.iter().any(|line| line["finding"] == "torn_tail"), "{lines:?}");
    let text = run("verify", &stopped.data(), &[]).success().stdout;
    assert!(text.contains("the next start cuts 200 bytes") && text.contains("were not closed"), "{text}");
    assert_eq!(snapshot(&stopped.data()), before);
    // The same directory, started and stopped, needs no note any more.
    let (_, stopped) = stopped.restart().terminate();
    assert!(run("verify", &stopped.data(), &[]).success().stdout.ends_with("no damage\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_by_topic_partition_segment_offsets_and_bytes() {
    let (_, stopped) = broker_with_data().await.terminate();
    let damaged = damage_batch(&stopped.data(), "numbers", 1);
    let segment = segments::segments(&stopped.data(), "numbers", 0)[1].clone();
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let output = run("verify", &stopped.data(), &[]).failure(1, &["aqueduct repair"]);
    let offsets = format!("numbers/0, offsets {} to {}", damaged.start, damaged.end - 1);
    for words in [offsets.as_str(), name.as_str(), "DATA_LOSS", "DAMAGED in 1 place: 10 offsets cannot be read"] {
        assert!(output.stdout.contains(words), "no {words:?} in\n{}", output.stdout);
    }
    let output = run("verify", &stopped.data(), &["--output", "json"]).failure(1, &[]);
    let lines = output.json_lines();
    let found: Vec<_> = lines.iter().filter(|line| line["severity"] == "damage").collect();
    assert_eq!(found.len(), 1, "{lines:?}");
    assert_eq!((&found[0]["topic"], &found[0]["partition"]), (&"numbers".into(), &0.into()));
    assert_eq!(
        (found[0]["offset_from"].as_u64(), found[0]["offset_to"].as_u64()),
        (Some(damaged.start), Some(damaged.end))
    );
    assert!(found[0]["file"].as_str().is_some_and(|file| file.ends_with(&name)));
    let (from, to) = (found[0]["byte_from"].as_u64().expect("a byte"), found[0]["byte_to"].as_u64().expect("a byte"));
    let positions: Vec<u64> = segments::batch_positions(&segment).into_iter().map(|at| at as u64).collect();
    assert!(positions.windows(2).any(|pair| pair == [from, to]), "{from}..{to} is one batch of {positions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_file_is_checked() {
    let broker = broker_with_data().await;
    let client = broker.client().await;
    let named = client.producer("numbers").name("till-7").build().await.expect("a named producer");
    named.enqueue(crate::record(300)).await.expect("room").await.expect("a receipt");
    drop(named);
    let (_, stopped) = broker.terminate();
    let data = stopped.data();
    let segment = segments::segments(&data, "numbers", 0)[0].clone();
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let index = name.replace(".log", ".index");
    for (file, at) in [
        (format!("topics/numbers/0/{name}"), 20),
        (format!("topics/numbers/0/{name}"), usize::MAX),
        (format!("topics/numbers/0/{index}"), 80),
        ("topics/numbers/0/partition.state".to_owned(), 40),
        ("topics/numbers/0/partition.state".to_owned(), 4096 + 40),
        ("topics/numbers/0/producers.state".to_owned(), 3),
        ("topics/numbers/topic.toml".to_owned(), 0),
        ("system/producers.state".to_owned(), 5),
        ("system/groups.state".to_owned(), 5),
        ("system/groups/00000000000000000000.log".to_owned(), 90),
        ("system/groups/partition.state".to_owned(), 50),
    ] {
        let path = data.join(&file);
        let honest = fs::read(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        segments::flip(&path, if at == usize::MAX { honest.len() - 10 } else { at });
        let lines = run("verify", &data, &["--output", "json"]).failure(1, &[]).json_lines();
        let damaged: Vec<_> = lines.iter().filter(|line| line["severity"] == "damage").collect();
        assert!(damaged.iter().all(|line| line["file"] == file.as_str()), "{file}: {damaged:?}");
        fs::write(&path, honest).expect("written back");
    }
    assert!(run("verify", &data, &[]).success().stdout.ends_with("no damage\n"));
    fs::remove_file(&segment).expect("removed");
    let text = run("verify", &data, &[]).failure(1, &[]).stdout;
    assert!(text.contains("a segment file is missing"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_newer_format_is_refused_untouched() {
    let (_, stopped) = broker_with_data().await.terminate();
    fs::write(stopped.data().join("FORMAT"), "2\n").expect("written");
    let before = snapshot(&stopped.data());
    for command in [["verify", "--output=text"], ["repair", "--yes"]] {
        run(command[0], &stopped.data(), &command[1..]).failure(1, &["format 2"]);
    }
    assert_eq!(snapshot(&stopped.data()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_a_broker_has_open_is_refused_with_its_pid_and_one_that_is_none_is_not_found() {
    let broker = broker_with_data().await;
    let pid = broker.pid().to_string();
    for command in ["verify", "repair"] {
        run(command, &broker.data(), &[]).failure(5, &[&pid, "in use", "aqueduct topic verify"]);
    }
    run("repair", &broker.data(), &["--yes"]).failure(5, &[&pid]);
    let nowhere = tempfile::tempdir().expect("a directory");
    run("verify", nowhere.path(), &[]).failure(4, &["FORMAT"]);
    run("verify", &nowhere.path().join("nothing"), &[]).failure(4, &[]);
    aqueduct(None, &["verify"]).failure(2, &[]);
}
