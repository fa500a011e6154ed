use super::*;

fn reset_to(to: ResetTo) -> ResetRequest {
    ResetRequest { group: "g".to_owned(), topic: "t".to_owned(), partitions: Vec::new(), to }
}

fn position(partition: u32, offset: Offset) -> NewPosition {
    NewPosition { partition, offset }
}

#[tokio::test]
async fn a_group_is_made_altered_listed_and_deleted() {
    let (stack, directory) = Stack::with_topic(1).await;
    let name = || "g".to_owned();
    stack.groups.create(name(), PolicyOpinion::default()).await.expect("it is made");
    assert_eq!(stack.groups.create(name(), PolicyOpinion::default()).await.err(), Some(GroupError::Exists(name())));
    let longer = PolicyOpinion { ack_timeout: Some(Duration::from_secs(90)), ..PolicyOpinion::default() };
    stack.groups.alter(name(), longer).await.expect("it is altered");
    let stack = stack.restart(directory.path()).await;
    let GroupDescription { view, members, .. } = stack.groups.describe(name()).await.expect("it is described");
    assert_eq!((view.group.policy.ack_timeout, members.len()), (Duration::from_secs(90), 0));
    stack.groups.delete(name()).await.expect("it is deleted");
    assert_eq!(stack.groups.delete(name()).await, Err(GroupError::Unknown(name())));
    let stack = stack.restart(directory.path()).await;
    assert_eq!(stack.groups.list().await.map(|groups| groups.len()), Ok(0));
    stack.close().await;
}

#[tokio::test]
async fn members_must_agree_with_the_policy_of_their_group() {
    let (stack, _directory) = Stack::with_topic(1).await;
    let _first = stack.join(with_ack_timeout(Duration::from_secs(5))).await;
    let _agreeing = stack.join(joining()).await;
    let mut disagreeing = stack.open_stream(with_ack_timeout(Duration::from_secs(6))).await;
    assert!(matches!(disagreeing.end().await, Some(GroupError::PolicyDisagrees { field: "ack_timeout_ms", .. })));
    let opinion = PolicyOpinion { mode: Some(Mode::Shared), ..PolicyOpinion::default() };
    let mut other = stack.open_stream(JoinRequest { opinion, ..joining() }).await;
    assert!(matches!(other.end().await, Some(GroupError::PolicyDisagrees { field: "mode", .. })));
    stack.close().await;
}

#[tokio::test]
async fn names_that_break_the_rule_are_refused() {
    let (stack, _directory) = Stack::with_topic(1).await;
    for name in ["", "-a", "..", "a/b", "a\0b", "x~dlq", "caf\u{e9}", &"n".repeat(10_240)] {
        let made = stack.groups.create(name.to_owned(), PolicyOpinion::default()).await;
        assert!(matches!(made, Err(GroupError::Name { .. })), "{name:?}");
        let mut member = stack.open_stream(JoinRequest { group: name.to_owned(), ..joining() }).await;
        assert!(matches!(member.end().await, Some(GroupError::Name { .. })), "{name:?}");
    }
    for name in ["orders", "Orders"] {
        stack.groups.create(name.to_owned(), PolicyOpinion::default()).await.expect("case tells names apart");
    }
    stack.close().await;
}

#[tokio::test]
async fn a_commit_goes_forward_and_stays_within_the_log() {
    let (stack, directory) = Stack::with_topic(2).await;
    stack.publish(0, 10).await;
    let commit = |positions| stack.groups.commit("g".to_owned(), "t", &[], positions);
    assert_eq!(commit(vec![position(0, 1)]).await, Err(GroupError::Unknown("g".to_owned())));
    stack.groups.create("g".to_owned(), PolicyOpinion::default()).await.expect("it is made");
    assert_eq!(commit(vec![position(0, 6)]).await, Ok(()));
    assert!(matches!(commit(vec![position(0, 5)]).await, Err(GroupError::CommitBackwards { committed: 6, .. })));
    let beyond = commit(vec![position(0, 7), position(1, 1)]).await;
    assert!(matches!(beyond, Err(GroupError::OutOfRange { partition: 1, high_watermark: 0, .. })), "{beyond:?}");
    assert!(matches!(commit(vec![position(9, 0)]).await, Err(GroupError::Topic(_))));
    let stack = stack.restart(directory.path()).await;
    assert_eq!(stack.committed(0).await, 6);
    let _member = stack.join(joining()).await;
    let refused = stack.groups.commit("g".to_owned(), "t", &[], vec![position(0, 8)]).await;
    assert!(matches!(refused, Err(GroupError::MembersActive { members: 1, .. })), "{refused:?}");
    stack.close().await;
}

