//! What must be true afterwards, whatever happened.

use std::collections::BTreeMap;

use aqueduct_client::{Client, Event, Record};
use aqueduct_tests::{BrokerProcess, by_partition, eventually, read_all};

use crate::load::{GROUP, PARTITIONS, Promises, TOPIC, Witnessed};

/// A committed offset that was promised is never taken back, and never beyond the end of the log.
pub(crate) async fn check_committed(broker: &BrokerProcess, promises: &Promises, round: usize) {
    let group = broker.client().await.group(GROUP);
    let lag = eventually("the group answers", async || group.lag(TOPIC).await.ok()).await;
    assert_eq!(lag.len(), PARTITIONS as usize);
    for one in lag {
        let promised = promises.get(&one.partition).copied().unwrap_or(0);
        let committed = one.committed_offset;
        assert!(committed >= promised, "round {round}: {committed} committed, {promised} promised: {one:?}");
        assert!(committed <= one.high_watermark, "round {round}: {one:?}");
    }
}

/// Everything acknowledged is there: byte for byte, in order, without gaps, once; and readers saw just that.
pub(crate) async fn check(client: &Client, witnessed: &Witnessed) {
    let log = by_partition(read_all(client, TOPIC).await);
    for (partition, events) in &log {
        for (expected, event) in (0..).zip(events) {
            assert_eq!(event.offset, expected, "partition {partition} has a gap, or an offset twice");
        }
        assert!(events.is_sorted_by_key(|event| event.append_time), "time goes back in partition {partition}");
    }
    let stored =
        |partition: u32, offset: u64| -> Option<&Event> { log.get(&partition)?.get(usize::try_from(offset).ok()?) };
    let mut promised = 0;
    for receipts in &witnessed.receipts {
        let mut last = BTreeMap::<u32, u64>::new();
        for (record, receipt) in receipts {
            let event = stored(receipt.partition, receipt.offset);
            assert_eq!(event.map(|event| &event.record), Some(record), "acknowledged as {receipt}");
            let before = last.insert(receipt.partition, receipt.offset);
            assert!(before < Some(receipt.offset), "{receipt} comes before what was published earlier");
            promised += 1;
        }
    }
    assert_eq!(log.values().map(Vec::len).sum::<usize>(), promised, "something is stored twice");

    for event in &witnessed.consumed {
        let now: Option<&Record> = stored(event.partition, event.offset).map(|event| &event.record);
        assert_eq!(now, Some(&event.record), "{event:?} was delivered and is something else now");
    }
    let subscribed = by_partition(witnessed.subscribed.clone());
    assert_eq!(subscribed, log, "the subscription saw each record once and in order");
    let lag = client.group(GROUP).lag(TOPIC).await.expect("a report");
    assert!(lag.iter().all(|one| one.lag_records == 0), "{lag:?}");
    println!("{promised} records, {} deliveries", witnessed.consumed.len());
}
