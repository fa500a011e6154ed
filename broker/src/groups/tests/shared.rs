//! Members that share every partition.

use super::*;

/// Of the group's retries.
const RETRIES: u32 = u32::MAX;

fn sharing(records: u64) -> JoinRequest {
    let retry = RetryOpinion {
        max_attempts: Some(2),
        backoff_min: Some(Duration::from_millis(1)),
        backoff_max: Some(Duration::from_millis(1)),
        ..RetryOpinion::default()
    };
    let opinion = PolicyOpinion { mode: Some(Mode::Shared), retry, ..PolicyOpinion::default() };
    JoinRequest { opinion, credit: Credit { bytes: u64::MAX, records }, ..joining() }
}

/// A member of it, and what it is told about its partitions.
async fn member(stack: &Stack, records: u64) -> (Member, Vec<Assigned>) {
    let mut member = stack.join(sharing(records)).await;
    let (assigned, revoked) = member.assignment().await;
    assert_eq!(revoked, [0; 0]);
    (member, assigned)
}

#[tokio::test]
async fn every_member_has_every_partition_in_a_generation_of_its_own() {
    let (stack, _directory) = Stack::with_topic(2).await;
    let (_first, of_first) = member(&stack, 10).await;
    let (_second, of_second) = member(&stack, 10).await;
    for assigned in [&of_first, &of_second] {
        assert_eq!(assigned.iter().map(|one| one.partition).collect::<Vec<_>>(), [0, 1]);
        assert!(assigned.iter().all(|one| one.generation == assigned[0].generation));
    }
    assert_ne!(of_first[0].generation, of_second[0].generation);
    let GroupDescription { view, members, .. } = stack.groups.describe("g".to_owned()).await.expect("it is described");
    assert_eq!(view.members, 2);
    assert!(members.len() == 2 && members.iter().all(|member| member.partitions == [0, 1]), "{members:?}");
    let reset = ResetRequest { group: "g".into(), topic: "t".into(), partitions: vec![], to: ResetTo::Shift(0) };
    let refused = stack.groups.reset(reset).await;
    assert_eq!(refused, Err(GroupError::MembersActive { group: "g".to_owned(), members: 2 }));
    stack.close().await;
}

#[tokio::test]
async fn what_is_not_with_a_member_is_not_for_it_to_settle() {
    let (stack, _directory) = Stack::with_topic(1).await;
    let (mut first, _) = member(&stack, 5).await;
    let (mut second, _) = member(&stack, 5).await;
    stack.publish(0, 10).await;
    let (of_first, of_second) = (first.delivery().await, second.delivery().await);
    assert_eq!((offsets(&of_first).len(), offsets(&of_second).len()), (5, 5));
    let foreign = of_second.ranges[0].clone();
    let taken_back = Err(GroupError::TakenBack { partition: 0 });
    assert_eq!(first.ack(&of_first, foreign).await, taken_back);
    let stale = Delivery { generation: of_second.generation, ..of_first.clone() };
    assert!(matches!(first.ack(&stale, 0..1).await, Err(GroupError::StaleGeneration { partition: 0, .. })));
    let never = first.ack(&of_first, 10..11).await;
    assert!(matches!(never, Err(GroupError::Invalid { field: "ranges", .. })), "{never:?}");
    assert_eq!(stack.committed(0).await, 0);

    let own = of_first.ranges[0].clone();
    let committed = first.ack(&of_first, own.clone()).await.expect("it is its own");
    assert_eq!(first.ack(&of_first, own).await, Ok(committed), "once more is fine, and without effect");
    let rest = of_second.ranges[0].clone();
    assert_eq!(second.ack(&of_second, rest).await, Ok(10));
    stack.close().await;
}

