//! What a load has shown.

use std::time::Duration;

use super::histogram::Latencies;
use super::plan::Shape;
use super::stage::Stage;
use super::window::Metered;

/// Of one run, within the window that is measured.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) elapsed: Duration,
    pub(super) flows: Vec<Flow>,
    pub(super) latencies: Vec<Latency>,
    pub(super) broker_cpu: Option<Duration>,
    pub(super) broker_anonymous_bytes_peak: Option<u64>,
    pub(super) client_cpu: Option<Duration>,
    pub(super) totals: Totals,
    /// For people: what else there is to know.
    pub(super) notes: Vec<String>,
}

/// Records that got somewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    /// `published`, `delivered` or `consumed`.
    pub(super) name: &'static str,
    pub(super) records: u64,
    /// Keys and values.
    pub(super) bytes: u64,
}

/// How long something took.
#[derive(Debug)]
pub(super) struct Latency {
    /// For programs.
    pub(super) name: &'static str,
    /// For people: from what to what.
    pub(super) title: &'static str,
    pub(super) latencies: Latencies,
}

/// Over the whole run, warm-up included: these add up, or the run has failed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) published: u64,
    /// To all subscribers together.
    pub(super) delivered: u64,
    /// By the group, duplicates included.
    pub(super) consumed: u64,
    /// Of a load with a rate: due, and not sent in time. Zero if the rate was kept.
    pub(super) unsent: u64,
}

impl Outcome {
    pub(super) fn new(metered: &Metered) -> Self {
        Self {
            elapsed: metered.elapsed,
            flows: Vec::new(),
            latencies: Vec::new(),
            broker_cpu: metered.broker_cpu,
            broker_anonymous_bytes_peak: metered.broker_anonymous_bytes_peak,
            client_cpu: metered.client_cpu,
            totals: Totals::default(),
            notes: Vec::new(),
        }
    }

    pub(super) fn flow(&mut self, name: &'static str, records: u64, shape: &Shape, key_bytes: u64) {
        self.flows.push(Flow { name, records, bytes: records * (shape.record_bytes + key_bytes) });
    }

    pub(super) fn latency(&mut self, name: &'static str, title: &'static str, latencies: Latencies) {
        self.latencies.push(Latency { name, title, latencies });
    }

    /// The records that the broker had to handle: what its CPU time is divided by.
    pub(super) fn records_handled(&self) -> u64 {
        self.flows.iter().map(|flow| flow.records).sum()
    }

    pub(super) fn per_second(&self, number: u64) -> f64 {
        number as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Fails unless the broker has exactly as many records as were acknowledged; says in how many segments they lie.
pub(super) async fn audit(stage: &Stage, outcome: &mut Outcome) -> anyhow::Result<()> {
    let description = stage.client.topics().describe(&stage.topic).await?;
    let stored: u64 = description.partitions.iter().map(|partition| partition.high_watermark).sum();
    let published = outcome.totals.published;
    anyhow::ensure!(stored == published, "{published} records were acknowledged, but the broker has {stored}");
    let bytes: u64 = description.partitions.iter().map(|partition| partition.size_bytes).sum();
    let segments: u64 = description.partitions.iter().map(|partition| u64::from(partition.segments)).sum();
    let size = crate::cli::size::human_bytes(bytes);
    let segments = crate::cli::size::counted(segments, "segment");
    outcome.notes.push(format!("the log at the end: {size} in {segments}"));
    Ok(())
}
