//! `aqueduct topic verify`: of a broker that goes on meanwhile.

use aqueduct_client::{VerifyEvent, VerifyFinding, VerifySeverity};
use aqueduct_tests::{BrokerProcess, Output, aqueduct, within};

use crate::{damage_batch, numbered, record, run};

fn topic_verify(broker: &BrokerProcess, more: &[&str]) -> Output {
    let mut args = vec!["topic", "verify", "numbers"];
    args.extend(more);
    aqueduct(Some(&broker.url()), &args)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_verified_while_it_is_published_to() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    numbered(&client, "numbers", 600).await;
    let producer = client.producer("numbers").build().await.expect("a producer");
    let publishing = tokio::spawn(async move {
        for number in 600..2000 {
            producer.publish_all([record(number)]).await.expect("a receipt");
        }
    });
    let mut rounds = 0;
    while !publishing.is_finished() || rounds == 0 {
        let mut verification = client.topics().verify("numbers").build().await.expect("begun");
        let mut summary = None;
        while let Some(event) = within("an event", verification.next()).await {
            match event.expect("it goes through") {
                VerifyEvent::Finding(finding) => panic!("{finding:?}"),
                VerifyEvent::Progress { .. } => assert_eq!(summary, None),
                VerifyEvent::Summary(said) => summary = Some(said),
            }
        }
        let summary = summary.expect("a summary at the end");
        assert!(summary.records >= 600 && summary.damage == 0, "{summary:?}");
        rounds += 1;
    }
    publishing.await.expect("publishing went on");
    println!("verified {rounds} times");
    assert!(topic_verify(&broker, &[]).success().stdout.ends_with("no damage\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_broker_names_the_same_damage_as_its_stopped_directory() {
    let broker = BrokerProcess::start();
    numbered(&broker.client().await, "numbers", 300).await;
    let (_, stopped) = broker.terminate();
    let damaged = damage_batch(&stopped.data(), "numbers", 1);
    let offline = run("verify", &stopped.data(), &["--output", "json"]).failure(1, &[]).json_lines().remove(0);
    let broker = stopped.restart();
    let client = broker.client().await;
    let mut verification = client.topics().verify("numbers").partition(0).build().await.expect("begun");
    let mut findings: Vec<VerifyFinding> = Vec::new();
    while let Some(event) = within("an event", verification.next()).await {
        if let VerifyEvent::Finding(finding) = event.expect("it goes through") {
            findings.push(finding);
        }
    }
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].severity, VerifySeverity::Damage);
    assert_eq!((findings[0].offset_from, findings[0].offset_to), (Some(damaged.start), Some(damaged.end)));
    let online = topic_verify(&broker, &["--output", "json"]).failure(1, &["repair"]).json_lines().remove(0);
    assert_eq!(online, offline);
    topic_verify(&broker, &["--partition", "9"]).failure(4, &["numbers"]);
}
