//! Members against the embedded engine, on a temporary directory.

use std::{num::NonZeroU64, ops::Range, path::Path};

use aqueduct_storage::{Batch, BatchHeader, Offset, RealDisk, payload_crc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::{
    clock::Clock, engine::embedded::EmbeddedEngine, outgoing::Outgoing, topics::settings::NewTopic,
    turns::FairSemaphore,
};

mod admin;
mod consuming;
mod faults;
mod shared;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);
const NO_LIMIT: Credit = Credit { bytes: u64::MAX, records: u64::MAX };

/// What is below the services, on a directory.
struct Stack {
    meta: Arc<dyn MetaStore>,
    topics: Arc<Topics>,
    groups: Arc<Groups>,
}

impl Stack {
    async fn open(directory: &Path) -> Self {
        let options = crate::BrokerConfig::default().embedded();
        let engine = EmbeddedEngine::open(Arc::new(RealDisk::new()), directory, options).expect("the directory opens");
        let meta: Arc<dyn MetaStore> = Arc::new(Arc::new(engine));
        let topics =
            Topics::open(Arc::clone(&meta), 1 << 20, Arc::default(), Clock::default()).await.expect("the topics open");
        let delays = Delays::open(Arc::clone(&meta), Arc::clone(&topics)).await.expect("the delays open");
        let unpacking = Arc::new(FairSemaphore::new(1));
        let groups =
            Groups::open(Arc::clone(&meta), Arc::clone(&topics), delays, unpacking).await.expect("the groups open");
        Self { meta, topics, groups }
    }

    /// On a new directory with a topic `t`.
    async fn with_topic(partitions: u32) -> (Self, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let stack = Self::open(directory.path()).await;
        stack.create_topic(partitions).await;
        (stack, directory)
    }

    async fn create_topic(&self, partitions: u32) -> Arc<Topic> {
        let new = NewTopic { partitions, ..NewTopic::default() };
        self.topics.create("t", new).await.expect("the topic is made")
    }

    async fn close(self) {
        self.groups.shutdown(PATIENCE).await;
        self.topics.close().await;
        self.meta.close(PATIENCE).await.expect("the engine closes");
    }

    async fn restart(self, directory: &Path) -> Self {
        self.close().await;
        Self::open(directory).await
    }

    fn topic(&self) -> Arc<Topic> {
        self.topics.find("t").expect("the topic is there")
    }

    /// Appends a batch of so many records to a partition of `t`.
    async fn publish(&self, partition: u32, record_count: u32) {
        let partition = self.topic().partition(partition).expect("the partition is there");
        let log = partition.log().expect("it is in service");
        let lease = log.acquire().await.expect("a lease");
        let payload = vec![7; 100 * record_count as usize];
        let header = BatchHeader {
            base_offset: lease.tail,
            record_count,
            payload_crc: payload_crc(&payload),
            append_time_us: crate::clock::now_us(),
            epoch: lease.epoch,
            ..BatchHeader::default()
        };
        let batch = Batch { header, payload: payload.into() };
        log.append(lease, lease.tail, vec![batch]).await.expect("it is appended");
    }

    async fn committed(&self, partition: u32) -> Offset {
        let lags = self.groups.lag(Some("g"), Some("t")).await.expect("the lag is told");
        lags.iter().find(|lag| lag.partition == partition).expect("there is a position").committed
    }

    /// Joins group `g` on `t`, and has taken `Joined`.
    async fn join(&self, join: JoinRequest) -> Member {
        let mut member = self.open_stream(join).await;
        match member.next().await {
            Ok(Event::Joined { .. }) => member,
            other => panic!("not joined: {other:?}"),
        }
    }

    async fn open_stream(&self, join: JoinRequest) -> Member {
        let (requests, inbound) = mpsc::channel(64);
        let (outbound, events) = mpsc::channel(OUTBOUND_EVENTS);
        requests.send(Ok(Request::Join(Box::new(join)))).await.expect("there is room");
        tokio::spawn(Arc::clone(&self.groups).consume(
            ClientId::Named(0),
            ReceiverStream::new(inbound),
            outbound,
            Outgoing::default(),
        ));
        Member { requests, events, next_ack_id: 0 }
    }
}

fn joining() -> JoinRequest {
    JoinRequest {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        topic_id: bytes::Bytes::new(),
        member_name: String::new(),
        keep: Duration::ZERO,
        opinion: PolicyOpinion::default(),
        credit: NO_LIMIT,
        heartbeat: Duration::from_secs(60),
    }
}

fn with_ack_timeout(ack_timeout: Duration) -> JoinRequest {
    let opinion = PolicyOpinion { ack_timeout: Some(ack_timeout), ..PolicyOpinion::default() };
    JoinRequest { opinion, ..joining() }
}

/// A client of one stream. Dropping it breaks the stream.
struct Member {
    requests: mpsc::Sender<Result<Request, GroupError>>,
    events: mpsc::Receiver<Result<Event, GroupError>>,
    next_ack_id: u64,
}

impl Member {
    async fn next(&mut self) -> Result<Event, GroupError> {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("something comes in time");
        event.expect("the stream goes on")
    }

    async fn end(&mut self) -> Option<GroupError> {
        loop {
            match timeout(PATIENCE, self.events.recv()).await.expect("it ends in time") {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(error),
                None => return None,
            }
        }
    }

    async fn assignment(&mut self) -> (Vec<Assigned>, Vec<u32>) {
        match self.next().await {
            Ok(Event::Assignment { assigned, revoked }) => (assigned, revoked),
            other => panic!("not an assignment: {other:?}"),
        }
    }

    async fn delivery(&mut self) -> Delivery {
        match self.next().await {
            Ok(Event::Delivery(delivery)) => delivery,
            other => panic!("not a delivery: {other:?}"),
        }
    }

    async fn send(&self, request: Request) {
        self.requests.send(Ok(request)).await.expect("the stream takes requests");
    }

    fn settle(&mut self, of: &Delivery, range: Range<Offset>) -> Settle {
        self.next_ack_id += 1;
        Settle {
            ack_id: NonZeroU64::new(self.next_ack_id),
            partition: of.partition,
            generation: of.generation,
            ranges: vec![range],
        }
    }

    /// Acks, and waits for the answer; other events are dropped.
    async fn ack(&mut self, of: &Delivery, range: Range<Offset>) -> Result<Offset, GroupError> {
        let settle = self.settle(of, range);
        let wanted = settle.ack_id;
        self.send(Request::Ack(settle)).await;
        self.settled(wanted).await
    }

    async fn settled(&mut self, wanted: Option<NonZeroU64>) -> Result<Offset, GroupError> {
        loop {
            match self.next().await? {
                Event::Settled { ack_id, committed, error } if Some(ack_id) == wanted => {
                    return error.map_or(Ok(committed), Err);
                }
                _ => {}
            }
        }
    }
}

fn offsets(delivery: &Delivery) -> Vec<Offset> {
    delivery.ranges.iter().cloned().flatten().collect()
}
