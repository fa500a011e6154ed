use super::*;
use crate::groups::{
    coordinator::{Direction, PositionChange},
    error::JournalError,
    member::Loss,
};

#[tokio::test]
async fn a_committed_offset_beyond_the_log_end_is_reported_and_the_other_partitions_go_on() {
    let (stack, _directory) = Stack::with_topic(2).await;
    stack.publish(0, 3).await;
    stack.publish(1, 3).await;
    stack.groups.create("g".to_owned(), PolicyOpinion::default()).await.expect("it is made");
    let change = PositionChange {
        group: "g".to_owned(),
        topic: stack.topic().meta().id,
        positions: vec![NewPosition { partition: 0, offset: 100 }, NewPosition { partition: 1, offset: 0 }],
        direction: Direction::Reset,
    };
    stack.groups.handle.call(|reply| Command::SetPositions { change, reply }).await.expect("it is set");

    let mut member = stack.join(joining()).await;
    member.assignment().await;
    let expected = GroupError::OutOfRange { partition: 0, offset: 100, log_start: 0, high_watermark: 3 };
    assert_eq!(member.next().await, Ok(Event::Failure { partition: 0, error: expected }));
    let delivery = member.delivery().await;
    assert_eq!(delivery.partition, 1);
    assert_eq!(member.ack(&delivery, 0..3).await, Ok(3));
    assert_eq!(stack.committed(0).await, 100, "it is not reset");
    stack.close().await;
}

#[tokio::test]
async fn records_that_retention_took_are_a_gap_and_delivery_goes_on_behind_it() {
    let (stack, directory) = Stack::with_topic(1).await;
    stack.publish(0, 5).await;
    stack.publish(0, 5).await;
    stack.groups.create("g".to_owned(), PolicyOpinion::default()).await.expect("it is made");
    let at = |offset| vec![NewPosition { partition: 0, offset }];
    stack.groups.commit("g".to_owned(), "t", &[], at(1)).await.expect("it is committed");
    let partition = stack.topic().partition(0).expect("it is there");
    assert_eq!(partition.log().expect("in service").trim(5).await, Ok(5));
    drop(partition);

    let mut member = stack.join(joining()).await;
    member.assignment().await;
    assert_eq!(member.next().await, Ok(Event::Gap { partition: 0, lost: 1..5, cause: Loss::Retention }));
    let delivery = member.delivery().await;
    assert_eq!(offsets(&delivery), [5, 6, 7, 8, 9]);
    assert_eq!(member.ack(&delivery, 5..6).await, Ok(6));
    let stack = stack.restart(directory.path()).await;
    assert_eq!(stack.committed(0).await, 6);
    stack.close().await;
}

#[tokio::test]
async fn deleting_a_topic_ends_its_members_and_forgets_its_positions() {
    let (stack, directory) = Stack::with_topic(1).await;
    stack.publish(0, 5).await;
    let mut member = stack.join(joining()).await;
    member.assignment().await;
    let delivery = member.delivery().await;
    assert_eq!(member.ack(&delivery, 0..5).await, Ok(5));
    let id = stack.topic().meta().id;
    assert_eq!(stack.groups.active_groups(id).await, Ok(vec!["g".to_owned()]));
    assert_eq!(stack.groups.groups_of_topic(id).await, Ok(vec!["g".to_owned()]));

    stack.topics.delete("t", &[]).await.expect("it is deleted");
    stack.groups.topic_deleted(id).await.expect("groups are told");
    assert_eq!(member.end().await, Some(GroupError::TopicDeleted("t".to_owned())));
    assert_eq!(stack.groups.groups_of_topic(id).await, Ok(vec![]));

    let stack = stack.restart(directory.path()).await;
    stack.create_topic(1).await;
    stack.publish(0, 2).await;
    let mut member = stack.join(joining()).await;
    assert_eq!(member.assignment().await.0[0].committed, 0, "a new topic is read from its own beginning");
    stack.close().await;
}

#[tokio::test]
async fn a_shutdown_ends_streams_after_what_they_acked_is_durable() {
    let (stack, directory) = Stack::with_topic(1).await;
    stack.publish(0, 5).await;
    let mut member = stack.join(joining()).await;
    member.assignment().await;
    let delivery = member.delivery().await;
    let settle = member.settle(&delivery, 0..5);
    let wanted = settle.ack_id;
    member.send(Request::Ack(settle)).await;
    let shutdown = stack.groups.shutdown(PATIENCE);
    let (outcome, ()) = tokio::join!(member.settled(wanted), shutdown);
    let acked = match outcome {
        Ok(committed) => committed,
        Err(GroupError::ShuttingDown) => 0,
        Err(error) => panic!("unexpected: {error}"),
    };
    if acked > 0 {
        assert_eq!(member.end().await, Some(GroupError::ShuttingDown));
    }
    assert_eq!(stack.groups.list().await.err(), Some(GroupError::ShuttingDown));
    let stack = stack.restart(directory.path()).await;
    assert!(stack.committed(0).await >= acked);
    stack.close().await;
}

#[tokio::test]
async fn damaged_group_state_is_an_error_that_says_so_and_never_offset_0() {
    let (stack, directory) = Stack::with_topic(1).await;
    commit_some(&stack).await;
    stack.close().await;
    let segment = journal_files(directory.path()).into_iter().find(|path| path.ends_with(".log"));
    let segment = segment.expect("the journal has a segment");
    let mut bytes = std::fs::read(&segment).expect("it is readable");
    let begin = bytes.windows(3).position(|at| at == b"\x0a\x01g").expect("the group is in there");
    bytes[begin + 2] ^= 0x40;
    std::fs::write(&segment, bytes).expect("it is writable");

    expect_damaged(directory.path()).await;
}

#[tokio::test]
async fn a_journal_that_is_gone_is_not_taken_for_a_new_one() {
    let (stack, directory) = Stack::with_topic(1).await;
    commit_some(&stack).await;
    stack.close().await;
    for file in journal_files(directory.path()) {
        std::fs::remove_file(file).expect("it can be removed");
    }
    expect_damaged(directory.path()).await;
}

async fn commit_some(stack: &Stack) {
    stack.publish(0, 50).await;
    stack.groups.create("g".to_owned(), PolicyOpinion::default()).await.expect("it is made");
    for offset in 1..40 {
        let positions = vec![NewPosition { partition: 0, offset }];
        stack.groups.commit("g".to_owned(), "t", &[], positions).await.expect("it is committed");
    }
}

fn journal_files(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory.join("system/groups")).expect("the journal's directory");
    files.map(|file| file.expect("a file").path().to_string_lossy().into_owned()).collect()
}

async fn expect_damaged(directory: &Path) {
    let stack = Stack::open(directory).await;
    let listed = stack.groups.list().await.err();
    assert!(matches!(listed, Some(GroupError::Journal(JournalError::Damaged(_)))), "{listed:?}");
    let mut member = stack.open_stream(joining()).await;
    let end = member.end().await;
    assert!(matches!(end, Some(GroupError::Journal(JournalError::Damaged(_)))), "{end:?}");
    let id = stack.topic().meta().id;
    assert_eq!(stack.groups.active_groups(id).await, Ok(vec![]), "topics work without groups");
    stack.publish(0, 1).await;
    stack.close().await;
}