#[tokio::test]
async fn a_reset_moves_anywhere_within_the_log_while_nobody_consumes() {
    let (stack, directory) = Stack::with_topic(2).await;
    stack.publish(0, 10).await;
    stack.publish(1, 4).await;
    stack.groups.create("g".to_owned(), PolicyOpinion::default()).await.expect("it is made");
    let reset =
        async |to| stack.groups.reset(reset_to(to)).await.map(|moved| moved.iter().map(|m| m.to).collect::<Vec<_>>());
    let planned = stack.groups.plan_reset(&reset_to(ResetTo::Start(StartAt::Latest))).await.expect("it is planned");
    assert_eq!(planned.iter().map(|moved| (moved.from, moved.to)).collect::<Vec<_>>(), [(None, 10), (None, 4)]);
    assert_eq!(stack.groups.lag(Some("g"), None).await.map(|lags| lags.len()), Ok(0), "a plan changes nothing");
    assert_eq!(reset(ResetTo::Start(StartAt::Latest)).await, Ok(vec![10, 4]));
    assert_eq!(reset(ResetTo::Shift(-6)).await, Ok(vec![4, 0]));
    assert_eq!(reset(ResetTo::Start(StartAt::TimeUs(0))).await, Ok(vec![0, 0]));
    assert_eq!(reset(ResetTo::Start(StartAt::TimeUs(i64::MAX))).await, Ok(vec![10, 4]));
    let beyond = reset(ResetTo::Start(StartAt::Offset(5))).await;
    assert!(matches!(beyond, Err(GroupError::OutOfRange { partition: 1, offset: 5, log_start: 0, high_watermark: 4 })));
    let one = ResetRequest { partitions: vec![0], ..reset_to(ResetTo::Start(StartAt::Offset(5))) };
    stack.groups.reset(one).await.expect("partition 0 has offset 5");

    let stack = stack.restart(directory.path()).await;
    assert_eq!((stack.committed(0).await, stack.committed(1).await), (5, 4));
    let member = stack.join(joining()).await;
    let refused = stack.groups.reset(reset_to(ResetTo::Start(StartAt::Earliest))).await;
    assert!(matches!(refused, Err(GroupError::MembersActive { .. })), "{refused:?}");
    assert!(matches!(stack.groups.delete("g".to_owned()).await, Err(GroupError::MembersActive { .. })));
    drop(member);
    stack.close().await;
}

#[tokio::test]
async fn lag_is_told_in_records_bytes_and_seconds() {
    let (stack, _directory) = Stack::with_topic(2).await;
    stack.publish(0, 10).await;
    let mut member = stack.join(JoinRequest { member_name: "m".to_owned(), ..joining() }).await;
    member.assignment().await;
    let delivery = member.delivery().await;
    let lags = stack.groups.lag(None, None).await.expect("the lag is told");
    assert_eq!(lags.iter().map(|lag| (lag.partition, lag.records())).collect::<Vec<_>>(), [(0, 10), (1, 0)]);
    assert!(lags[0].bytes >= 1000 && lags[0].behind > Duration::ZERO, "{lags:?}");
    assert_eq!((lags[1].bytes, lags[1].behind), (0, Duration::ZERO));
    assert_eq!(lags[0].member.as_deref(), Some("m"));
    let members = stack.groups.describe("g".to_owned()).await.expect("it is described").members;
    assert_eq!(members[0].open_records, 10);
    assert_eq!(member.ack(&delivery, 0..10).await, Ok(10));
    let lags = stack.groups.lag(Some("g"), Some("t")).await.expect("the lag is told");
    assert_eq!((lags[0].records(), lags[0].behind), (0, Duration::ZERO));
    assert_eq!(stack.groups.lag(Some("nobody"), None).await, Err(GroupError::Unknown("nobody".to_owned())));
    stack.close().await;
}

#[tokio::test]
async fn a_group_that_begins_at_latest_keeps_its_place_across_a_restart() {
    let (stack, directory) = Stack::with_topic(1).await;
    stack.publish(0, 5).await;
    let latest = PolicyOpinion { start: Some(StartAt::Latest), ..PolicyOpinion::default() };
    let mut member = stack.join(JoinRequest { opinion: latest, ..joining() }).await;
    assert_eq!(member.assignment().await.0[0].committed, 5);
    let stack = stack.restart(directory.path()).await;
    stack.publish(0, 2).await;
    let mut member = stack.join(joining()).await;
    member.assignment().await;
    assert_eq!(offsets(&member.delivery().await), [5, 6]);
    stack.close().await;
}
