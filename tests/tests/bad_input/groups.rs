//! Members that are late, wrong, or gone.

use aqueduct_proto::v1::{self, consume_request::Event as Ask, consume_response::Event as Answer};
use aqueduct_tests::{Raw, Refusal, within};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use crate::Victim;

/// A member without the client's manners.
struct Member {
    ask: mpsc::Sender<v1::ConsumeRequest>,
    answers: Streaming<v1::ConsumeResponse>,
}

impl Member {
    async fn join(raw: &mut Raw, join: v1::Join) -> Result<Self, Status> {
        let (ask, asked) = mpsc::channel(16);
        ask.send(v1::ConsumeRequest { event: Some(Ask::Join(join)) }).await.expect("room");
        let asked = futures_util::stream::unfold(asked, async |mut asked| Some((asked.recv().await?, asked)));
        let answers = raw.groups.consume(asked).await?.into_inner();
        Ok(Self { ask, answers })
    }

    async fn say(&self, event: Ask) {
        self.ask.send(v1::ConsumeRequest { event: Some(event) }).await.expect("the stream is open");
    }

    /// The next answer that `pick` wants.
    async fn hear<T>(&mut self, what: &str, mut pick: impl FnMut(Answer) -> Option<T>) -> T {
        loop {
            let answer = within(what, self.answers.message()).await.expect("the stream goes on").expect("no end");
            if let Some(picked) = answer.event.and_then(&mut pick) {
                return picked;
            }
        }
    }

    async fn delivery(&mut self) -> v1::Delivery {
        self.hear("a delivery", |answer| match answer {
            Answer::Delivery(delivery) => Some(delivery),
            _ => None,
        })
        .await
    }

    async fn settled(&mut self) -> v1::Settled {
        self.hear("the answer to an ack", |answer| match answer {
            Answer::Settled(settled) => Some(settled),
            _ => None,
        })
        .await
    }

    /// How the stream ends.
    async fn refused(mut self) -> Refusal {
        loop {
            match within("the end", self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ends without a word"),
                Err(status) => return status.into(),
            }
        }
    }
}

fn join() -> v1::Join {
    v1::Join {
        group: "billing".to_owned(),
        topic: "orders".to_owned(),
        credit: Some(v1::Credit { bytes: 1 << 20, records: 1000 }),
        ..v1::Join::default()
    }
}

fn ack(delivery: &v1::Delivery, ack_id: u64) -> v1::Ack {
    let ranges = delivery.ranges.clone();
    v1::Ack { ack_id, partition: delivery.partition, generation: delivery.generation, ranges }
}

#[tokio::test]
async fn an_ack_of_a_stale_generation_is_aborted_and_commits_nothing() {
    let mut victim = Victim::start().await;
    victim.still_works().await;
    let mut zombie = Member::join(&mut victim.raw, join()).await.expect("a member");
    let delivery = zombie.delivery().await;
    // The member is gone, and so is its generation; another one has the partition now.
    drop(zombie);
    let mut heir = Member::join(&mut victim.raw, join()).await.expect("a member");
    let again = heir.delivery().await;
    assert_ne!(again.generation, delivery.generation);

    heir.say(Ask::Ack(ack(&delivery, 1))).await;
    let stale = heir.settled().await;
    assert_eq!(stale.ack_id, 1);
    Refusal::from(stale.error.expect("refused")).expect(Code::Aborted, "STALE_GENERATION");
    let group = victim.broker.client().await.group("billing");
    assert_eq!(group.lag("orders").await.expect("a report")[0].committed_offset, 0);

    heir.say(Ask::Ack(ack(&again, 2))).await;
    let settled = heir.settled().await;
    assert_eq!((settled.ack_id, settled.committed_offset, settled.error), (2, 1, None));
    victim.still_works().await;
}

#[tokio::test]
async fn an_ack_of_what_was_never_delivered_is_refused() {
    let mut victim = Victim::start().await;
    victim.still_works().await;
    let mut member = Member::join(&mut victim.raw, join()).await.expect("a member");
    let delivery = member.delivery().await;
    for (ack_id, range) in [(1, (0, 2)), (2, (1, 1)), (3, (5, 3)), (4, (u64::MAX - 1, u64::MAX))] {
        let ranges = vec![v1::OffsetRange { from: range.0, to: range.1 }];
        member.say(Ask::Ack(v1::Ack { ranges, ..ack(&delivery, ack_id) })).await;
        let settled = member.settled().await;
        assert_eq!(settled.ack_id, ack_id);
        Refusal::from(settled.error.expect("refused")).expect(Code::InvalidArgument, "INVALID_REQUEST");
    }
    let group = victim.broker.client().await.group("billing");
    assert_eq!(group.lag("orders").await.expect("a report")[0].committed_offset, 0);
    member.say(Ask::Ack(ack(&delivery, 9))).await;
    assert_eq!(member.settled().await.error, None);
}

#[tokio::test]
async fn a_member_must_join_first_and_once() {
    let mut victim = Victim::start().await;
    let heartbeat = v1::ConsumeRequest { event: Some(Ask::Heartbeat(v1::consume_request::Heartbeat {})) };
    let refused = match victim.raw.groups.consume(futures_util::stream::iter([heartbeat])).await {
        Ok(answers) => answers.into_inner().message().await.expect_err("it has not joined"),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let member = Member::join(&mut victim.raw, join()).await.expect("a member");
    member.say(Ask::Join(join())).await;
    member.refused().await.expect(Code::InvalidArgument, "INVALID_REQUEST");
    victim.still_works().await;
}

#[tokio::test]
async fn bad_names_and_unknown_topics_are_refused_when_joining() {
    let mut victim = Victim::start().await;
    for (group, topic, code, reason) in [
        ("a/b", "orders", Code::InvalidArgument, "INVALID_NAME"),
        ("", "orders", Code::InvalidArgument, "INVALID_NAME"),
        ("billing", "nowhere", Code::NotFound, "TOPIC_NOT_FOUND"),
    ] {
        let join = v1::Join { group: group.to_owned(), topic: topic.to_owned(), ..join() };
        let refusal = match Member::join(&mut victim.raw, join).await {
            Ok(member) => member.refused().await,
            Err(status) => status.into(),
        };
        refusal.expect(code, reason);
    }
    let groups = victim.broker.client().await.groups().list().await.expect("a list");
    assert_eq!(groups.len(), 0, "a member that was refused makes no group: {groups:?}");
    victim.still_works().await;
}
