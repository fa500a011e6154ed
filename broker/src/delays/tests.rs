//! The store in a broker: on a temporary directory with a clock that is set forward, and on a disk that crashes.

use std::collections::BTreeMap;

use aqueduct_client::Client;
use aqueduct_storage::Offset;
use bytes::Bytes;

use super::*;
use crate::{core::BrokerCore, in_process::InProcess};

mod census;
mod crashes;
mod faults;
mod order;

const TOPIC: &str = "reminders";

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// One record as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delivered {
    value: Bytes,
    append_time_us: i64,
}

/// Everything in a partition.
async fn delivered(core: &Arc<BrokerCore>, partition: u32) -> Vec<Delivered> {
    let client = Client::from_service(InProcess::new(core));
    let mut found = Vec::new();
    loop {
        let fetched = client.fetch(TOPIC, partition, found.len() as Offset).build().await.expect("it is fetched");
        for event in fetched.events() {
            let event = event.expect("it decodes");
            let value = Bytes::copy_from_slice(event.value().expect("no tombstones"));
            found.push(Delivered { value, append_time_us: event.append_time.as_micros() });
        }
        if found.len() as Offset == fetched.high_watermark {
            return found;
        }
    }
}

/// Waits until the partition holds so many.
async fn wait_for(core: &Arc<BrokerCore>, partition: u32, records: u64) {
    let topic = core.topics.find(TOPIC).expect("the topic is there");
    let mut window = topic.partition(partition).expect("a partition").log().expect("it is open").watch();
    let reached = window.wait_for(|window| window.high_watermark >= records);
    let outcome = tokio::time::timeout(PATIENCE, reached).await.map(drop);
    if outcome.is_err() {
        let found = delivered(core, partition).await.len();
        panic!("partition {partition} has {found} of {records}; {} wait", core.delays.pending());
    }
}

fn destination(core: &BrokerCore, partition: u32) -> Destination {
    Destination { topic: core.topics.find(TOPIC).expect("the topic is there").meta().id, partition }
}

fn delayed(due_us: i64, value: impl Into<Bytes>) -> Delayed {
    Delayed::new(due_us, &Record::new(value))
}
