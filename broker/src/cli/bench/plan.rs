//! What is to be measured: checked, complete, independent of how it was typed.

use std::path::PathBuf;
use std::time::Duration;

use aqueduct_client::{Codec, Durability};
use serde::Serialize;

use crate::cli::size::counted;

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The name of the workload, as typed.
    pub(super) workload: &'static str,
    pub(super) load: Load,
    pub(super) shape: Shape,
    /// Where the temporary directory is made; `None`: where the system makes them.
    pub(super) parent_directory: Option<PathBuf>,
    pub(super) limits: MeasureLimits,
}

/// Whether the limits of the machine are measured before the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MeasureLimits {
    Yes,
    No,
}

/// What every load has.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// Of the value.
    pub(super) record_bytes: u64,
    pub(super) partitions: u32,
    pub(super) codec: Codec,
    pub(super) durability: Durability,
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
}

impl Shape {
    /// As an index. Bounded long before by what a broker takes.
    pub(super) fn value_bytes(&self) -> usize {
        usize::try_from(self.record_bytes).unwrap_or(usize::MAX)
    }
}

/// Who does what.
#[derive(Debug, Clone)]
pub(super) enum Load {
    Pipelined(Pipelined),
    OneAtATime(OneAtATime),
    Replay(Replay),
    Live(Live),
}

/// As fast as acknowledgements come.
#[derive(Debug, Clone)]
pub(super) struct Pipelined {
    pub(super) producers: u32,
    /// Records handed over per call.
    pub(super) batch: u32,
    /// Batches on their way, per producer and partition.
    pub(super) in_flight: u32,
}

/// Each task publishes a record, waits for its receipt, and so on.
#[derive(Debug, Clone)]
pub(super) struct OneAtATime {
    pub(super) producers: u32,
    /// Of each producer.
    pub(super) tasks: u32,
    /// Records a second, over all tasks; `None`: as fast as receipts come.
    pub(super) rate: Option<u32>,
}

/// Reading a log from its beginning, again and again.
#[derive(Debug, Clone)]
pub(super) struct Replay {
    pub(super) subscribers: u32,
    /// In the log.
    pub(super) records: u64,
}

/// Publishing on schedule, and reading at the tail meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) producers: u32,
    /// Most records handed over per call, when several are due.
    pub(super) batch: u32,
    pub(super) in_flight: u32,
    /// Records a second, over all producers.
    pub(super) rate: u32,
    /// Each gets everything.
    pub(super) subscribers: u32,
    /// Of one consumer group.
    pub(super) members: u32,
}

/// A plan as it is printed for programs; what a workload does not have is absent.
#[derive(Debug, Default, Serialize)]
pub(super) struct Config {
    record_bytes: u64,
    partitions: u32,
    codec: String,
    durability: String,
    warm_up_seconds: f64,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    producers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_records: Option<u64>,
}

impl Plan {
    pub(super) fn config(&self) -> Config {
        let shape = &self.shape;
        let common = Config {
            record_bytes: shape.record_bytes,
            partitions: shape.partitions,
            codec: shape.codec.to_string(),
            durability: shape.durability.to_string(),
            warm_up_seconds: shape.warm_up.as_secs_f64(),
            duration_seconds: shape.duration.as_secs_f64(),
            ..Config::default()
        };
        match &self.load {
            Load::Pipelined(load) => Config {
                producers: Some(load.producers),
                batch: Some(load.batch),
                in_flight: Some(load.in_flight),
                ..common
            },
            Load::OneAtATime(load) => {
                Config { producers: Some(load.producers), tasks: Some(load.tasks), rate: load.rate, ..common }
            }
            Load::Replay(load) => {
                Config { subscribers: Some(load.subscribers), log_records: Some(load.records), ..common }
            }
            Load::Live(load) => Config {
                producers: Some(load.producers),
                batch: Some(load.batch),
                in_flight: Some(load.in_flight),
                rate: Some(load.rate),
                subscribers: Some(load.subscribers),
                members: Some(load.members),
                ..common
            },
        }
    }
}

impl Config {
    /// Who does what, in words.
    pub(super) fn roles(&self) -> String {
        let mut roles = Vec::new();
        let mut add = |number: Option<u64>, noun: &str| {
            if let Some(number @ 1..) = number {
                roles.push(counted(number, noun));
            }
        };
        add(self.producers.map(u64::from), "producer");
        add(self.tasks.map(u64::from).filter(|tasks| *tasks > 1), "task");
        add(self.subscribers.map(u64::from), "subscriber");
        add(self.members.map(u64::from), "group member");
        add(Some(self.partitions.into()), "partition");
        add(self.log_records, "record");
        if let Some(rate) = self.rate {
            roles.push(format!("{} due every second", counted(rate.into(), "record")));
        } else if let Some(batch) = self.batch {
            roles.push(format!("{} a call", counted(batch.into(), "record")));
        }
        roles.join(", ")
    }
}
