//! Groups, seen from outside.

use std::time::Duration;

use aqueduct_client::{GroupMode, GroupPolicy, LossCause, PartitionReset, Record, Start};
use aqueduct_tests::{Refusal, eventually, text, within};
use tonic::Code;

use crate::stage::{Stage, next};

pub(crate) async fn lag_falls_to_zero_as_records_are_acked(stage: Stage) {
    stage.topic("numbers", 2).await;
    stage.publish_numbers("numbers", 10).await;
    let group = stage.client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("numbers", [(0, 0), (1, 0)]).await.expect("committed");
    let lag = group.lag("numbers").await.expect("a report");
    assert_eq!(lag.iter().map(|one| (one.partition, one.lag_records)).collect::<Vec<_>>(), [(0, 10), (1, 0)]);
    assert!(lag[0].lag_bytes > 0 && lag[0].lag_seconds > 0.0, "{lag:?}");
    assert!(lag[1].lag_bytes == 0 && lag[1].lag_seconds == 0.0, "{lag:?}");

    let mut consumer =
        stage.client.consumer("numbers", "billing").member_name("clerk").build().await.expect("a member");
    for done in 1..=10 {
        next(&mut consumer).await.ack_durable().await.expect("durable");
        let lag = group.lag("numbers").await.expect("a report");
        assert_eq!((lag[0].committed_offset, lag[0].lag_records), (done, 10 - done));
        assert_eq!(lag[0].member.as_deref(), Some("clerk"));
    }
    let lag = stage.client.groups().lag().await.expect("a report of all groups");
    assert!(lag.iter().all(|one| one.lag_records == 0 && one.lag_bytes == 0 && one.lag_seconds == 0.0), "{lag:?}");
}

pub(crate) async fn lag_tells_where_it_leads(stage: Stage) {
    let hour = Duration::from_secs(3600);
    stage.client.topics().create("numbers").retention_age(hour).build().await.expect("a new topic");
    stage.publish_numbers("numbers", 10).await;
    let group = stage.client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("numbers", [(0, 0)]).await.expect("committed");
    let forecast = eventually("rates are known", async || {
        let forecast = group.lag("numbers").await.expect("a report")[0].forecast;
        forecast.rate_out.is_some().then_some(forecast)
    })
    .await;
    assert!(forecast.rate_in.is_some() && forecast.bytes_in.is_some(), "{forecast:?}");
    assert!(forecast.falls_behind(), "nobody reads: {forecast:?}");
    assert!(forecast.retention_loss.is_some_and(|loss| loss < hour), "{forecast:?}");
    assert_eq!((forecast.retention_loss_cause, forecast.risk), (Some(LossCause::Age), None));
    assert!(stage.client.info().await.expect("information").at_risk.is_empty());

    group.commit("numbers", [(0, 4)]).await.expect("committed");
    let forecast = eventually("the pace is seen", async || {
        let forecast = group.lag("numbers").await.expect("a report")[0].forecast;
        forecast.rate_out.is_some_and(|rate| rate > 0.0).then_some(forecast)
    })
    .await;
    assert!(forecast.catch_up.is_some_and(|time| !time.is_zero()), "{forecast:?}");
    group.commit("numbers", [(0, 10)]).await.expect("committed");
    let forecast = group.lag("numbers").await.expect("a report")[0].forecast;
    assert_eq!((forecast.catch_up, forecast.retention_loss), (Some(Duration::ZERO), None), "{forecast:?}");
}

pub(crate) async fn a_watch_reports_lag_as_it_changes(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 5).await;
    let group = stage.client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("numbers", [(0, 0)]).await.expect("committed");
    let mut watch = group.watch_lag(Some("numbers"), Duration::from_millis(10)).await.expect("a watch");
    for expected in [5, 2, 0] {
        group.commit("numbers", [(0, 5 - expected)]).await.expect("committed");
        loop {
            let report = within("a report", watch.next()).await.expect("no end").expect("a report");
            if report[0].lag_records == expected {
                break;
            }
        }
    }
}

pub(crate) async fn a_commit_without_a_member_goes_forward_only(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 10).await;
    let group = stage.client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("numbers", [(0, 6)]).await.expect("committed");
    let backwards = Refusal::of(group.commit("numbers", [(0, 5)]).await);
    assert_eq!(backwards.expect(Code::FailedPrecondition, "COMMIT_BACKWARDS").fact("committed_offset"), "6");
    let beyond = Refusal::of(group.commit("numbers", [(0, 11)]).await).expect(Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    assert_eq!((beyond.fact("log_start"), beyond.fact("high_watermark")), ("0", "10"));
    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.offset, 6);
    let busy = group.commit("numbers", [(0, 7)]).await;
    Refusal::of(busy).expect(Code::FailedPrecondition, "MEMBERS_ACTIVE");
    delivery.ack();
}

