//! A member of a group that speaks the protocol by itself.

use std::time::Duration;

use aqueduct_proto::v1::{self, consume_request::Event as Ask, consume_response::Event as Answer};
use aqueduct_tests::{Raw, Refusal, within};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// A member without the client's manners.
pub(crate) struct Member {
    ask: mpsc::Sender<v1::ConsumeRequest>,
    answers: Streaming<v1::ConsumeResponse>,
}

impl Member {
    pub(crate) async fn join(raw: &mut Raw, join: v1::Join) -> Result<Self, Status> {
        let (ask, asked) = mpsc::channel(16);
        ask.send(v1::ConsumeRequest { event: Some(Ask::Join(join)) }).await.expect("room");
        let asked = futures_util::stream::unfold(asked, async |mut asked| Some((asked.recv().await?, asked)));
        let answers = raw.groups.consume(asked).await?.into_inner();
        Ok(Self { ask, answers })
    }

    /// Sends heartbeats until the stream is over, whatever is read of it.
    pub(crate) fn go_on_saying_that_it_is_there(&self, interval: Duration) {
        let ask = self.ask.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            let heartbeat = || v1::ConsumeRequest { event: Some(Ask::Heartbeat(v1::consume_request::Heartbeat {})) };
            while ask.send(heartbeat()).await.is_ok() {
                ticks.tick().await;
            }
        });
    }

    /// Until the broker has let it in.
    pub(crate) async fn joined(&mut self) {
        self.hear("the first answer", |answer| matches!(answer, Answer::Joined(_)).then_some(())).await;
    }

    pub(crate) async fn say(&self, event: Ask) {
        self.ask.send(v1::ConsumeRequest { event: Some(event) }).await.expect("the stream is open");
    }

    /// The next answer that `pick` wants.
    pub(crate) async fn hear<T>(&mut self, what: &str, mut pick: impl FnMut(Answer) -> Option<T>) -> T {
        loop {
            let answer = within(what, self.answers.message()).await.expect("the stream goes on").expect("no end");
            if let Some(picked) = answer.event.and_then(&mut pick) {
                return picked;
            }
        }
    }

    pub(crate) async fn delivery(&mut self) -> v1::Delivery {
        self.hear("a delivery", |answer| match answer {
            Answer::Delivery(delivery) => Some(delivery),
            _ => None,
        })
        .await
    }

    pub(crate) async fn settled(&mut self) -> v1::Settled {
        self.hear("the answer to an ack", |answer| match answer {
            Answer::Settled(settled) => Some(settled),
            _ => None,
        })
        .await
    }

    /// How the stream ends.
    pub(crate) async fn refused(mut self) -> Refusal {
        loop {
            match within("the end", self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ends without a word"),
                Err(status) => return status.into(),
            }
        }
    }
}

/// Settles a delivery.
pub(crate) fn ack(delivery: &v1::Delivery, ack_id: u64) -> v1::Ack {
    let ranges = delivery.ranges.clone();
    v1::Ack { ack_id, partition: delivery.partition, generation: delivery.generation, ranges }
}
