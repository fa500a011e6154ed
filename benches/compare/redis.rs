//! Redis streams: one stream for each partition, driven by the crate `redis` with pipelines of XADD.
//!
//! Pipelines of 128 to 2,048 commands, two to eight of them in flight, and a client with two threads were all alike, within
//! the noise, but for the largest, which were slower. XREAD with COUNT 1,000 was as fast as with 10,000, with 100 slower;
//! that the time goes into the parser of the client is inferred, not profiled.

use std::{collections::VecDeque, path::Path, process::Command, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use redis::{AsyncConnectionConfig, Pipeline, Value, aio::MultiplexedConnection};
use tokio::task::JoinHandle;

use crate::{
    peer::{Follower, Message, Peer, Producer, Visit},
    process::ServerProcess,
};

/// XADDs in one pipeline.
pub(crate) const PIPELINE_COMMANDS: usize = 512;
/// Pipelines on their way, of each producer.
pub(crate) const PIPELINES_IN_FLIGHT: usize = 4;
/// `COUNT` of XREAD, in replay.
pub(crate) const READ_COUNT: usize = 10_000;

/// A Redis server with this `appendfsync`.
pub(crate) fn start(program: &Path, appendfsync: &str) -> anyhow::Result<ServerProcess> {
    ServerProcess::start(|directory, port| {
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(directory.path());
        command.args(settings(appendfsync));
        Ok(command)
    })
}

/// No snapshots and no rewrites of the AOF in the middle of a run: both would only slow Redis down.
pub(crate) fn settings(appendfsync: &str) -> [&str; 8] {
    ["--appendonly", "yes", "--appendfsync", appendfsync, "--save", "", "--auto-aof-rewrite-percentage", "0"]
}

pub(crate) struct Redis {
    server: Arc<ServerProcess>,
}

impl Redis {
    pub(crate) fn new(server: Arc<ServerProcess>) -> Self {
        Self { server }
    }

    /// Every producer and reader has a connection of its own.
    async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://{}/", self.server.address()))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

fn stream_name(log: &str, partition: u32) -> String {
    format!("{log}-{partition}")
}

#[tonic::async_trait]
impl Peer for Redis {
    fn pid(&self) -> u32 {
        self.server.pid()
    }

    async fn create(&self, _log: &str, _partitions: u32) -> anyhow::Result<()> {
        // The first XADD makes a stream.
        Ok(())
    }

    async fn producer(&self, log: &str, partition: u32) -> anyhow::Result<Box<dyn Producer>> {
        let stream = stream_name(log, partition);
        Ok(Box::new(Publisher { connection: self.connect().await?, stream, in_flight: VecDeque::new() }))
    }

    async fn replay(&self, log: &str, records: u64, visit: Visit<'_>) -> anyhow::Result<()> {
        let mut reader = Reader::new(self.connect().await?, log);
        let mut seen = 0;
        while seen < records {
            let mut command = redis::cmd("XREAD");
            command.arg("COUNT").arg(READ_COUNT);
            let found = reader.read(command, visit).await?;
            ensure!(found > 0, "the stream ended after {seen} records");
            seen += found;
        }
        Ok(())
    }

    async fn follow(&self, log: &str) -> anyhow::Result<Box<dyn Follower>> {
        Ok(Box::new(Reader::new(self.connect().await?, log)))
    }
}

struct Publisher {
    connection: MultiplexedConnection,
    stream: String,
    in_flight: VecDeque<JoinHandle<redis::RedisResult<()>>>,
}

fn add(pipeline: &mut Pipeline, stream: &str, message: &Message) {
    pipeline.cmd("XADD").arg(stream).arg("*");
    if let Some(key) = &message.key {
        pipeline.arg("k").arg(&key[..]);
    }
    pipeline.arg("v").arg(&message.value[..]).ignore();
}

#[tonic::async_trait]
impl Producer for Publisher {
    async fn enqueue(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        for chunk in messages.chunks(PIPELINE_COMMANDS) {
            if self.in_flight.len() >= PIPELINES_IN_FLIGHT
                && let Some(oldest) = self.in_flight.pop_front()
            {
                oldest.await??;
            }
            let mut pipeline = Pipeline::with_capacity(chunk.len());
            chunk.iter().for_each(|message| add(&mut pipeline, &self.stream, message));
            let mut connection = self.connection.clone();
            self.in_flight.push_back(tokio::spawn(async move { pipeline.query_async(&mut connection).await }));
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        for pipeline in self.in_flight.drain(..) {
            pipeline.await??;
        }
        Ok(())
    }

    async fn publish(&self, message: Message) -> anyhow::Result<()> {
        let mut pipeline = Pipeline::with_capacity(1);
        add(&mut pipeline, &self.stream, &message);
        Ok(pipeline.query_async(&mut self.connection.clone()).await?)
    }
}

struct Reader {
    connection: MultiplexedConnection,
    stream: String,
    /// The id of the last entry that was read.
    last: Vec<u8>,
}

impl Reader {
    fn new(connection: MultiplexedConnection, log: &str) -> Self {
        Self { connection, stream: stream_name(log, 0), last: b"0".to_vec() }
    }

    /// The plain reply, whose strings are looked at where they are: the typed one of the crate hashes every field.
    async fn read(&mut self, mut command: redis::Cmd, visit: Visit<'_>) -> anyhow::Result<u64> {
        command.arg("STREAMS").arg(&self.stream).arg(&self.last);
        let reply = self.connection.send_packed_command(&command).await?;
        let Value::Array(streams) = reply else { return Ok(0) };
        let Some(Value::Array(stream)) = streams.into_iter().next() else { return Ok(0) };
        let Some(Value::Array(entries)) = stream.into_iter().nth(1) else { bail!("a stream without entries") };
        let found = entries.len() as u64;
        for entry in entries {
            let Value::Array(entry) = entry else { bail!("an entry that is no array") };
            let [Value::BulkString(id), Value::Array(fields)] = &entry[..] else { bail!("not id and fields") };
            let mut pairs = fields.chunks_exact(2).map(|pair| match pair {
                [Value::BulkString(name), Value::BulkString(value)] => Some((&name[..], &value[..])),
                _ => None,
            });
            let first = pairs.next().flatten().context("an entry without fields")?;
            match pairs.next().flatten() {
                Some((_, value)) => visit(first.1, value),
                None => visit(&[], first.1),
            }
            self.last.clone_from(id);
        }
        Ok(found)
    }
}

#[tonic::async_trait]
impl Follower for Reader {
    async fn next(&mut self, visit: Visit<'_>) -> anyhow::Result<()> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(READ_COUNT).arg("BLOCK").arg(0);
        self.read(command, visit).await?;
        Ok(())
    }
}
