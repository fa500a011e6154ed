//! Order within a partition, when a record is given back.

use aqueduct::testing::TestBroker;
use aqueduct_client::{Record, Start};
use aqueduct_tests::within;

const EVENTS: u64 = 200;
const FAILS: u64 = 17;

#[tokio::test]
async fn what_follows_a_record_that_was_given_back_comes_after_it() {
    let broker = TestBroker::start().await.unwrap();
    let client = broker.client();
    client.topics().create("orders").build().await.unwrap();
    for value in 0..EVENTS {
        client.publish("orders", Record::new(value.to_string())).await.unwrap();
    }
    let mut inbox = client.consumer("orders", "billing").start(Start::Earliest).build().await.unwrap();
    let mut handled = Vec::new();
    while handled.len() < usize::try_from(EVENTS).unwrap() {
        let delivery = within("a delivery", inbox.next()).await.unwrap().unwrap();
        if delivery.offset == FAILS && delivery.attempt() < 3 {
            delivery.nack("not yet");
        } else {
            handled.push(delivery.offset);
            delivery.ack_durable().await.unwrap();
        }
    }
    assert_eq!(handled, (0..EVENTS).collect::<Vec<_>>());
}
