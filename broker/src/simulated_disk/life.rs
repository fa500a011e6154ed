//! One process: what its clients do, and what they ask after it was started again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aqueduct_proto::v1::{self, log_client::LogClient, publish_request::Payload, publish_result::Outcome};
use aqueduct_storage::Offset;
use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::ledger::{Ledger, Sent};
use crate::{
    client::{Client, Delivery, GroupMode, Record, TopicId, codec::encode_record_set},
    core::BrokerCore,
    in_process::InProcess,
};

const TOPIC: &str = "orders";
const GROUPS: [(&str, GroupMode); 2] = [("billing", GroupMode::Ordered), ("audit", GroupMode::Shared)];
/// What has no answer within this time has none: the power is off. On a disk that works everything is faster.
const PATIENCE: Duration = Duration::from_secs(5);
/// After the power went nobody need be waited for.
const GRACE: Duration = Duration::from_millis(200);

/// See the [module](self).
pub(super) struct Life {
    core: Arc<BrokerCore>,
    client: Client,
}

impl Life {
    pub(super) fn new(core: Arc<BrokerCore>) -> Self {
        let client = Client::from_service(InProcess::new(&core));
        Self { core, client }
    }

    pub(super) async fn make_topic(&self, ledger: &mut Ledger) {
        let made = self.client.topics().create(TOPIC).partitions(2).build().await.expect("the topic is made");
        ledger.topics.insert(made.name, vec![Some(made.id)]);
    }

    pub(super) async fn step(&self, ledger: &mut Ledger, rng: &mut Rng) {
        match rng.u32(..10) {
            0..4 => self.publish(ledger, rng).await,
            4..7 => self.consume(ledger, rng).await,
            7 | 8 => self.create_topic(ledger, rng).await,
            _ => self.delete_topic(ledger).await,
        }
    }

    /// Every producer sends something, at once.
    async fn publish(&self, ledger: &mut Ledger, rng: &mut Rng) {
        for lane in &mut ledger.lanes {
            let (id, sequence) = (lane.id[0], lane.next);
            let record = |number: u64| {
                let mut value = format!("{id}/{}/", sequence + number).into_bytes();
                value.resize(value.len() + if rng.u32(..4) == 0 { rng.usize(..9000) } else { 20 }, id);
                Record::new(value)
            };
            if lane.pending.is_none() {
                let records: Vec<Record> = (0..1 + sequence % 3).map(record).collect();
                lane.next += records.len() as u64;
                ledger.sent.extend(records.iter().filter_map(|record| record.value.clone()));
                lane.pending = Some(Sent { sequence, records });
            }
        }
        let requests = ledger.lanes.iter().map(|lane| {
            let sent = lane.pending.clone().expect("just filled");
            self.send(lane.id.clone(), lane.partition, sent)
        });
        for (lane, ack) in join_all(requests).await.into_iter().enumerate() {
            if let Some(ack) = ack {
                acknowledged(ledger, lane, &ack);
            }
        }
    }

    /// Sends a numbered request; `None` if its outcome is not known.
    async fn send(&self, id: Bytes, partition: u32, sent: Sent) -> Option<v1::PublishAck> {
        let request = v1::PublishRequest {
            topic: TOPIC.to_owned(),
            partition: Some(partition),
            payload: Some(Payload::Records(record_set(&sent.records))),
            producer: Some(v1::ProducerSequence { id, epoch: 0, sequence: sent.sequence }),
            ..v1::PublishRequest::default()
        };
        let mut log = LogClient::new(InProcess::new(&self.core));
        let response = timeout(PATIENCE, log.publish(request)).await.ok()?.ok()?.into_inner();
        response.results.into_iter().find_map(|result| match result.outcome {
            Some(Outcome::Ack(ack)) => Some(ack),
            Some(Outcome::Error(_) | Outcome::Scheduled(_)) | None => None,
        })
    }

    /// A member of a group takes some events and acks them durably.
    async fn consume(&self, ledger: &mut Ledger, rng: &mut Rng) {
        let (group, mode) = GROUPS[rng.usize(..GROUPS.len())];
        let mut open: usize = ledger.stored.iter().map(BTreeMap::len).sum();
        open -= ledger.acked.get(group).map_or(0, |acked| acked.iter().map(|offsets| offsets.len()).sum());
        let joined = timeout(PATIENCE, self.client.consumer(TOPIC, group).mode(mode).build()).await;
        let Ok(Ok(mut consumer)) = joined else { return };
        let mut deliveries: Vec<Delivery> = Vec::new();
        for _ in 0..open.min(rng.usize(1..8)) {
            let Ok(Some(Ok(delivery))) = timeout(GRACE, consumer.next()).await else { break };
            deliveries.push(delivery);
        }
        let mut acks = Vec::new();
        for delivery in deliveries {
            let (partition, offset) = (delivery.event().partition, delivery.event().offset);
            let value = Bytes::copy_from_slice(delivery.event().value().expect("no tombstones"));
            ledger.show(partition, offset, &value);
            acks.push(async move {
                let acked = timeout(PATIENCE, delivery.ack_durable()).await;
                matches!(acked, Ok(Ok(()))).then_some((partition, offset))
            });
        }
        for (partition, offset) in join_all(acks).await.into_iter().flatten() {
            ledger.acks_durable += 1;
            ledger.acked.entry(group).or_default()[partition as usize].insert(offset);
        }
        // A session that ends with the power has nothing to close.
        drop(timeout(GRACE, consumer.close()).await);
    }

