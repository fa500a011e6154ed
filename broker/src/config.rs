//! Settings of a broker. Every field has its default, unit and bounds here; [`BrokerConfig::validate`] enforces them.

use std::time::Duration;

use crate::{engine::embedded::EmbeddedOptions, error::OpenError};

const MIB: u64 = 1 << 20;

/// Bounds on what clients send and get. `Admin.Info` reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One encoded record, in bytes.
    pub record_bytes_max: u64,
    /// The records of one batch as sent, in bytes.
    pub batch_bytes_max: u64,
    /// The records of one batch unpacked, in bytes.
    pub batch_decoded_bytes_max: u64,
    /// The records of one batch.
    pub batch_records_max: u32,
    /// One response, in bytes, unless a single batch is larger. Stock gRPC clients stop at 4 MiB.
    pub response_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record_bytes_max: MIB,
            batch_bytes_max: 2 * MIB,
            batch_decoded_bytes_max: 16 * MIB,
            batch_records_max: 65_536,
            response_bytes_max: 7 * MIB / 2,
        }
    }
}

impl Limits {
    /// The largest message a client may send: a batch with its header.
    pub fn request_bytes_max(&self) -> usize {
        usize::try_from(self.batch_bytes_max + MIB).unwrap_or(usize::MAX)
    }
}

/// What connections may cost, whoever makes them. A server on a socket keeps these; inside the process there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at a time; more are refused. The system's limit on open files may lower it, because the log needs
    /// descriptors as well. Default 4096; 1 to 1,000,000.
    pub connections_max: u32,
    /// Calls and streams at a time on one connection; HTTP/2's own default is unlimited. Default 1024; 1 to 65,536.
    pub streams_max: u32,
    /// The headers of one call, in bytes. Default 16 KiB; 4 KiB to 1 MiB.
    pub header_list_bytes_max: u64,
    /// Streams that were reset before they were taken up; a connection with more of them is closed. Default 20; 1 to 1024.
    pub resets_pending_max: u32,
    /// How long a new connection may take to say that it speaks HTTP/2. Default 10 s; at least 100 ms.
    pub preface_timeout: Duration,
    /// A connection on which nothing has come for so long is asked whether it lives. Default 15 s; at least 100 ms.
    pub keepalive_interval: Duration,
    /// One that does not answer within this time is closed. One that does may stay idle. Default 10 s; at least 100 ms.
    pub keepalive_timeout: Duration,
    /// How long one request may take to come in completely, once it has begun. Default 30 s; at least 100 ms.
    pub request_timeout: Duration,
    /// Memory for requests that have not come in completely, in the whole broker. Default 64 MiB; at least 4 MiB.
    pub incoming_budget_bytes: u64,
    /// Memory for what was read for clients that have not taken it yet, in the whole broker. Default 64 MiB; at least 4 MiB.
    pub outgoing_budget_bytes: u64,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            streams_max: 1024,
            header_list_bytes_max: 16 << 10,
            resets_pending_max: 20,
            preface_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            incoming_budget_bytes: 64 * MIB,
            outgoing_budget_bytes: 64 * MIB,
        }
    }
}

impl ConnectionLimits {
    fn validate(&self) -> Result<(), OpenError> {
        in_bounds("connections_max", self.connections_max.into(), 1, 1_000_000)?;
        in_bounds("streams_max", self.streams_max.into(), 1, 65_536)?;
        in_bounds("header_list_bytes_max", self.header_list_bytes_max, 4 << 10, MIB)?;
        in_bounds("resets_pending_max", self.resets_pending_max.into(), 1, 1024)?;
        in_bounds("incoming_budget_bytes", self.incoming_budget_bytes, 4 * MIB, 1 << 40)?;
        in_bounds("outgoing_budget_bytes", self.outgoing_budget_bytes, 4 * MIB, 1 << 40)?;
        long_enough("preface_timeout", self.preface_timeout)?;
        long_enough("keepalive_interval", self.keepalive_interval)?;
        long_enough("keepalive_timeout", self.keepalive_timeout)?;
        long_enough("request_timeout", self.request_timeout)
    }
}

/// Whether publishing to a topic that does not exist makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoCreateTopics {
    /// It is an error, with a hint.
    #[default]
    Refuse,
    /// It is made with this many partitions and the defaults.
    WithPartitions(u32),
}