#[tokio::test]
async fn a_partly_late_ack_settles_what_is_still_there() {
    let (stack, _directory) = Stack::with_topic(1).await;
    let (mut first, _) = member(&stack, 5).await;
    stack.publish(0, 5).await;
    let delivery = first.delivery().await;
    let release = first.settle(&delivery, 3..5);
    first.send(Request::Release(release)).await;
    assert_eq!(first.ack(&delivery, 0..5).await, Err(GroupError::TakenBack { partition: 0 }));
    let (mut second, _) = member(&stack, 5).await;
    let again = second.delivery().await;
    assert_eq!((again.attempt, offsets(&again)), (1, vec![3, 4]));
    assert_eq!(second.ack(&again, 3..5).await, Ok(5));
    stack.close().await;
}

#[tokio::test]
async fn a_record_that_takes_its_only_member_along_is_parked_in_the_end() {
    let (stack, _directory) = Stack::with_topic(1).await;
    let partition = stack.topic().partition(0).expect("it is there");
    let stored = dead_letters::append(
        &partition,
        crate::services::pack(&[aqueduct_client::Record::new("poison")]).expect("it packs"),
    )
    .await
    .expect("it is taken");
    stored.await.expect("it is stored");
    let (mut member_1, _) = member(&stack, 5).await;
    assert_eq!(member_1.delivery().await.partition, 0);
    drop(member_1);
    let mut member_2 = stack.join(sharing(5)).await;
    let of_retries = loop {
        if let Event::Delivery(delivery) = member_2.next().await.expect("an event") {
            break delivery;
        }
    };
    assert_eq!(of_retries.partition, RETRIES);
    drop(member_2);
    loop {
        let views = stack.groups.dead_letters(None, None).await.expect("they are listed");
        if views.iter().any(|view| view.unsettled.first() == Some(&(0..1))) {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(stack.committed(0).await, 1);
    stack.close().await;
}

#[tokio::test]
async fn a_group_goes_on_with_a_new_hub_when_the_last_member_of_the_old_one_has_gone() {
    let (stack, _directory) = Stack::with_topic(1).await;
    for round in 0..20 {
        stack.publish(0, 2).await;
        let (mut member, _) = member(&stack, 10).await;
        let delivery = member.delivery().await;
        assert_eq!(offsets(&delivery), [2 * round, 2 * round + 1]);
        member.ack(&delivery, 2 * round..2 * round + 2).await.expect("it is settled");
        member.send(Request::Leave(Leave::ForNow)).await;
        assert_eq!(member.end().await, None);
    }
    stack.close().await;
}

#[tokio::test]
async fn deleting_the_topic_ends_every_member() {
    let (stack, _directory) = Stack::with_topic(1).await;
    let (mut first, _) = member(&stack, 5).await;
    let (mut second, _) = member(&stack, 5).await;
    let id = stack.topic().meta().id;
    stack.topics.delete("t", &[]).await.expect("it is deleted");
    stack.groups.topic_deleted(id).await.expect("the groups know");
    for member in [&mut first, &mut second] {
        assert_eq!(member.end().await, Some(GroupError::TopicDeleted("t".to_owned())));
    }
    stack.close().await;
}

#[tokio::test]
async fn added_partitions_and_shutdown_reach_every_member() {
    let (stack, _directory) = Stack::with_topic(1).await;
    let (mut first, of_first) = member(&stack, 5).await;
    let (mut second, _) = member(&stack, 5).await;
    let grown =
        stack.topics.alter("t", crate::topics::settings::TopicChange { partitions: Some(2), ..Default::default() });
    let grown = grown.await.expect("it grows");
    stack.groups.topic_grown(grown).await.expect("the groups know");
    let (assigned, _) = first.assignment().await;
    assert_eq!((assigned[0].partition, assigned[0].generation), (1, of_first[0].generation));
    assert_eq!(second.assignment().await.0[0].partition, 1);
    stack.groups.shutdown(PATIENCE).await;
    assert_eq!(first.end().await, Some(GroupError::ShuttingDown));
    assert_eq!(second.end().await, Some(GroupError::ShuttingDown));
}
