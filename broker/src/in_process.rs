//! The broker as a service inside the process: requests go to the same handlers as over the network, with no socket
//! and no HTTP/2 in between.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use aqueduct_proto::v1::{
    admin_server::AdminServer, groups_server::GroupsServer, log_server::LogServer, topics_server::TopicsServer,
};
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower_service::Service;

use crate::{
    BrokerCore,
    connection::Connection,
    services::{AdminService, GroupsService, LogService, TopicsService},
};

/// Every service of the broker, by the path of the request.
#[derive(Clone)]
pub(crate) struct InProcess {
    connection: Connection,
    log: LogServer<LogService>,
    topics: TopicsServer<TopicsService>,
    groups: GroupsServer<GroupsService>,
    admin: AdminServer<AdminService>,
}

impl InProcess {
    pub(crate) fn new(core: &Arc<BrokerCore>) -> Self {
        let request_bytes_max = core.config.limits.request_bytes_max();
        Self {
            connection: Connection::new("inside the process", core.config.connection_budget_bytes),
            log: LogServer::new(LogService::new(Arc::clone(core)))
                .max_decoding_message_size(request_bytes_max)
                .max_encoding_message_size(usize::MAX),
            topics: TopicsServer::new(TopicsService::new(Arc::clone(core))),
            groups: GroupsServer::new(GroupsService::new(Arc::clone(core))).max_encoding_message_size(usize::MAX),
            admin: AdminServer::new(AdminService::new(Arc::clone(core))),
        }
    }

    /// The services, for a server on a socket.
    #[cfg(feature = "server")]
    pub(crate) fn into_routes(self) -> tonic::service::Routes {
        tonic::service::Routes::new(self.log).add_service(self.topics).add_service(self.groups).add_service(self.admin)
    }
}

impl Service<Request<Body>> for InProcess {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.connection.clone());
        match request.uri().path().split('/').nth(1) {
            Some("aqueduct.v1.Log") => self.log.call(request),
            Some("aqueduct.v1.Topics") => self.topics.call(request),
            Some("aqueduct.v1.Groups") => self.groups.call(request),
            Some("aqueduct.v1.Admin") => self.admin.call(request),
            _ => futures_util::future::ready(Ok(Status::unimplemented("no such service").into_http())).boxed(),
        }
    }
}
