//! What it costs to have events handled by [`Consumer::run`](aqueduct_client::Consumer::run) instead of taking them one by
//! one: the same backlog, the same group mode, handlers that do nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use aqueduct_client::{Failure, GroupMode, GroupPolicy, Job};
use aqueduct_tests::BrokerProcess;
use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::{
    MEMBERS,
    members::{Conduct, Group, PARTITIONS, consume, publish},
};
use crate::report::figure;

const CONCURRENCIES: [usize; 3] = [1, 16, 256];

/// Measures over a backlog of `records`.
pub(crate) async fn measure(records: u64) -> anyhow::Result<()> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("handlers").partitions(PARTITIONS).build().await?;
    publish(&client, "handlers", records).await?;
    for mode in [GroupMode::Ordered, GroupMode::Shared, GroupMode::Keyed] {
        for members in [1, MEMBERS] {
            let taken = take(&broker, &group(mode, members, 0), members, records).await?;
            figure(&format!("{mode}, {members}: taken one by one"), taken / 1e6, "M records/s");
            for concurrency in CONCURRENCIES {
                let run = Load { group: group(mode, members, concurrency), members, concurrency };
                let handled = run.handle(&broker, records).await?;
                let load = format!("{mode}, {members}: {concurrency} handlers");
                figure(&load, handled / 1e6, "M records/s");
                figure(&format!("{load}, of that"), handled / taken * 100.0, "%");
            }
        }
    }
    Ok(())
}

fn group(mode: GroupMode, members: usize, concurrency: usize) -> Group {
    let policy = GroupPolicy { mode: Some(mode), ..GroupPolicy::default() };
    Group { topic: "handlers", name: format!("{mode}-{members}-{concurrency}"), policy }
}

/// Records a second.
async fn take(broker: &BrokerProcess, group: &Group, members: usize, records: u64) -> anyhow::Result<f64> {
    let members = group.join(broker, members).await?;
    let begin = Instant::now();
    let mut handled = consume(members, |_| Conduct::Ack);
    handled.reach(records).await?;
    let rate = records as f64 / begin.elapsed().as_secs_f64();
    handled.stop().await?;
    Ok(rate)
}

/// Members that run handlers.
struct Load {
    group: Group,
    members: usize,
    /// Of each.
    concurrency: usize,
}

impl Load {
    /// Records a second.
    async fn handle(self, broker: &BrokerProcess, records: u64) -> anyhow::Result<f64> {
        let members = self.group.join(broker, self.members).await?;
        let begin = Instant::now();
        let left = Arc::new(AtomicU64::new(records));
        let (done, is_done) = watch::channel(None);
        let handler = move |_: Job| {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                done.send_replace(Some(begin.elapsed()));
            }
            async { Ok::<_, Failure>(()) }
        };
        let runs = members.into_iter().map(|member| {
            let mut is_done = is_done.clone();
            let until = async move { is_done.wait_for(Option::is_some).await.is_ok() };
            member.run(self.concurrency, handler.clone()).until(until).into_future()
        });
        try_join_all(runs).await?;
        let seconds = is_done.borrow().map_or(f64::NAN, |time| time.as_secs_f64());
        Ok(records as f64 / seconds)
    }
}
