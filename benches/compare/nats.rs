//! NATS JetStream: one file stream with one replica for each partition, driven by `async-nats`.
//!
//! Many records go by [fast ingest](crate::fast_ingest). A publish for each, with 1,024 to 16,384 acks in flight, was a
//! quarter slower with one producer and half as fast with eight; a client with two threads changed less than the noise, as
//! did client capacities, of which only 256 and 65,536 were tried. GOGC=400 was about 10 % faster, with more memory: Go's
//! default is kept. GOMAXPROCS=1 made replay about a quarter slower. Replay pulls, as is recommended; the figures of pulls
//! of 2,000, 10,000 and 50,000 messages overlapped.

use std::{path::Path, process::Command, sync::Arc};

use anyhow::Context as _;
use async_nats::{
    Subject,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream,
    },
};
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::{
    fast_ingest::FastIngest,
    peer::{Follower, Message, Peer, Producer, Visit},
    process::ServerProcess,
};

/// Messages that one pull asks for, in replay.
pub(crate) const PULL_MESSAGES: usize = 50_000;

/// Room for every run; without it a part of the free disk.
pub(crate) const JETSTREAM_SETTINGS: &str = "max_file_store: 64GB";

/// A NATS server with this `sync_interval`, if it is not the default one.
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
        .connect(format!("nats://{}", server.address()))
        .await?;
    Ok(jetstream::new(client))
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
                allow_batch_publish: true,
                ..stream::Config::default()
            };
            self.context.create_stream(config).await?;
        }
        Ok(())
    }

    async fn producer(&self, log: &str, partition: u32) -> anyhow::Result<Box<dyn Producer>> {
        let subject = format!("{log}.{partition}").into();
        Ok(Box::new(Publisher { context: context(&self.server).await?, subject, batch: None }))
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

/// Many records by fast ingest; a single one by a publish with an ack of its own.
struct Publisher {
    context: jetstream::Context,
    /// Of records without a key.
    subject: Subject,
    batch: Option<FastIngest>,
}

impl Publisher {
    fn subject_of(&self, message: &Message) -> anyhow::Result<Subject> {
        Ok(match &message.key {
            Some(key) => format!("{}.{}", self.subject, std::str::from_utf8(key)?).into(),
            None => self.subject.clone(),
        })
    }
}

#[tonic::async_trait]
impl Producer for Publisher {
    async fn enqueue(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        let mut batch = match self.batch.take() {
            Some(batch) => batch,
            None => FastIngest::new(self.context.client(), self.subject.clone()).await?,
        };
        for message in messages {
            batch.send(self.subject_of(message)?, message.value.clone()).await?;
        }
        self.batch = Some(batch);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        match self.batch.take() {
            Some(batch) => batch.finish().await,
            None => Ok(()),
        }
    }

    async fn publish(&self, message: Message) -> anyhow::Result<()> {
        self.context.publish(self.subject_of(&message)?, message.value).await?.await?;
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
