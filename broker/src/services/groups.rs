//! The service `Groups`.

mod trouble;
mod wire;

use std::{sync::Arc, time::Duration};

use aqueduct_proto::v1::{self, groups_server};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub(super) use self::wire::lag as lag_to_wire;
use super::{convert, draining_status};
use crate::{
    BrokerCore,
    connection::{ClientId, Connection},
    groups::{Fate, GroupDescription, GroupView, Groups, NewPosition, OUTBOUND_EVENTS},
    outgoing::Outgoing,
};

/// Failed records that one answer tells of.
const FAILED_SHOWN_MAX: usize = 1000;

/// Shorter intervals would keep the broker busy with measuring.
const LAG_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct GroupsService {
    core: Arc<BrokerCore>,
}

impl GroupsService {
    pub(crate) fn new(core: Arc<BrokerCore>) -> Self {
        Self { core }
    }

    fn groups(&self) -> &Arc<Groups> {
        &self.core.groups
    }

    fn to_wire(&self, view: GroupView) -> v1::Group {
        let topics = self.groups().topic_names(&view.topics);
        wire::group(view.name, &view.group, topics, view.members)
    }

    async fn report(&self, request: &v1::WatchLagRequest) -> Result<v1::WatchLagResponse, Status> {
        let lag = self.groups().lag(wire::non_empty(&request.group), wire::non_empty(&request.topic)).await?;
        Ok(v1::WatchLagResponse { partitions: lag.into_iter().map(wire::lag).collect() })
    }
}

#[tonic::async_trait]
impl groups_server::Groups for GroupsService {
    async fn create(
        &self,
        request: Request<v1::CreateGroupRequest>,
    ) -> Result<Response<v1::CreateGroupResponse>, Status> {
        let v1::CreateGroupRequest { group: name, policy } = request.into_inner();
        let group = self.groups().create(name.clone(), wire::opinion(policy)?).await?;
        tracing::info!(group = name, "group created");
        Ok(Response::new(v1::CreateGroupResponse { group: Some(wire::group(name, &group, Vec::new(), 0)) }))
    }

    async fn alter(&self, request: Request<v1::AlterGroupRequest>) -> Result<Response<v1::AlterGroupResponse>, Status> {
        let request = request.into_inner();
        let name = request.group.clone();
        self.groups().alter(name.clone(), wire::alteration(&request)?).await?;
        tracing::info!(group = name, "group altered");
        let description = self.groups().describe(name).await?;
        Ok(Response::new(v1::AlterGroupResponse { group: Some(self.to_wire(description.view)) }))
    }

