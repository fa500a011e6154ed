//! What a load reached of what the machine allows.

use serde::Serialize;

use super::histogram::three_digits;
use super::limits::Limits;
use super::outcome::Outcome;
use super::plan::{Load, Plan};

/// A figure beside its limit.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Fraction {
    /// What was measured, in words.
    pub(super) figure: &'static str,
    /// Against what.
    pub(super) limit: &'static str,
    pub(super) reached: f64,
    pub(super) allowed: f64,
    pub(super) unit: &'static str,
    /// `reached / allowed`.
    pub(super) ratio: f64,
    #[serde(skip)]
    better: Better,
}

/// Which way is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    /// As a percentage of the limit.
    More,
    /// As a multiple of the limit.
    Less,
}

const DISK: &str = "sequential write + sync";
const TO_SERVER: &str = "a bare gRPC stream to the server";
const TO_CLIENT: &str = "a bare gRPC stream to the client";
const MEMCPY: &str = "memcpy";
const ROUND_TRIP: &str = "fdatasync into zeros + a bare gRPC call";
const CALL: &str = "a bare gRPC call";
const ON_SCHEDULE: &str = "bare gRPC and the disk, on this schedule";

const RATIO_MIN: f64 = 0.002;

/// The limits that matter for this load.
pub(super) fn of(plan: &Plan, outcome: &Outcome, limits: &Limits) -> Vec<Fraction> {
    let throughput = |name, limit, allowed_mb: f64| {
        let flow = outcome.flows.iter().find(|flow| flow.name == name)?;
        Some(more(name, limit, outcome.per_second(flow.bytes) / 1e6, allowed_mb))
    };
    let at = |name, quantile| {
        let latency = outcome.latencies.iter().find(|latency| latency.name == name)?;
        (latency.latencies.count() > 0).then(|| latency.latencies.at(quantile).as_secs_f64() * 1e6)
    };
    let latency = |name, figure| {
        let durable = plan.shape.durability == aqueduct_client::Durability::Fsync;
        let limit = if durable { ROUND_TRIP } else { CALL };
        Some(less(figure, limit, at(name, 0.5)?, limits.round_trip_us(plan.shape.durability)))
    };
    let on_schedule =
        |name, figure| Some(less(figure, ON_SCHEDULE, at(name, 0.99)?, limits.on_schedule?.latency.p99_us));
    let to_client = ("delivered", TO_CLIENT, limits.grpc_to_client_gb_per_second * 1e3);
    let fractions = match &plan.load {
        Load::Pipelined(_) => vec![
            throughput("published", DISK, limits.sequential_write_mb_per_second),
            throughput("published", TO_SERVER, limits.grpc_to_server_gb_per_second * 1e3),
        ],
        Load::OneAtATime(_) => vec![latency("ack", "p50 of an acknowledgement")],
        Load::Replay(_) => vec![
            throughput(to_client.0, to_client.1, to_client.2),
            throughput("delivered", MEMCPY, limits.memcpy_gb_per_second * 1e3),
        ],
        Load::Live(_) => vec![
            latency("end_to_end", "p50 from due to delivered"),
            on_schedule("end_to_end", "p99 from due to delivered"),
            latency("group", "p50 from due to consumed"),
            on_schedule("group", "p99 from due to consumed"),
            latency("ack", "p50 from due to acknowledged"),
            on_schedule("ack", "p99 from due to acknowledged"),
            throughput(to_client.0, to_client.1, to_client.2),
        ],
    };
    // A load at a low rate says nothing about throughput.
    fractions.into_iter().flatten().filter(|fraction| fraction.ratio >= RATIO_MIN).collect()
}

fn more(figure: &'static str, limit: &'static str, reached: f64, allowed: f64) -> Fraction {
    Fraction { figure, limit, reached, allowed, unit: "MB/s", ratio: reached / allowed, better: Better::More }
}

fn less(figure: &'static str, limit: &'static str, reached: f64, allowed: f64) -> Fraction {
    Fraction { figure, limit, reached, allowed, unit: "µs", ratio: reached / allowed, better: Better::Less }
}

impl Fraction {
    /// `43 % of sequential write + sync (391 of 900 MB/s)`
    pub(super) fn describe(&self) -> String {
        let Self { figure, limit, unit, .. } = self;
        let (reached, allowed) = (three_digits(self.reached), three_digits(self.allowed));
        match self.better {
            Better::More => {
                let percent = 100.0 * self.ratio;
                format!("{percent:>6.1} %  of {limit}\n            {figure}: {reached} of {allowed} {unit}")
            }
            Better::Less => {
                format!("{:>6.2} ×  {limit}\n            {figure}: {reached} over {allowed} {unit}", self.ratio)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_a_percentage_and_less_is_a_multiple() {
        assert!(more("published", DISK, 250.0, 1_000.0).describe().starts_with("  25.0 %  of sequential write + sync"));
        assert!(less("p50", CALL, 150.0, 100.0).describe().starts_with("  1.50 ×  a bare gRPC call"));
    }
}
