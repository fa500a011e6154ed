//! Health while the disk fails: which partition, why, and when it is tried again.

use std::time::Duration;

use aqueduct_client::Record;
use aqueduct_tests::{BrokerProcess, Fault, Launch, Raw, Refusal, aqueduct, eventually, raw, read_all, within};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

struct Health(HealthClient<Channel>);

impl Health {
    async fn of(broker: &BrokerProcess) -> Self {
        let channel = Channel::from_shared(broker.url()).expect("a URL").connect().await.expect("the broker listens");
        Self(HealthClient::new(channel))
    }

    async fn check(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest { service: service.to_owned() };
        self.0.clone().check(request).await.expect("an answer").into_inner().status()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_fences_its_partition_health_says_why_and_the_others_go_on() {
    let broker = BrokerProcess::launch(Launch::with_args(&["--set", "io_threads=1"]));
    let client = broker.client().await;
    for topic in ["orders", "invoices"] {
        client.topics().create(topic).build().await.expect("a new topic");
        client.publish(topic, Record::new("before")).await.expect("a receipt");
    }
    let health = Health::of(&broker).await;
    assert_eq!(health.check("aqueduct.v1.Log").await, ServingStatus::Serving);
    assert_eq!(client.info().await.expect("an answer").failures, []);

    // The disk has failed for good, but only under `orders`: everything else about it goes well.
    let fault =
        Fault::inject_under(broker.pid(), &broker.data().join("topics/orders/0"), &["fdatasync,fsync:error=EIO"]);
    let mut raw = Raw::connect(&broker.url()).await;
    let request = raw::publish_records("orders", vec![raw::record("lost?"); 3]);
    Refusal::of(within("an answer", raw.publish(request.clone())).await).expect(Code::Unknown, "OUTCOME_UNKNOWN");
    eventually("health says so", async || {
        (health.check("aqueduct.v1.Log").await == ServingStatus::NotServing).then_some(())
    })
    .await;
    assert_eq!(health.check("").await, ServingStatus::Serving, "the broker as a whole goes on");
    let failure = eventually("the next attempt is told", async || {
        let failures = client.info().await.expect("an answer").failures;
        failures.into_iter().next().filter(|failure| failure.retry_in.is_some())
    })
    .await;
    assert_eq!((failure.topic.as_str(), failure.partition), ("orders", 0));
    assert!(failure.reason.contains("Input/output error"), "{failure:?}");
    assert!(failure.retry_in <= Some(Duration::from_secs(5)), "{failure:?}");
    let described = aqueduct(Some(&broker.url()), &["topic", "describe", "orders"]).success().stdout;
    assert!(described.contains("failed: ") && described.contains("Input/output error"), "{described}");
    let info = aqueduct(Some(&broker.url()), &["info"]).success().stdout;
    assert!(info.contains("1 partition takes no writes") && info.contains("orders/0  failed: "), "{info}");

    client.publish("invoices", Record::new("meanwhile")).await.expect("the others go on");
    assert_eq!(raw.fetch("orders", 0, 0).await.expect("and so does reading").records.len(), 1);

    drop(fault);
    eventually("publishing works again by itself", async || raw.clone().publish(request.clone()).await.ok()).await;
    eventually("and health says so", async || {
        (health.check("aqueduct.v1.Log").await == ServingStatus::Serving).then_some(())
    })
    .await;
    assert_eq!(client.info().await.expect("an answer").failures, []);
    let described = client.topics().describe("orders").await.expect("a description");
    assert_eq!(described.partitions[0].failure, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_shared_a_failed_sync_is_told_that_the_outcome_is_unknown() {
    const SHARING: usize = 5;
    // One thread writes: while it waits for a slow sync elsewhere, what comes for `orders` gathers to one group.
    let broker = BrokerProcess::launch(Launch::with_args(&["--set", "io_threads=1"]));
    let client = broker.client().await;
    for topic in ["slow", "orders"] {
        client.topics().create(topic).build().await.expect("a new topic");
        client.publish(topic, Record::new("before")).await.expect("a receipt");
    }
    let fault = Fault::inject(broker.pid(), "fdatasync", &["fdatasync:error=EIO:delay_enter=3000000"]);
    let raw = Raw::connect(&broker.url()).await;
    let publish = |topic: &str| {
        let (mut raw, request) = (raw.clone(), raw::publish_records(topic, vec![raw::record("lost?")]));
        tokio::spawn(async move { within("an answer", raw.publish(request)).await })
    };
    let first = publish("slow");
    eventually("the thread waits for its sync", async || {
        fault.trace().iter().any(|line| line.contains("fdatasync")).then_some(())
    })
    .await;
    let sharing: Vec<_> = (0..SHARING).map(|_| publish("orders")).collect();
    Refusal::of(first.await.expect("no panic")).expect(Code::Unknown, "OUTCOME_UNKNOWN");
    for waiter in sharing {
        Refusal::of(waiter.await.expect("no panic")).expect(Code::Unknown, "OUTCOME_UNKNOWN");
    }
    let syncs = fault.trace().iter().filter(|line| line.contains("orders") && line.contains(".log>")).count();
    assert_eq!(syncs, 1, "one sync for all of them, and never again: {:?}", fault.trace());
    drop(fault);
    let request = raw::publish_records("orders", vec![raw::record("after")]);
    eventually("the log goes on by itself", async || raw.clone().publish(request.clone()).await.ok()).await;
    let values: Vec<String> =
        read_all(&client, "orders").await.iter().map(|event| aqueduct_tests::text(event).to_owned()).collect();
    assert_eq!(values, ["before", "after"], "what was neither acknowledged nor visible is cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_be_opened_is_named_by_health_until_its_topic_is_gone() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    crate::numbered(&client, "numbers", 300).await;
    let stopped = broker.terminate().1;
    let lost = &aqueduct_tests::segments::segments(&stopped.data(), "numbers", 0)[1];
    std::fs::remove_file(lost).expect("removed");
    let broker = stopped.restart();
    let client = broker.client().await;
    let health = Health::of(&broker).await;
    assert_eq!(health.check("aqueduct.v1.Log").await, ServingStatus::NotServing);
    let failures = client.info().await.expect("an answer").failures;
    assert!(failures.len() == 1 && failures[0].topic == "numbers", "{failures:?}");
    assert_eq!(failures[0].retry_in, None, "no attempt will bring a lost file back");
    client.topics().delete("numbers").await.expect("deleted");
    eventually("health is good again", async || {
        (health.check("aqueduct.v1.Log").await == ServingStatus::Serving).then_some(())
    })
    .await;
}
