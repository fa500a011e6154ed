//! What this machine can do with nothing of Aqueduct's around it: the yardstick of every load.

mod disk;
mod grpc;
mod memory;
mod on_schedule;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::progress::Progress;
pub(super) use disk::warning;
pub(super) use on_schedule::{Due, OnSchedule};

/// How long all of them take together beside a load, at most.
pub(super) const TAKE: Duration = Duration::from_millis(3_500);

/// How long the one on schedule takes, at most. It is there for the pauses of a machine, some of which come once a second.
pub(super) const TAKE_ON_SCHEDULE: Duration = Duration::from_secs(4);

/// Measured one after the other, in the same run as the load.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Limits {
    /// 4 KiB written and synced at the end of a file that grows.
    pub(super) fdatasync_growing: Percentiles,
    /// 4 KiB written and synced into a file of zeros that is synced already.
    pub(super) fdatasync_zeroed: Percentiles,
    /// As the latter, with 8 files at once.
    pub(super) fdatasync_parallel_per_second: f64,
    /// Pieces of 1 MiB, each written and synced.
    pub(super) sequential_write_mb_per_second: f64,
    pub(super) memcpy_gb_per_second: f64,
    pub(super) loopback_gb_per_second: f64,
    pub(super) grpc_call: Percentiles,
    /// Messages of 256 KiB.
    pub(super) grpc_to_client_gb_per_second: f64,
    pub(super) grpc_to_server_gb_per_second: f64,
    /// For a load with a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) on_schedule: Option<OnSchedule>,
}

/// In microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Percentiles {
    fn of(latencies: &super::histogram::Latencies) -> Self {
        let micros = |quantile| latencies.at(quantile).as_secs_f64() * 1e6;
        Self { p50_us: micros(0.5), p99_us: micros(0.99) }
    }
}

impl Limits {
    /// Takes about `all`; files go to `directory`.
    pub(super) async fn measure(directory: &Path, all: Duration, progress: &Progress) -> anyhow::Result<Self> {
        // Shares of the time, in percent: disks need the most to show what they do all day.
        let share = |percent: u32| all * percent / 100;
        let on_disk = |name: &str, measure: fn(&Path, Duration) -> anyhow::Result<_>, percent| {
            progress.phase(&format!("limits: {name}"), None);
            let (directory, take) = (directory.to_owned(), share(percent));
            async move { tokio::task::spawn_blocking(move || measure(&directory, take)).await? }
        };
        let fdatasync_growing = on_disk("fdatasync", disk::sync_growing, 14).await?;
        let fdatasync_zeroed = on_disk("fdatasync into zeros", disk::sync_zeroed, 14).await?;
        progress.phase("limits: fdatasync of 8 files", None);
        let (parallel, sequential) = (directory.to_owned(), directory.to_owned());
        let (take_parallel, take_sequential) = (share(14), share(20));
        let fdatasync_parallel_per_second =
            tokio::task::spawn_blocking(move || disk::syncs_in_parallel(&parallel, take_parallel)).await??;
        progress.phase("limits: sequential writes", None);
        let sequential_write_mb_per_second =
            tokio::task::spawn_blocking(move || disk::sequential(&sequential, take_sequential)).await??;
        progress.phase("limits: memory and loopback", None);
        let take = share(6);
        let memcpy_gb_per_second = tokio::task::spawn_blocking(move || memory::copy(take)).await?;
        let take = share(8);
        let loopback_gb_per_second = tokio::task::spawn_blocking(move || memory::loopback(take)).await??;
        progress.phase("limits: bare gRPC", None);
        let server = grpc::BareServer::start(None).await.context("cannot measure bare gRPC")?;
        let grpc_call = server.call(share(8)).await?;
        let grpc_to_client_gb_per_second = server.to_client(share(8)).await?;
        let grpc_to_server_gb_per_second = server.to_server(share(8)).await?;
        Ok(Self {
            fdatasync_growing,
            fdatasync_zeroed,
            fdatasync_parallel_per_second,
            sequential_write_mb_per_second,
            memcpy_gb_per_second,
            loopback_gb_per_second,
            grpc_call,
            grpc_to_client_gb_per_second,
            grpc_to_server_gb_per_second,
            on_schedule: None,
        })
    }

    /// Takes about `take`; a file goes to `directory`.
    pub(super) async fn measure_on_schedule(
        &mut self,
        directory: &Path,
        due: Due,
        take: Duration,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        progress.phase("limits: bare gRPC and fdatasync, on schedule", None);
        self.on_schedule = on_schedule::measure(directory, due, take).await?;
        Ok(())
    }

    /// Time to make a small record durable and to say so: the sync, and a bare call. Without a sync, only the call.
    pub(super) fn round_trip_us(&self, durability: aqueduct_client::Durability) -> f64 {
        match durability {
            aqueduct_client::Durability::Fsync => self.fdatasync_zeroed.p50_us + self.grpc_call.p50_us,
            aqueduct_client::Durability::Os => self.grpc_call.p50_us,
        }
    }
}
