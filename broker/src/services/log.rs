//! The service `Log`.

use std::sync::Arc;

use aqueduct_proto::v1::{self, log_server};
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{fetch, publish, publish_hold::Caller, publish_stream, subscribe};
use crate::{
    BrokerCore,
    connection::{self, ClientId, Connection},
    outgoing::Outgoing,
    partition::producers::BATCHES_REMEMBERED,
    to_the_end::to_the_end,
};

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct LogService {
    core: Arc<BrokerCore>,
}

impl LogService {
    pub(crate) fn new(core: Arc<BrokerCore>) -> Self {
        Self { core }
    }

    fn caller<T>(&self, request: &Request<T>) -> Caller {
        let connection = Connection::of(request.extensions(), self.core.config.connection_budget_bytes);
        Caller { client: ClientId::of(request.metadata(), &connection), connection }
    }
}

#[tonic::async_trait]
impl log_server::Log for LogService {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let caller = self.caller(&request);
        let wait_max = connection::timeout(request.metadata()).unwrap_or(self.core.config.publish_wait_max);
        // The caller should hear who holds it before its own deadline cuts the line.
        let wait_max = wait_max.mul_f32(0.9);
        Ok(Response::new(publish::publish(&self.core, &caller, wait_max, request.into_inner()).await?))
    }

    type PublishStreamStream = BoxStream<'static, Result<v1::PublishStreamResponse, Status>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let caller = self.caller(&request);
        Ok(Response::new(publish_stream::publish_stream(Arc::clone(&self.core), caller, request.into_inner())))
    }

    async fn open_producer(
        &self,
        request: Request<v1::OpenProducerRequest>,
    ) -> Result<Response<v1::OpenProducerResponse>, Status> {
        let v1::OpenProducerRequest { topic, name } = request.into_inner();
        let topic = self.core.find_or_create(&topic).await?;
        let topic_id = topic.meta().id;
        let core = Arc::clone(&self.core);
        let opened = to_the_end(async move { core.producer_names.open_name(topic_id, &name).await }).await?;
        Ok(Response::new(v1::OpenProducerResponse {
            topic_id: topic_id.to_vec().into(),
            producer_id: opened.id.to_vec().into(),
            epoch: opened.epoch,
            // With a new epoch the numbers begin again at 0 everywhere.
            positions: Vec::new(),
            batches_in_flight_max: u32::try_from(BATCHES_REMEMBERED).unwrap_or(u32::MAX),
        }))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let outgoing = Outgoing::of(request.extensions());
        Ok(Response::new(fetch::fetch(&self.core, &outgoing, request.into_inner()).await?))
    }

    type SubscribeStream = BoxStream<'static, Result<v1::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let outgoing = Outgoing::of(request.extensions());
        Ok(Response::new(subscribe::subscribe(&self.core, outgoing, request.into_inner()).await?))
    }
}