    async fn list(&self, _request: Request<v1::ListGroupsRequest>) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let groups = self.groups().list().await?.into_iter().map(|view| self.to_wire(view)).collect();
        Ok(Response::new(v1::ListGroupsResponse { groups }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        let name = request.into_inner().group;
        let description = self.groups().describe(name.clone()).await?;
        let lag = self.groups().lag(Some(&name), None).await?;
        let waits = self.groups().waits(name.clone()).await?;
        let retries = self.groups().retries(name.clone(), &waits).await?;
        // A topic that has just been deleted has no name any more.
        let topic_name = |id| self.groups().topic_names(&[id]).pop();
        let closed_until_us = self.groups().closed_until_us(&description.view.group.policy);
        let failed = description.view.group.failures();
        let failed = failed.filter_map(|failed| Some(wire::failed_records(topic_name(failed.topic)?, &failed)));
        let failed = failed.take(FAILED_SHOWN_MAX).collect();
        let waits = waits
            .into_iter()
            .filter_map(|wait| Some(trouble::wait(topic_name(wait.topic)?, wait, &description, closed_until_us)));
        let waits = waits.collect();
        let retries = retries.into_iter().filter_map(|of| Some(trouble::retries(topic_name(of.topic)?, of))).collect();
        let GroupDescription { view, members, taken_out } = description;
        let members = members.into_iter().filter_map(|member| {
            let topic = topic_name(member.topic)?;
            Some(wire::member(member, topic))
        });
        let members = members.collect();
        let topics = self.core.topics.list();
        let holds = topics.iter().filter(|topic| topic.gate().held_since_us(&name).is_some());
        let holds = holds.filter_map(|topic| convert::group_hold_to_wire(topic)).collect();
        Ok(Response::new(v1::DescribeGroupResponse {
            group: Some(self.to_wire(view)),
            failed,
            members,
            lag: lag.into_iter().map(wire::lag).collect(),
            closed_until_us: closed_until_us.unwrap_or(0),
            holds,
            waits,
            retries,
            taken_out: taken_out.into_iter().map(trouble::taken_out).collect(),
        }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let v1::ListDeadLettersRequest { group, topic } = request.into_inner();
        let views = self.groups().dead_letters(wire::non_empty(&group), wire::non_empty(&topic)).await?;
        let dead_letters = views.into_iter().map(wire::dead_letters).collect();
        Ok(Response::new(v1::ListDeadLettersResponse { dead_letters }))
    }

    async fn redrive(&self, request: Request<v1::RedriveRequest>) -> Result<Response<v1::RedriveResponse>, Status> {
        let v1::RedriveRequest { group, topic, offsets } = request.into_inner();
        let ranges = wire::offset_ranges(offsets)?;
        let redriven = self.groups().settle_letters(&group, &topic, &ranges, Fate::Redriven).await?;
        tracing::info!(group, topic, redriven, "dead letters redriven");
        Ok(Response::new(v1::RedriveResponse { redriven }))
    }

    async fn discard(&self, request: Request<v1::DiscardRequest>) -> Result<Response<v1::DiscardResponse>, Status> {
        let v1::DiscardRequest { group, topic, offsets } = request.into_inner();
        let ranges = wire::offset_ranges(offsets)?;
        let discarded = self.groups().settle_letters(&group, &topic, &ranges, Fate::Discarded).await?;
        tracing::info!(group, topic, discarded, "dead letters discarded");
        Ok(Response::new(v1::DiscardResponse { discarded }))
    }

    type ConsumeStream = BoxStream<'static, Result<v1::ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        // Answered before the join has come: there are clients that send nothing before they have seen headers.
        let (outbound, events) = mpsc::channel(OUTBOUND_EVENTS);
        let outgoing = Outgoing::of(request.extensions());
        let connection = Connection::of(request.extensions(), self.core.config.connection_budget_bytes);
        let client = ClientId::of(request.metadata(), &connection);
        let requests = wire::requests(request.into_inner()).boxed();
        tokio::spawn(Arc::clone(self.groups()).consume(client, requests, outbound, outgoing));
        let responses = ReceiverStream::new(events).map(|event| match event {
            Ok(event) => Ok(wire::event(event)),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Result<Response<v1::CommitResponse>, Status> {
        let v1::CommitRequest { group, topic, topic_id, offsets } = request.into_inner();
        let position = |at: v1::PartitionOffset| NewPosition { partition: at.partition, offset: at.offset };
        let positions = offsets.into_iter().map(position).collect();
        self.groups().commit(group, &topic, &topic_id, positions).await?;
        Ok(Response::new(v1::CommitResponse {}))
    }

    type WatchLagStream = BoxStream<'static, Result<v1::WatchLagResponse, Status>>;

    async fn watch_lag(&self, request: Request<v1::WatchLagRequest>) -> Result<Response<Self::WatchLagStream>, Status> {
        let request = request.into_inner();
        let first = self.report(&request).await?;
        if request.interval_ms == 0 {
            return Ok(Response::new(stream::iter([Ok(first)]).boxed()));
        }
        let interval = Duration::from_millis(request.interval_ms.into()).max(LAG_INTERVAL_MIN);
        let later = stream::unfold(Some((self.clone(), request)), move |state| async move {
            let (service, request) = state?;
            let mut draining = service.core.draining();
            let waited = tokio::time::timeout(interval, async move { draining.wait_for(|drain| *drain).await.is_ok() });
            let report = match waited.await {
                Ok(_) => Err(draining_status()),
                Err(_) => service.report(&request).await,
            };
            let next = report.is_ok().then_some((service, request));
            Some((report, next))
        });
        Ok(Response::new(stream::iter([Ok(first)]).chain(later).boxed()))
    }

    async fn reset(&self, request: Request<v1::ResetGroupRequest>) -> Result<Response<v1::ResetGroupResponse>, Status> {
        let (request, dry_run) = wire::reset_request(request.into_inner())?;
        let moved = match dry_run {
            wire::Execution::Plan => self.groups().plan_reset(&request).await?,
            wire::Execution::Do => {
                tracing::info!(group = request.group, topic = request.topic, "group reset");
                self.groups().reset(request).await?
            }
        };
        Ok(Response::new(v1::ResetGroupResponse { partitions: moved.into_iter().map(wire::partition_reset).collect() }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let group = request.into_inner().group;
        self.groups().delete(group.clone()).await?;
        tracing::info!(group, "group deleted");
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }
}

#[cfg(test)]
mod tests;
