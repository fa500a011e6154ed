//! The service `Topics`.

use std::sync::Arc;

use aqueduct_proto::v1::{self, topics_server};
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::{convert, verify};
use crate::{
    AutoCreateTopics, BrokerCore,
    engine::Compacted,
    error::TopicError,
    to_the_end::to_the_end,
    topics::{Topic, settings::NewTopic},
};

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct TopicsService {
    core: Arc<BrokerCore>,
}

impl TopicsService {
    pub(crate) fn new(core: Arc<BrokerCore>) -> Self {
        Self { core }
    }
}

#[tonic::async_trait]
impl topics_server::Topics for TopicsService {
    async fn create(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        let new = match (request.config, self.core.config.auto_create_topics) {
            // Publishing would make it just so.
            (None, AutoCreateTopics::WithPartitions(partitions)) => NewTopic { partitions, ..NewTopic::default() },
            (config, _) => convert::new_topic_from_wire(config)?,
        };
        let (core, name) = (Arc::clone(&self.core), request.name.clone());
        let topic = to_the_end(async move { core.topics.create(&name, new).await }).await?;
        tracing::info!(topic = request.name, partitions = topic.partitions().len(), "topic created");
        Ok(Response::new(v1::CreateTopicResponse { topic: Some(convert::topic_to_wire(&topic.meta())) }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let topic = self.core.topics.find(&request.into_inner().name)?;
        let meta = topic.meta();
        let mut described = convert::topic_to_wire(&meta);
        let backlog = described.config.as_mut().and_then(|config| config.backlog.as_mut());
        backlog.into_iter().for_each(|backlog| backlog.group_unknown = topic.gate().is_group_unknown());
        Ok(Response::new(v1::DescribeTopicResponse {
            topic: Some(described),
            partitions: convert::partitions_to_wire(&topic),
            groups: self.core.groups.groups_of_topic(meta.id).await?,
            holds: convert::holds_to_wire(&topic),
        }))
    }

    async fn list(&self, _request: Request<v1::ListTopicsRequest>) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let topics = self.core.topics.list().iter().map(|topic| convert::topic_to_wire(&topic.meta())).collect();
        Ok(Response::new(v1::ListTopicsResponse { topics }))
    }

    async fn alter(&self, request: Request<v1::AlterTopicRequest>) -> Result<Response<v1::AlterTopicResponse>, Status> {
        let topic = to_the_end(alter(Arc::clone(&self.core), request.into_inner())).await?;
        Ok(Response::new(v1::AlterTopicResponse { topic: Some(convert::topic_to_wire(&topic.meta())) }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        to_the_end(delete(Arc::clone(&self.core), request.into_inner())).await?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }

    async fn compact(
        &self,
        request: Request<v1::CompactTopicRequest>,
    ) -> Result<Response<v1::CompactTopicResponse>, Status> {
        let v1::CompactTopicRequest { name, topic_id } = request.into_inner();
        let topic = self.core.topics.find(&name)?;
        topic.check_id(&topic_id)?;
        let Compacted { records_removed, bytes_freed } = self.core.topics.compact(&topic).await?;
        Ok(Response::new(v1::CompactTopicResponse { records_removed, bytes_freed }))
    }

    type VerifyStream = BoxStream<'static, Result<v1::VerifyTopicResponse, Status>>;

    async fn verify(&self, request: Request<v1::VerifyTopicRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let v1::VerifyTopicRequest { name, partition, topic_id } = request.into_inner();
        let topic = self.core.topics.find(&name)?;
        topic.check_id(&topic_id)?;
        let partitions = match partition {
            Some(index) => vec![topic.partition(index)?],
            None => topic.partitions().to_vec(),
        };
        Ok(Response::new(verify::verify(Arc::clone(&self.core), partitions)))
    }

    async fn truncate(
        &self,
        request: Request<v1::TruncateTopicRequest>,
    ) -> Result<Response<v1::TruncateTopicResponse>, Status> {
        let v1::TruncateTopicRequest { name, partition, before_offset } = request.into_inner();
        let partition = self.core.topics.find(&name)?.partition(partition)?;
        let log = partition.log()?;
        let window = *log.watch().borrow();
        if before_offset > window.high_watermark {
            let source = crate::engine::ReadError::OutOfRange { requested: before_offset, window };
            return Err(crate::error::FetchError::Read { topic: name, partition: partition.index(), source }.into());
        }
        let log_start = log.trim(before_offset).await.map_err(TopicError::from)?;
        Ok(Response::new(v1::TruncateTopicResponse { log_start }))
    }
}

async fn alter(core: Arc<BrokerCore>, request: v1::AlterTopicRequest) -> Result<Arc<Topic>, Status> {
    let name = request.name.clone();
    let topic = core.topics.alter(&name, convert::topic_change_from_wire(request)?).await?;
    core.groups.topic_grown(Arc::clone(&topic)).await?;
    tracing::info!(topic = name, "topic altered");
    Ok(topic)
}

async fn delete(core: Arc<BrokerCore>, request: v1::DeleteTopicRequest) -> Result<(), Status> {
    let v1::DeleteTopicRequest { name, topic_id, force } = request;
    let topic = core.topics.find(&name)?;
    topic.check_id(&topic_id)?;
    let id = topic.meta().id;
    let users = core.groups.active_groups(id).await?;
    if !force && !users.is_empty() {
        return Err(TopicError::InUse { topic: name, users: users.join(", ") }.into());
    }
    // By its identity: another one may have its name by now.
    core.topics.delete(&name, &id).await?;
    core.groups.topic_deleted(id).await?;
    tracing::info!(topic = name, "topic deleted");
    Ok(())
}
