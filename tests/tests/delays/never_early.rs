//! At ordinary load everything that is due comes, and nothing early. How late it is, `aqueduct-benches delays` measures.

use std::time::Duration;

use aqueduct_client::{DUE_HEADER, Due, Record, Start};
use aqueduct_tests::{BrokerProcess, within};

const CALLERS: u32 = 16;
const RECORDS_OF_EACH: u32 = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_delivered_and_never_early() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("reminders").partitions(2).build().await.expect("a topic");
    let mut events = client.subscribe("reminders").from(Start::Earliest).build().await.expect("a subscription");
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(caller.into());
                for number in 0..RECORDS_OF_EACH {
                    let due = Due::In(Duration::from_millis(random.u64(1000..2500)));
                    let record = Record::new(vec![b'x'; 100]).key(number.to_string());
                    client.schedule("reminders", record, due).await.expect("it is scheduled");
                }
            })
        })
        .collect();
    within("everything", async {
        for _ in 0..CALLERS * RECORDS_OF_EACH {
            let event = events.next().await.expect("it goes on").expect("an event");
            let due = std::str::from_utf8(event.header(DUE_HEADER).expect("a mark")).expect("text");
            let late_us = event.append_time.as_micros() - due.parse::<i64>().expect("microseconds");
            assert!(late_us >= 0, "it came {late_us} µs early");
        }
    })
    .await;
    for caller in callers {
        caller.await.expect("no panic");
    }
}
