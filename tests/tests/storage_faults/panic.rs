//! A thread that writes and panics. The broker has no switch for that: a write that claims to have taken more than it was
//! given, which no kernel does, is an assertion that fails.

use aqueduct_client::Record;
use aqueduct_tests::{BrokerProcess, Fault, Raw, Refusal, eventually, raw, read_all, text, within};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_panics_poisons_its_partition_and_no_other() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    for topic in ["orders", "other"] {
        client.topics().create(topic).build().await.expect("a new topic");
        client.publish(topic, Record::new("before")).await.expect("a receipt");
    }
    let mut raw = Raw::connect(&broker.url()).await;
    let request = || raw::publish_records("orders", vec![raw::record("lost?")]);

    let fault = Fault::inject(broker.pid(), "pwritev", &["pwritev:retval=1000000000:when=1"]);
    let unknown = within("an answer", raw.publish(request())).await;
    Refusal::of(unknown).expect(Code::Unknown, "OUTCOME_UNKNOWN");
    drop(fault);
    assert!(broker.log().contains("panicked"), "the writer did not panic: this test tests nothing");

    // No acknowledgement, however often one tries; and whoever looks is told.
    let refused = async || {
        let refusal = Refusal::of(raw.clone().publish(request()).await);
        (refusal.code == Code::Unavailable).then_some(refusal)
    };
    eventually("publishing is refused", refused).await.expect(Code::Unavailable, "PARTITION_UNAVAILABLE");
    for _ in 0..20 {
        Refusal::of(raw.publish(request()).await).expect(Code::Unavailable, "PARTITION_UNAVAILABLE");
    }
    let failure =
        async |topic: &str| client.topics().describe(topic).await.expect("a description").partitions.remove(0).failure;
    assert!(failure("orders").await.is_some());
    assert_eq!(failure("other").await, None);

    // What is durable can be read; the others go on; and a restart makes it whole.
    let values = async |client| -> Vec<String> {
        read_all(client, "orders").await.iter().map(|event| text(event).to_owned()).collect()
    };
    assert_eq!(values(&client).await, ["before"]);
    assert_eq!(client.publish("other", Record::new("after")).await.expect("a receipt").offset, 1);
    let broker = broker.kill_and_restart();
    let client = broker.client().await;
    assert_eq!(client.publish("orders", Record::new("after")).await.expect("a receipt").offset, 1);
    assert_eq!(values(&client).await, ["before", "after"]);
}
