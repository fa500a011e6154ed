use super::*;

#[tokio::test]
async fn what_was_acked_is_not_delivered_again_after_a_restart() {
    let (stack, directory) = Stack::with_topic(1).await;
    stack.publish(0, 10).await;
    let mut member = stack.join(joining()).await;
    let (assigned, revoked) = member.assignment().await;
    assert_eq!((assigned.len(), assigned[0].committed, revoked.len()), (1, 0, 0));
    let delivery = member.delivery().await;
    assert_eq!((delivery.attempt, delivery.high_watermark), (1, 10));
    assert_eq!(offsets(&delivery), (0..10).collect::<Vec<_>>());
    assert_eq!(member.ack(&delivery, 0..4).await, Ok(4));
    assert_eq!(member.ack(&delivery, 6..8).await, Ok(4));

    let stack = stack.restart(directory.path()).await;
    let mut member = stack.join(joining()).await;
    let (assigned, _) = member.assignment().await;
    assert_eq!(assigned[0].committed, 4);
    assert!(assigned[0].generation > delivery.generation, "generations rise across restarts");
    assert_eq!(offsets(&member.delivery().await), [4, 5, 8, 9]);
    stack.close().await;
}

#[tokio::test]
async fn an_answered_ack_survives_a_kill() {
    let (stack, directory) = Stack::with_topic(1).await;
    stack.publish(0, 10).await;
    let mut member = stack.join(joining()).await;
    member.assignment().await;
    let delivery = member.delivery().await;
    assert_eq!(member.ack(&delivery, 0..7).await, Ok(7));

    // What is on disk at this moment is what a kill leaves.
    let killed = tempfile::tempdir().expect("a temporary directory");
    copy(directory.path(), killed.path());
    let stack_of_killed = Stack::open(killed.path()).await;
    assert_eq!(stack_of_killed.committed(0).await, 7);
    stack_of_killed.close().await;
    stack.close().await;
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).expect("it can be made");
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}

#[tokio::test]
async fn new_records_are_delivered_as_they_come() {
    let (stack, _directory) = Stack::with_topic(2).await;
    let mut member = stack.join(joining()).await;
    member.assignment().await;
    for round in 0..20 {
        stack.publish(round % 2, 3).await;
        let delivery = member.delivery().await;
        assert_eq!(delivery.partition, round % 2);
        assert_eq!(delivery.ranges.iter().map(|range| range.end - range.start).sum::<u64>(), 3);
    }
    stack.close().await;
}

#[tokio::test]
async fn a_second_member_gets_half_once_the_first_has_settled_it() {
    let (stack, _directory) = Stack::with_topic(4).await;
    for partition in 0..4 {
        stack.publish(partition, 2).await;
    }
    let mut first = stack.join(joining()).await;
    assert_eq!(first.assignment().await.0.len(), 4);
    let mut deliveries = Vec::new();
    for _ in 0..4 {
        deliveries.push(first.delivery().await);
    }

    let mut second = stack.join(joining()).await;
    let (assigned, revoked) = first.assignment().await;
    assert_eq!((assigned.len(), revoked.len()), (0, 2));
    let moving: Vec<&Delivery> = deliveries.iter().filter(|one| revoked.contains(&one.partition)).collect();
    assert_eq!(first.ack(moving[0], 0..2).await, Ok(2));
    let released = first.settle(moving[1], 0..2);
    first.send(Request::Release(released)).await;

    let mut moved = Vec::new();
    while moved.len() < 2 {
        match second.next().await {
            Ok(Event::Assignment { assigned, .. }) => moved.extend(assigned),
            Ok(Event::Delivery(delivery)) => assert_eq!(delivery.partition, moving[1].partition),
            other => panic!("unexpected: {other:?}"),
        }
    }
    for one in &moved {
        let before = moving.iter().find(|delivery| delivery.partition == one.partition).expect("it was revoked");
        assert!(one.generation > before.generation);
        assert_eq!(one.committed, if one.partition == moving[0].partition { 2 } else { 0 });
    }

    let late = first.ack(moving[1], 0..1).await;
    assert!(matches!(late, Err(GroupError::StaleGeneration { .. })), "{late:?}");
    assert_eq!(stack.committed(moving[1].partition).await, 0);
    stack.close().await;
}

