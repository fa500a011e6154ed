//! The broker on a socket: gRPC over HTTP/2, with health and reflection.
//!
//! Whoever connects may be hostile. What a connection can cost is bounded by [`ConnectionLimits`], before anything is
//! decoded: `listener` decides who gets in, HTTP/2 bounds streams, headers and resets, `metered` bounds what streams leave
//! in memory.
//!
//! [`ConnectionLimits`]: crate::ConnectionLimits

mod listener;
mod message;
mod metered;
mod socket;

use std::{future::Future, io, net::SocketAddr, time::Duration};

use aqueduct_proto::FILE_DESCRIPTOR_SET;
use tokio::{net::TcpListener, sync::oneshot};
use tonic_health::{ServingStatus, server::HealthReporter};

use self::{listener::Listener, metered::Metered};
use crate::{Broker, in_process::InProcess, topics::Topics};

/// Measured with tonic on two cores: twice the throughput of the default 16 KiB; 1 MiB is worse.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// What a held publisher can leave in the broker's memory, per stream, on top of its budget.
const STREAM_WINDOW_BYTES: u32 = 128 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// In `grpc.health.v1`: not serving while a partition takes no writes. `Admin.Info` says which, and why.
const LOG_SERVICE: &str = "aqueduct.v1.Log";

const ACCEPT_BACKLOG: i32 = 1024;

/// How long members of groups may take to settle what they have when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// As asked for.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// The reflection service does not accept the API's description.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The HTTP/2 server failed.
    #[error("the server has failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A broker that listens.
pub struct Server {
    broker: Broker,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServerError::Bind`].
    pub fn bind(broker: Broker, address: SocketAddr) -> Result<Self, ServerError> {
        let listen = || {
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
            // So that a broker restarts although connections of the one before linger.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(ACCEPT_BACKLOG)?;
            let listener = TcpListener::from_std(socket.into())?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|source| ServerError::Bind { address, source })?;
        Ok(Self { broker, listener, address })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves; then accepts nothing more, lets streams finish what they have, and returns once
    /// every connection has ended, or after 10 s. The broker is left open.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let core = &self.broker.core;
        let (health, health_service) = tonic_health::server::health_reporter();
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        for service in ["", LOG_SERVICE, "aqueduct.v1.Topics", "aqueduct.v1.Groups", "aqueduct.v1.Admin"] {
            health.set_service_status(service, ServingStatus::Serving).await;
        }
        let (draining, drained_since) = oneshot::channel();
        let stop = async {
            stop.await;
            // Whoever watches sends nothing new; then the streams are asked to end.
            health.set_service_status("", ServingStatus::NotServing).await;
            let _ = draining.send(());
            core.drain(DRAIN_MAX).await;
        };
        // Some streams, those that watch health among them, never end by themselves.
        let out_of_patience = async {
            let _ = drained_since.await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        let limits = core.config.connections;
        let routes = InProcess::new(core)
            .into_routes()
            .add_service(health_service)
            // grpcurl 1.8 and Python's client ask for v1alpha.
            .add_service(descriptors().build_v1()?)
            .add_service(descriptors().build_v1alpha()?)
            .prepare();
        let metered = Metered::new(routes, core);
        let listener = Listener::new(self.listener, core);
        let serving = tonic::transport::Server::builder()
            .max_frame_size(FRAME_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(limits.streams_max)
            .http2_max_header_list_size(u32::try_from(limits.header_list_bytes_max).unwrap_or(u32::MAX))
            .http2_max_pending_accept_reset_streams(Some(limits.resets_pending_max as usize))
            .http2_keepalive_interval(Some(limits.keepalive_interval))
            .http2_keepalive_timeout(Some(limits.keepalive_timeout))
            .serve_with_incoming_shutdown(metered, listener.connections(), stop);
        tokio::select! {
            served = serving => Ok(served?),
            () = tell_of_failures(&core.topics, health.clone()) => Ok(()),
            () = out_of_patience => {
                tracing::warn!("some clients were still connected after {DRAIN_MAX:?}");
                Ok(())
            }
        }
    }
}

/// Keeps the health of the service that publishes true: it serves while every partition takes writes. Never ends.
async fn tell_of_failures(topics: &Topics, health: HealthReporter) {
    let mut changed = topics.failures_changed();
    loop {
        let status = if topics.failures().is_empty() { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(LOG_SERVICE, status).await;
        if changed.changed().await.is_err() {
            // Its sender lives as long as the topics.
            return std::future::pending().await;
        }
    }
}
