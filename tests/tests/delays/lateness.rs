//! How late what is due comes at ordinary load. Prints it; what is asserted is that everything comes, and nothing early.

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
    let started = std::time::Instant::now();
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
    let mut late_us = within("everything", async {
        let mut late_us = Vec::new();
        while late_us.len() < (CALLERS * RECORDS_OF_EACH) as usize {
            let event = events.next().await.expect("it goes on").expect("an event");
            let due = std::str::from_utf8(event.header(DUE_HEADER).expect("a mark")).expect("text");
            let late = event.append_time.as_micros() - due.parse::<i64>().expect("microseconds");
            assert!(late >= 0, "it came {late} µs early");
            late_us.push(late);
        }
        late_us
    })
    .await;
    for caller in callers {
        caller.await.expect("no panic");
    }
    late_us.sort_unstable();
    let at = |percent: usize| late_us[(late_us.len() - 1) * percent / 100];
    println!(
        "{} records in {:?}: late by {} µs (p50), {} µs (p99), {} µs (max)",
        late_us.len(),
        started.elapsed(),
        at(50),
        at(99),
        at(100)
    );
}