#[tokio::test]
async fn a_broken_stream_hands_its_open_records_to_the_others_at_once() {
    let (stack, _directory) = Stack::with_topic(2).await;
    let mut first = stack.join(joining()).await;
    first.assignment().await;
    let mut second = stack.join(joining()).await;
    let (_, revoked) = first.assignment().await;
    second.assignment().await;
    let kept = 1 - revoked[0];
    stack.publish(kept, 5).await;
    let delivery = first.delivery().await;
    assert_eq!(first.ack(&delivery, 0..2).await, Ok(2));
    drop(first);
    let (assigned, _) = second.assignment().await;
    assert_eq!((assigned[0].partition, assigned[0].committed), (kept, 2));
    let again = second.delivery().await;
    assert_eq!((again.attempt, offsets(&again)), (2, vec![2]), "the one that the member was at");
    assert_eq!(offsets(&second.delivery().await), [3, 4]);
    stack.close().await;
}

#[tokio::test]
async fn a_member_that_leaves_may_settle_first() {
    let (stack, _directory) = Stack::with_topic(1).await;
    stack.publish(0, 5).await;
    let mut member = stack.join(joining()).await;
    member.assignment().await;
    let delivery = member.delivery().await;
    member.send(Request::Leave(Leave::ForNow)).await;
    stack.publish(0, 5).await;
    assert_eq!(member.ack(&delivery, 0..3).await, Ok(3));
    let rest = member.settle(&delivery, 3..5);
    member.send(Request::Release(rest)).await;
    assert_eq!(member.end().await, None);
    assert_eq!(stack.committed(0).await, 3);
    stack.close().await;
}

#[tokio::test]
async fn nacked_records_come_again_as_the_next_attempt() {
    let (stack, _directory) = Stack::with_topic(1).await;
    stack.publish(0, 3).await;
    let mut member = stack.join(joining()).await;
    member.assignment().await;
    let delivery = member.delivery().await;
    let settle = member.settle(&delivery, 0..1);
    member
        .send(Request::Nack { settle, pause: Pause::Fixed(Duration::from_millis(20)), error: "boom".to_owned() })
        .await;
    let mut again = Vec::new();
    while again.len() < 2 {
        if let Event::Delivery(delivery) = member.next().await.expect("the stream goes on") {
            again.push((delivery.attempt, offsets(&delivery)));
        }
    }
    assert_eq!(again, [(2, vec![0]), (1, vec![1, 2])]);
    stack.close().await;
}

#[tokio::test]
async fn unsettled_records_come_again_when_the_ack_time_out_has_passed() {
    let (stack, _directory) = Stack::with_topic(1).await;
    stack.publish(0, 3).await;
    let mut member = stack.join(with_ack_timeout(Duration::from_millis(100))).await;
    member.assignment().await;
    assert_eq!(member.delivery().await.attempt, 1);
    let again = member.delivery().await;
    assert_eq!((again.attempt, offsets(&again)), (2, vec![0]), "the one that the member was at");
    let again = member.delivery().await;
    assert_eq!((again.attempt, offsets(&again)), (1, vec![1, 2]));
    let members = stack.groups.describe("g".to_owned()).await.expect("the group is there").members;
    assert!(members[0].timeouts >= 1);
    stack.close().await;
}

#[tokio::test]
async fn a_revoked_partition_moves_when_the_ack_time_out_has_passed() {
    let (stack, _directory) = Stack::with_topic(2).await;
    stack.publish(0, 1).await;
    stack.publish(1, 1).await;
    let mut first = stack.join(with_ack_timeout(Duration::from_millis(200))).await;
    first.assignment().await;
    let mut second = stack.join(joining()).await;
    let (assigned, _) = second.assignment().await;
    assert_eq!((assigned.len(), assigned[0].committed), (1, 0));
    assert_eq!(second.delivery().await.partition, assigned[0].partition);
    stack.close().await;
}

#[tokio::test]
async fn nothing_is_delivered_without_credit() {
    let (stack, _directory) = Stack::with_topic(1).await;
    for _ in 0..3 {
        stack.publish(0, 2).await;
    }
    let mut member = stack.join(JoinRequest { credit: Credit { bytes: 1, records: 10 }, ..joining() }).await;
    member.assignment().await;
    let first = member.delivery().await;
    assert_eq!(offsets(&first), [0, 1]);
    // The answer to an ack comes behind whatever was delivered before it.
    let settle = member.settle(&first, 0..2);
    member.send(Request::Ack(settle)).await;
    assert!(matches!(member.next().await, Ok(Event::Settled { committed: 2, .. })));
    // The first batch has overdrawn its credit of one byte by 199.
    member.send(Request::Credit(Credit { bytes: 200, records: 0 })).await;
    assert_eq!(offsets(&member.delivery().await), [2, 3]);
    stack.close().await;
}

