//! NATS JetStream: one file stream with one replica for each partition, driven by `async-nats`.
//!
//! Publishing is asynchronous, as the documentation recommends for throughput: many publishes without their acks, which
//! are awaited in order from a bounded window.

use std::{collections::VecDeque, path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
    context::PublishAckFuture,
    stream,
};
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::{
    peer::{Follower, Message, Peer, Producer, Visit},
    process::ServerProcess,
};

/// Publishes without an ack, of each producer.
pub(crate) const ACKS_IN_FLIGHT: usize = 4096;
/// Messages that one pull asks for, in replay.
pub(crate) const PULL_MESSAGES: usize = 10_000;

/// Room for every run; without it a part of the free disk.
pub(crate) const JETSTREAM_SETTINGS: &str = "max_file_store: 64GB";

/// `server` for a NATS server with this `sync_interval`, if it is not the default one.
pub(crate) fn start(program: &Path, sync_interval: Option<&str>) -> anyhow::Result<ServerProcess> {
    ServerProcess::start(|directory, port| {
        let config = directory.path().join("nats.conf");
        std::fs::write(&config, config_text(port, &directory.path().join("data"), sync_interval))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(config);
        Ok(command)
    })
}

fn config_text(port: u16, data: &Path, sync_interval: Option<&str>) -> String {
    let sync = sync_interval.map(|interval| format!(", sync_interval: {interval}")).unwrap_or_default();
    let data = data.display();
    format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{data}\", {JETSTREAM_SETTINGS}{sync} }}\n")
}

pub(crate) struct Nats {
    server: Arc<ServerProcess>,
    context: jetstream::Context,
}

fn stream_name(log: &str, partition: u32) -> String {
    format!("{log}-{partition}")
}

impl Nats {
    pub(crate) async fn connect(server: Arc<ServerProcess>) -> anyhow::Result<Self> {
        let context = context(&server).await?;
        Ok(Self { server, context })
    }

    async fn pull(&self, log: &str) -> anyhow::Result<jetstream::consumer::Consumer<pull::Config>> {
        let stream = self.context.get_stream(stream_name(log, 0)).await?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            memory_storage: true,
            ..pull::Config::default()
        };
        Ok(stream.create_consumer(config).await?)
    }
}

async fn context(server: &ServerProcess) -> anyhow::Result<jetstream::Context> {
    let client = async_nats::ConnectOptions::new()
        .skip_subject_validation(true)
        .subscription_capacity(4 * PULL_MESSAGES)
        .client_capacity(ACKS_IN_FLIGHT)
        .connect(format!("nats://{}", server.address()))
        .await?;
    let context =
        jetstream::ContextBuilder::new().timeout(Duration::from_secs(30)).max_ack_inflight(2 * ACKS_IN_FLIGHT);
    Ok(context.build(client))
}

#[tonic::async_trait]
impl Peer for Nats {
    fn pid(&self) -> u32 {
        self.server.pid()
    }

    async fn create(&self, log: &str, partitions: u32) -> anyhow::Result<()> {
        for partition in 0..partitions {
            let config = stream::Config {
                name: stream_name(log, partition),
                // The last token, where there is one, is the key.
                subjects: vec![format!("{log}.{partition}"), format!("{log}.{partition}.*")],
                storage: stream::StorageType::File,
                num_replicas: 1,
                allow_direct: true,
                ..stream::Config::default()
            };
            self.context.create_stream(config).await?;
        }
        Ok(())
    }

    async fn producer(&self, log: &str, partition: u32) -> anyhow::Result<Box<dyn Producer>> {
        let context = context(&self.server).await?;
        Ok(Box::new(Publisher { context, subject: format!("{log}.{partition}").into(), acks: VecDeque::new() }))
    }

    async fn replay(&self, log: &str, records: u64, visit: Visit<'_>) -> anyhow::Result<()> {
        let consumer = self.pull(log).await?;
        let mut messages = consumer.stream().max_messages_per_batch(PULL_MESSAGES).messages().await?;
        for _ in 0..records {
            let message = messages.next().await.context("the stream ended")??;
            let key = message.subject.rsplit('.').next().unwrap_or_default();
            visit(key.as_bytes(), &message.payload);
        }
        Ok(())
    }

    async fn follow(&self, log: &str) -> anyhow::Result<Box<dyn Follower>> {
        let messages = self.pull(log).await?.messages().await?;
        Ok(Box::new(Tail(messages)))
    }
}

struct Publisher {
    context: jetstream::Context,
    subject: async_nats::Subject,
    acks: VecDeque<PublishAckFuture>,
}

impl Publisher {
    async fn send(&self, message: Message) -> anyhow::Result<PublishAckFuture> {
        let subject = match &message.key {
            Some(key) => format!("{}.{}", self.subject, std::str::from_utf8(key)?).into(),
            None => self.subject.clone(),
        };
        Ok(self.context.publish(subject, message.value).await?)
    }
}

#[tonic::async_trait]
impl Producer for Publisher {
    async fn enqueue(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        for message in messages {
            if self.acks.len() >= ACKS_IN_FLIGHT
                && let Some(oldest) = self.acks.pop_front()
            {
                oldest.await?;
            }
            let ack = self.send(message.clone()).await?;
            self.acks.push_back(ack);
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        for ack in self.acks.drain(..) {
            ack.await?;
        }
        Ok(())
    }

    async fn publish(&self, message: Message) -> anyhow::Result<()> {
        self.send(message).await?.await?;
        Ok(())
    }
}

struct Tail(pull::Stream);

#[tonic::async_trait]
impl Follower for Tail {
    async fn next(&mut self, visit: Visit<'_>) -> anyhow::Result<()> {
        let message = self.0.try_next().await?.context("the stream ended")?;
        visit(&[], &message.payload);
        Ok(())
    }
}