/// Everything that can be set. The defaults are what tests run with, too.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Bounds on requests and responses.
    pub limits: Limits,
    /// Bounds on connections.
    pub connections: ConnectionLimits,
    /// Memory for what waits for the disk in the whole broker: about twice the bytes of the batches. Default 64 MiB; at least 4 MiB.
    pub budget_bytes: u64,
    /// Of these, for one topic. Default 64 MiB.
    pub topic_budget_bytes: u64,
    /// Of these, for one connection. Default 32 MiB.
    pub connection_budget_bytes: u64,
    /// Memory for the newest batches of all partitions, which readers at the tail get without the disk. Default 8 MiB.
    pub tail_cache_bytes: u64,
    /// Size at which a segment is sealed, unless the topic says otherwise. Default 256 MiB; 64 KiB to 16 GiB.
    pub segment_bytes: u64,
    /// Threads that write and sync, at most; they are started as they are needed. With 1,000 busy partitions 32 brought the
    /// 99th percentile of acknowledgements to a half of what 8 did. Default 32; 1 to 256.
    pub io_threads: usize,
    /// How long a unary publish waits for room in a budget when its caller set no deadline. Default 10 s.
    pub publish_wait_max: Duration,
    /// How often retention is applied; by bytes, also whenever a segment is full. Default 10 s; at least 100 ms.
    pub retention_interval: Duration,
    /// Default: refuse.
    pub auto_create_topics: AutoCreateTopics,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            connections: ConnectionLimits::default(),
            budget_bytes: 64 * MIB,
            topic_budget_bytes: 64 * MIB,
            connection_budget_bytes: 32 * MIB,
            tail_cache_bytes: 8 * MIB,
            segment_bytes: 256 * MIB,
            io_threads: 32,
            publish_wait_max: Duration::from_secs(10),
            retention_interval: Duration::from_secs(10),
            auto_create_topics: AutoCreateTopics::Refuse,
        }
    }
}

impl BrokerConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`OpenError::Config`] names the first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), OpenError> {
        const BUDGET_BYTES_MAX: u64 = u32::MAX as u64;
        in_bounds("budget_bytes", self.budget_bytes, 4 * MIB, BUDGET_BYTES_MAX)?;
        in_bounds("topic_budget_bytes", self.topic_budget_bytes, MIB, BUDGET_BYTES_MAX)?;
        in_bounds("connection_budget_bytes", self.connection_budget_bytes, MIB, BUDGET_BYTES_MAX)?;
        in_bounds("tail_cache_bytes", self.tail_cache_bytes, 0, 1 << 40)?;
        in_bounds("segment_bytes", self.segment_bytes, 64 << 10, 16 << 30)?;
        in_bounds("io_threads", self.io_threads as u64, 1, 256)?;
        in_bounds("record_bytes_max", self.limits.record_bytes_max, 1, self.limits.batch_bytes_max)?;
        in_bounds("batch_bytes_max", self.limits.batch_bytes_max, 1 << 10, 32 * MIB)?;
        in_bounds(
            "batch_decoded_bytes_max",
            self.limits.batch_decoded_bytes_max,
            self.limits.batch_bytes_max,
            128 * MIB,
        )?;
        in_bounds("batch_records_max", u64::from(self.limits.batch_records_max), 1, 1 << 20)?;
        in_bounds("response_bytes_max", self.limits.response_bytes_max, 64 << 10, 64 * MIB)?;
        long_enough("retention_interval", self.retention_interval)?;
        self.connections.validate()?;
        if let AutoCreateTopics::WithPartitions(partitions) = self.auto_create_topics {
            let partitions_max = u64::from(crate::topics::settings::PARTITIONS_MAX);
            in_bounds("auto_create_partitions", u64::from(partitions), 1, partitions_max)?;
        }
        Ok(())
    }

    pub(crate) fn embedded(&self) -> EmbeddedOptions {
        EmbeddedOptions {
            io_threads: self.io_threads,
            segment_bytes: self.segment_bytes,
            tail_cache_bytes: self.tail_cache_bytes,
        }
    }
}

fn in_bounds(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), OpenError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(OpenError::Config { key, reason: format!("must be between {min} and {max}, not {value}") })
}

/// Timers that fire more often than this would keep the broker busy.
fn long_enough(key: &'static str, value: Duration) -> Result<(), OpenError> {
    if value >= Duration::from_millis(100) {
        return Ok(());
    }
    Err(OpenError::Config { key, reason: format!("must be at least 100 ms, not {value:?}") })
}