pub(crate) async fn a_reset_moves_anywhere_and_a_dry_run_nowhere(stage: Stage) {
    stage.topic("numbers", 1).await;
    let mut receipts = Vec::new();
    for number in 0..10 {
        receipts.push(stage.client.publish("numbers", Record::new(number.to_string())).await.expect("a receipt"));
    }
    let group = stage.client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("numbers", [(0, 8)]).await.expect("committed");
    let moved = |from_offset, to_offset| vec![PartitionReset { partition: 0, from_offset, to_offset }];

    let plan = group.reset("numbers").to(Start::Earliest).dry_run().build().await.expect("a plan");
    assert_eq!(plan, moved(8, 0));
    assert_eq!(group.lag("numbers").await.expect("a report")[0].committed_offset, 8);
    let time = receipts[3].append_time;
    let at_time = receipts.iter().find(|receipt| receipt.append_time >= time).expect("it is there").offset;
    for (reset, from, to) in [
        (group.reset("numbers").to(Start::Earliest), 8, 0),
        (group.reset("numbers").to(Start::Latest), 0, 10),
        (group.reset("numbers").to(Start::Offset(4)), 10, 4),
        (group.reset("numbers").shift(3), 4, 7),
        (group.reset("numbers").shift(-100), 7, 0),
        (group.reset("numbers").shift(100), 0, 10),
        (group.reset("numbers").to(Start::Time(time)).partitions([0]), 10, at_time),
    ] {
        assert_eq!(reset.build().await.expect("a reset"), moved(from, to));
    }
    let beyond = group.reset("numbers").to(Start::Offset(11)).build().await;
    Refusal::of(beyond).expect(Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    assert_eq!(next(&mut consumer).await.offset, at_time, "a reset wins over what was stored");
}

pub(crate) async fn a_group_with_members_is_neither_reset_nor_deleted(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 2).await;
    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    next(&mut consumer).await.ack_durable().await.expect("durable");
    let group = stage.client.group("billing");
    let reset = group.reset("numbers").to(Start::Earliest).build().await;
    assert_eq!(Refusal::of(reset).expect(Code::FailedPrecondition, "MEMBERS_ACTIVE").fact("members"), "1");
    Refusal::of(group.delete().await).expect(Code::FailedPrecondition, "MEMBERS_ACTIVE");
    assert_eq!(next(&mut consumer).await.offset, 1, "the member goes on undisturbed");
    consumer.close().await.expect("a clean end");
    eventually("the member has left", async || group.delete().await.ok()).await;
    Refusal::of(group.describe().await).expect(Code::NotFound, "GROUP_NOT_FOUND");
}

pub(crate) async fn a_member_that_disagrees_with_the_policy_is_refused(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 1).await;
    let timeout = Duration::from_secs(5);
    let mut member = stage.client.consumer("numbers", "billing").ack_timeout(timeout).build().await.expect("a member");
    let disagreeing = stage.client.consumer("numbers", "billing").ack_timeout(Duration::from_secs(6)).build().await;
    let refusal = Refusal::of(disagreeing).expect(Code::FailedPrecondition, "POLICY_DISAGREES");
    assert_eq!((refusal.fact("group"), refusal.fact("field")), ("billing", "ack_timeout_ms"));
    let disagreeing = stage.client.consumer("numbers", "billing").start(Start::Latest).build().await;
    Refusal::of(disagreeing).expect(Code::FailedPrecondition, "POLICY_DISAGREES");
    stage.client.consumer("numbers", "billing").ack_timeout(timeout).build().await.expect("a member that agrees");
    assert_eq!(member.policy().ack_timeout, Some(timeout));
    next(&mut member).await.ack();
}

pub(crate) async fn a_group_can_begin_at_the_end(stage: Stage) {
    stage.topic("news", 1).await;
    stage.publish_numbers("news", 10).await;
    let mut consumer = stage.client.consumer("news", "alerts").start(Start::Latest).build().await.expect("a consumer");
    eventually("the partition is assigned", async || (consumer.assignment().len() == 1).then_some(())).await;
    stage.client.publish("news", Record::new("new")).await.expect("a receipt");
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.offset, text(&delivery)), (10, "new"));
    delivery.ack();
}

pub(crate) async fn a_group_is_made_altered_listed_and_deleted(stage: Stage) {
    let group = stage.client.group("billing");
    let policy = GroupPolicy { start: Some(Start::Latest), ..GroupPolicy::default() };
    let made = group.create(policy).await.expect("a new group");
    assert_eq!((made.policy.mode, made.policy.start), (Some(GroupMode::Ordered), Some(Start::Latest)));
    Refusal::of(group.create(policy).await).expect(Code::AlreadyExists, "GROUP_EXISTS");
    let altered = group.alter().ack_timeout(Duration::from_secs(7)).start(Start::Earliest).build().await;
    let altered = altered.expect("altered").policy;
    assert_eq!((altered.ack_timeout, altered.start), (Some(Duration::from_secs(7)), Some(Start::Earliest)));
    let listed = stage.client.groups().list().await.expect("a list");
    assert_eq!(listed.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["billing"]);
    group.delete().await.expect("deleted");
    assert_eq!(stage.client.groups().list().await.expect("a list").len(), 0);
    Refusal::of(group.describe().await).expect(Code::NotFound, "GROUP_NOT_FOUND");
}
