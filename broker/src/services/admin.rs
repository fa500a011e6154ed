//! The service `Admin`.

use std::sync::Arc;

use aqueduct_proto::v1::{self, admin_server};
use tonic::{Request, Response, Status};

use super::{convert, groups};
use crate::{AutoCreateTopics, BrokerCore, partition::producers::BATCHES_REMEMBERED, topics::settings::PARTITIONS_MAX};

/// Grows when methods or fields are added to the API.
const API_LEVEL: u32 = 1;

/// Positions at risk that one answer tells of.
const AT_RISK_SHOWN_MAX: usize = 100;

/// Abilities of every broker of this version.
const FEATURES: [&str; 8] = [
    "idempotent_producers",
    "named_producers",
    "ordered_groups",
    "shared_groups",
    "keyed_groups",
    "delayed_delivery",
    "backlogs",
    "compaction",
];

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct AdminService {
    core: Arc<BrokerCore>,
}

impl AdminService {
    pub(crate) fn new(core: Arc<BrokerCore>) -> Self {
        Self { core }
    }
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn info(&self, _request: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        let limits = &self.core.config.limits;
        // While groups are out of service, everything else can still be told.
        let at_risk = self.core.groups.at_risk(AT_RISK_SHOWN_MAX).await.unwrap_or_default();
        let mut features = FEATURES.to_vec();
        if self.core.config.auto_create_topics != AutoCreateTopics::Refuse {
            features.push("auto_create_topics");
        }
        Ok(Response::new(v1::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_level: API_LEVEL,
            features: features.into_iter().map(str::to_owned).collect(),
            engine: self.core.meta.name().to_owned(),
            durability_levels: vec![v1::Durability::Fsync.into(), v1::Durability::Os.into()],
            limits: Some(v1::Limits {
                record_bytes_max: limits.record_bytes_max,
                batch_bytes_max: limits.batch_bytes_max,
                batch_decoded_bytes_max: limits.batch_decoded_bytes_max,
                batch_records_max: limits.batch_records_max,
                response_bytes_max: limits.response_bytes_max,
                topic_partitions_max: PARTITIONS_MAX,
                producer_batches_in_flight_max: u32::try_from(BATCHES_REMEMBERED).unwrap_or(u32::MAX),
            }),
            broker_id: self.core.broker_id.clone(),
            // One broker is a cluster of its own.
            cluster_id: self.core.broker_id.clone(),
            started_us: self.core.started_us,
            failures: self.core.topics.failures().iter().map(convert::failure_to_wire).collect(),
            delayed_records: self.core.delays.pending(),
            at_risk: at_risk.into_iter().map(groups::lag_to_wire).collect(),
        }))
    }
}