#[tokio::test]
async fn heartbeats_come_and_a_silent_member_is_removed() {
    let (stack, _directory) = Stack::with_topic(1).await;
    let mut member = stack.join(JoinRequest { heartbeat: Duration::from_secs(1), ..joining() }).await;
    member.assignment().await;
    // Nothing waits for the disk now, so time may pass as fast as it likes.
    tokio::time::pause();
    assert_eq!(member.next().await, Ok(Event::Heartbeat));
    assert!(matches!(member.end().await, Some(GroupError::MemberSilent { silent_ms: 3000.. })));
    tokio::time::resume();
    let mut next = stack.join(joining()).await;
    assert_eq!(next.assignment().await.0.len(), 1);
    stack.close().await;
}

#[tokio::test]
async fn added_partitions_reach_the_members_from_their_first_record() {
    let (stack, _directory) = Stack::with_topic(1).await;
    let latest = PolicyOpinion { start: Some(StartAt::Latest), ..PolicyOpinion::default() };
    let mut member = stack.join(JoinRequest { opinion: latest, ..joining() }).await;
    member.assignment().await;
    let change = crate::topics::settings::TopicChange { partitions: Some(3), ..Default::default() };
    let topic = stack.topics.alter("t", change).await.expect("it grows");
    stack.publish(2, 4).await;
    stack.groups.topic_grown(topic).await.expect("members are told");
    let (assigned, _) = member.assignment().await;
    assert_eq!(assigned.iter().map(|one| one.partition).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(offsets(&member.delivery().await), [0, 1, 2, 3]);
    stack.close().await;
}

#[tokio::test]
async fn a_member_that_vanishes_in_the_middle_of_a_rebalance_leaves_nothing_behind() {
    let (stack, _directory) = Stack::with_topic(2).await;
    stack.publish(0, 2).await;
    stack.publish(1, 2).await;
    let mut first = stack.join(joining()).await;
    first.assignment().await;
    first.delivery().await;
    first.delivery().await;
    // Told to give one up for the second, it does not: both vanish, the one that waits before the one that holds.
    let second = stack.join(joining()).await;
    let (_, revoked) = first.assignment().await;
    assert_eq!(revoked.len(), 1);
    let mut third = stack.join(joining()).await;
    drop(second);
    drop(first);
    let mut got = std::collections::BTreeMap::new();
    while got.len() < 2 {
        if let Ok(Event::Delivery(delivery)) = third.next().await {
            got.entry(delivery.partition).or_insert(delivery.ranges[0].start);
        }
    }
    assert_eq!(got.values().copied().collect::<Vec<_>>(), [0, 0]);
    stack.close().await;
}

#[tokio::test]
async fn what_waits_for_a_static_member_moves_when_its_time_is_over() {
    let (stack, _directory) = Stack::with_topic(2).await;
    let keep = Duration::from_secs(60);
    let named = |name: &str| JoinRequest { member_name: name.to_owned(), keep, ..joining() };
    let mut staying = stack.join(named("a")).await;
    staying.assignment().await;
    let mut leaving = stack.join(named("b")).await;
    let (of_leaving, _) = leaving.assignment().await;
    assert_eq!(staying.assignment().await.1, [of_leaving[0].partition]);
    drop(leaving);
    let mut back = stack.join(named("b")).await;
    let (assigned, _) = back.assignment().await;
    assert_eq!(assigned.len(), 1);
    assert_eq!(assigned[0].partition, of_leaving[0].partition);
    assert!(assigned[0].generation > of_leaving[0].generation);
    drop(back);
    let away = async || {
        let members = stack.groups.describe("g".to_owned()).await.expect("the group is there").members;
        members.into_iter().find(|member| member.away_until_us.is_some())
    };
    let waits = async {
        while away().await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waits).await.expect("it is away");
    stack.topics.clock().advance(keep);
    let moved = loop {
        if let Ok(Event::Assignment { assigned, .. }) = staying.next().await {
            break assigned;
        }
    };
    assert_eq!((moved.len(), moved[0].partition), (1, of_leaving[0].partition));
    assert!(away().await.is_none());
    stack.close().await;
}
