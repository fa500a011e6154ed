//! JetStream's fast ingest (NATS 2.14): one acknowledgement for many messages, by a protocol in the reply subjects.
//!
//! A message says `<inbox>.<flow>.<gap mode>.<number>.<operation>.$FI` where the reply goes; the server acknowledges about
//! every `flow` messages, and all that came before with them. Written here because `jetstream-extra`, where NATS keeps its
//! client, still needs an older `async-nats`, with all its features.

use anyhow::{Context as _, bail, ensure};
use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;

/// Messages that the server is asked to acknowledge together.
pub(crate) const FLOW: u64 = 1000;
/// Such acknowledgements that may be outstanding: the most that the protocol recommends.
pub(crate) const ACKS_OUTSTANDING: u64 = 3;

const START: u8 = 0;
const APPEND: u8 = 1;
const COMMIT_WITHOUT_MESSAGE: u8 = 3;

/// Messages that the server takes as one batch, each stored as it arrives.
pub(crate) struct FastIngest {
    client: Client,
    subject: Subject,
    replies: Subscriber,
    /// Of reply subjects: all that does not change.
    reply_prefix: String,
    sent: u64,
    acknowledged: u64,
    /// How many messages the server acknowledges together by now.
    flow: u64,
}

/// What the server says: an acknowledgement or a complaint, which have a type, or at the end how many it has stored.
#[derive(Debug, Deserialize)]
struct Reply {
    r#type: Option<String>,
    #[serde(default)]
    seq: u64,
    msgs: Option<u64>,
    count: Option<u64>,
}

impl FastIngest {
    /// Nothing is sent yet. Messages without a key go to `subject`.
    pub(crate) async fn new(client: Client, subject: Subject) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let replies = client.subscribe(format!("{inbox}.>")).await?;
        // A message that is lost fails the batch.
        let reply_prefix = format!("{inbox}.{FLOW}.fail.");
        Ok(Self { client, subject, replies, reply_prefix, sent: 0, acknowledged: 0, flow: FLOW })
    }

    pub(crate) async fn send(&mut self, subject: Subject, payload: Bytes) -> anyhow::Result<()> {
        while let Some(reply) = self.replies.next().now_or_never() {
            self.acknowledge(reply)?;
        }
        while self.sent + 1 >= self.acknowledged + ACKS_OUTSTANDING * self.flow {
            let reply = self.replies.next().await;
            self.acknowledge(reply)?;
        }
        let operation = if self.sent == 0 { START } else { APPEND };
        self.publish(subject, payload, operation).await?;
        if self.sent == 1 {
            // The batch exists, or cannot.
            let reply = self.replies.next().await;
            self.acknowledge(reply)?;
        }
        Ok(())
    }

    /// Waits until all is acknowledged.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        let messages = self.sent;
        self.publish(self.subject.clone(), Bytes::new(), COMMIT_WITHOUT_MESSAGE).await?;
        loop {
            let reply = self.replies.next().await;
            if let Some(count) = self.acknowledge(reply)? {
                ensure!(count == messages, "{count} of {messages} messages are stored");
                return Ok(());
            }
        }
    }

    async fn publish(&mut self, subject: Subject, payload: Bytes, operation: u8) -> anyhow::Result<()> {
        self.sent += 1;
        let reply = format!("{}{}.{operation}.$FI", self.reply_prefix, self.sent);
        Ok(self.client.publish_with_reply(subject, reply, payload).await?)
    }

    /// The number of stored messages, if it was the last word.
    fn acknowledge(&mut self, message: Option<async_nats::Message>) -> anyhow::Result<Option<u64>> {
        let message = message.context("the connection ended")?;
        let reply: Reply = serde_json::from_slice(&message.payload)?;
        match (reply.r#type.as_deref(), reply.count) {
            (Some("ack"), _) => {
                self.acknowledged = self.acknowledged.max(reply.seq);
                self.flow = reply.msgs.unwrap_or(self.flow).max(1);
                Ok(None)
            }
            (None, Some(count)) => Ok(Some(count)),
            (Some(_) | None, _) => bail!("fast ingest: {}", String::from_utf8_lossy(&message.payload)),
        }
    }
}