    async fn create_topic(&self, ledger: &mut Ledger, rng: &mut Rng) {
        let name = format!("short-{}", rng.u32(..3));
        if ledger.topics.get(&name).is_some_and(|possible| *possible != [None]) {
            return;
        }
        let possible = ledger.topics.entry(name.clone()).or_insert_with(|| vec![None]);
        match timeout(PATIENCE, self.client.topics().create(&name).build()).await {
            Ok(Ok(made)) => {
                *possible = vec![Some(made.id)];
                ledger.topics_acked += 1;
            }
            // Its id is not known: see `ask`.
            Ok(Err(_)) | Err(_) => possible.push(Some(TopicId([0; 16]))),
        }
    }

    async fn delete_topic(&self, ledger: &mut Ledger) {
        let is_there = |possible: &Vec<Option<TopicId>>| matches!(possible[..], [Some(_)]);
        let short = ledger.topics.iter_mut().filter(|(name, _)| *name != TOPIC);
        let Some((name, possible)) = short.into_iter().find(|(_, possible)| is_there(possible)) else { return };
        match timeout(PATIENCE, self.client.topics().delete(name)).await {
            Ok(Ok(())) => {
                *possible = vec![None];
                ledger.topics_acked += 1;
            }
            Ok(Err(_)) | Err(_) => possible.push(None),
        }
    }

    /// Asks the broker about everything that it has promised, on a disk that works.
    pub(super) async fn ask(&self, ledger: &mut Ledger) {
        let topics = self.client.topics().list().await.expect("topics are listed");
        let unknown = Some(TopicId([0; 16]));
        let mut found = BTreeMap::new();
        for topic in topics {
            if let Some(possible) = ledger.topics.get_mut(&topic.name) {
                possible.iter_mut().filter(|id| **id == unknown).for_each(|id| *id = Some(topic.id));
            }
            found.insert(topic.name, topic.id);
        }
        ledger.show_topics(&found);
        let ends = [self.read(ledger, 0).await, self.read(ledger, 1).await];
        for (group, _) in GROUPS {
            match self.client.group(group).lag(TOPIC).await {
                Ok(lags) => {
                    for lag in lags {
                        let end = ends[lag.partition as usize];
                        assert_eq!(lag.high_watermark, end, "{}", ledger.context);
                        ledger.show_committed(group, lag.partition, lag.committed_offset, end);
                    }
                }
                Err(error) => {
                    let is_new = error.is_not_found() && !ledger.acked.contains_key(group);
                    assert!(is_new, "{}: {group}: {error}", ledger.context);
                }
            }
        }
        self.retry(ledger).await;
        self.read(ledger, 0).await;
        self.read(ledger, 1).await;
    }

    /// Reads a whole partition; its end.
    async fn read(&self, ledger: &mut Ledger, partition: u32) -> Offset {
        let mut values = Vec::new();
        loop {
            let fetched = self.client.fetch(TOPIC, partition, values.len() as Offset).build().await;
            let fetched = fetched.unwrap_or_else(|error| panic!("{}: {partition}: {error}", ledger.context));
            for event in fetched.events() {
                let event = event.expect("it decodes");
                assert_eq!(event.offset, values.len() as Offset, "{}: no gaps", ledger.context);
                values.push(Bytes::copy_from_slice(event.value().expect("no tombstones")));
            }
            if values.len() as Offset == fetched.high_watermark {
                ledger.show_all(partition, &values);
                return fetched.high_watermark;
            }
        }
    }

    /// What was acknowledged last is a duplicate; what was not is acknowledged now, and stored once.
    async fn retry(&self, ledger: &mut Ledger) {
        for number in 0..ledger.lanes.len() {
            let lane = &ledger.lanes[number];
            let (id, partition) = (lane.id.clone(), lane.partition);
            if let Some((sent, offset)) = lane.last.clone() {
                let again = self.send(id.clone(), partition, sent).await.expect("the disk works");
                assert!(again.duplicate, "{}: a retry was stored anew at {}", ledger.context, again.base_offset);
                assert_eq!(again.base_offset, offset, "{}: a retry is answered as before", ledger.context);
                ledger.duplicates += 1;
            }
            if let Some(sent) = ledger.lanes[number].pending.clone() {
                let ack = self.send(id, partition, sent).await.expect("the disk works");
                acknowledged(ledger, number, &ack);
            }
        }
    }
}

fn acknowledged(ledger: &mut Ledger, lane: usize, ack: &v1::PublishAck) {
    let sent = ledger.lanes[lane].pending.take().expect("it was sent");
    for (offset, record) in (ack.base_offset..).zip(&sent.records) {
        ledger.show(ack.partition, offset, record.value.as_ref().expect("no tombstones"));
    }
    ledger.lanes[lane].last = Some((sent, ack.base_offset));
    ledger.publishes_acked += 1;
}

fn record_set(records: &[Record]) -> v1::RecordSet {
    prost::Message::decode(encode_record_set(records)).expect("just encoded")
}
