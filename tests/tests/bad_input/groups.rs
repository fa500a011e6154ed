//! Members that are late, wrong, or gone.

use aqueduct_proto::v1::{self, consume_request::Event as Ask};
use aqueduct_tests::Refusal;
use tonic::Code;

use crate::{
    Victim,
    member::{Member, ack},
};

fn join() -> v1::Join {
    v1::Join {
        group: "billing".to_owned(),
        topic: "orders".to_owned(),
        credit: Some(v1::Credit { bytes: 1 << 20, records: 1000 }),
        ..v1::Join::default()
    }
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

fn join_as(mode: v1::GroupMode) -> v1::Join {
    let policy = v1::GroupPolicy { mode: mode.into(), ..v1::GroupPolicy::default() };
    v1::Join { policy: Some(policy), ..join() }
}

#[tokio::test]
async fn an_ack_of_what_is_settled_already_is_answered_quietly() {
    for mode in [v1::GroupMode::Ordered, v1::GroupMode::Shared, v1::GroupMode::Keyed] {
        let mut victim = Victim::start().await;
        victim.still_works().await;
        let mut member = Member::join(&mut victim.raw, join_as(mode)).await.expect("a member");
        let delivery = member.delivery().await;
        for ack_id in 1..=3 {
            member.say(Ask::Ack(ack(&delivery, ack_id))).await;
            let settled = member.settled().await;
            assert_eq!((settled.ack_id, settled.committed_offset, settled.error), (ack_id, 1, None), "{mode:?}");
        }
        // It has been handled: no refusal undoes that.
        let v1::Ack { ack_id, partition, generation, ranges } = ack(&delivery, 4);
        let nack = v1::Nack { ack_id, partition, generation, ranges, delay_ms: Some(0), error: "too late".to_owned() };
        member.say(Ask::Nack(nack)).await;
        let settled = member.settled().await;
        assert_eq!((settled.ack_id, settled.committed_offset, settled.error), (4, 1, None), "{mode:?}");
        victim.still_works().await;
        let next = member.delivery().await;
        assert_eq!(next.ranges, [v1::OffsetRange { from: 1, to: 2 }], "{mode:?}: nothing comes again");
        let description = victim.broker.client().await.group("billing").describe().await.expect("a description");
        assert_eq!(description.failed.len(), 0, "{mode:?}: {description:?}");
    }
}

#[tokio::test]
async fn an_ack_of_another_members_delivery_is_aborted_and_takes_nothing_from_it() {
    for mode in [v1::GroupMode::Shared, v1::GroupMode::Keyed] {
        let mut victim = Victim::start().await;
        victim.still_works().await;
        let mut owner = Member::join(&mut victim.raw, join_as(mode)).await.expect("a member");
        let delivery = owner.delivery().await;
        let mut foreign = Member::join(&mut victim.raw, join_as(mode)).await.expect("another member");
        foreign.joined().await;
        victim.still_works().await;
        let own = foreign.delivery().await;
        assert_eq!(own.ranges, [v1::OffsetRange { from: 1, to: 2 }], "{mode:?}: it has room, the other had its turn");

        // Under the other one's generation, and under its own.
        foreign.say(Ask::Ack(ack(&delivery, 1))).await;
        let settled = foreign.settled().await;
        Refusal::from(settled.error.expect("refused")).expect(Code::Aborted, "STALE_GENERATION");
        foreign.say(Ask::Ack(v1::Ack { generation: own.generation, ..ack(&delivery, 2) })).await;
        let settled = foreign.settled().await;
        assert_eq!(settled.ack_id, 2);
        Refusal::from(settled.error.expect("refused")).expect(Code::Aborted, "TAKEN_BACK");
        let group = victim.broker.client().await.group("billing");
        assert_eq!(group.lag("orders").await.expect("a report")[0].committed_offset, 0, "{mode:?}");

        owner.say(Ask::Ack(ack(&delivery, 3))).await;
        let settled = owner.settled().await;
        assert_eq!((settled.committed_offset, settled.error), (1, None), "{mode:?}");
        foreign.say(Ask::Ack(ack(&own, 4))).await;
        assert_eq!(foreign.settled().await.error, None, "{mode:?}");
        victim.still_works().await;
    }
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
