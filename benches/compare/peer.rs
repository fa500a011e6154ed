//! What every server under test can do: the seam between the workloads and the clients.

use bytes::Bytes;

/// One event on its way in.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Bytes,
}

/// Looks at a record that has been read: its key, if it has one, and its value.
pub(crate) type Visit<'a> = &'a mut (dyn FnMut(&[u8], &[u8]) + Send);

/// A server that runs on a temporary directory, and its client. Killed when it is dropped.
#[tonic::async_trait]
pub(crate) trait Peer: Send + Sync {
    /// The server's process.
    fn pid(&self) -> u32;

    /// Makes `log` with empty partitions: a topic, or as many streams.
    async fn create(&self, log: &str, partitions: u32) -> anyhow::Result<()>;

    /// A producer into one partition.
    async fn producer(&self, log: &str, partition: u32) -> anyhow::Result<Box<dyn Producer>>;

    /// Reads the first `records` of partition 0, in the way that is best for history.
    async fn replay(&self, log: &str, records: u64, visit: Visit<'_>) -> anyhow::Result<()>;

    /// Follows partition 0 from its start, in the way that is best for news.
    async fn follow(&self, log: &str) -> anyhow::Result<Box<dyn Follower>>;
}

/// Publishes into one partition. An acknowledged record is as durable as the server was told to make it.
#[tonic::async_trait]
pub(crate) trait Producer: Send + Sync {
    /// Hands over many records, and waits only while too many are without an acknowledgement.
    async fn enqueue(&mut self, messages: &[Message]) -> anyhow::Result<()>;

    /// Waits until everything is acknowledged.
    async fn flush(&mut self) -> anyhow::Result<()>;

    /// Publishes one record and waits for its acknowledgement.
    async fn publish(&self, message: Message) -> anyhow::Result<()>;
}

/// A reader at the tail.
#[tonic::async_trait]
pub(crate) trait Follower: Send {
    /// Waits for something new.
    async fn next(&mut self, visit: Visit<'_>) -> anyhow::Result<()>;
}
