//! Connecting over HTTP/2.

use std::time::Duration;

use tonic::transport::Endpoint;

use super::Channel;
use crate::{
    client::{Client, ClientOptions},
    error::{BrokerError, ConnectError, RequestError},
};

/// Frames of 256 KiB carry twice what HTTP/2's default of 16 KiB does.
const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// What one stream may have on the way while nobody reads it.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Far above the windows of its streams: a subscription that is not being read must not stop the others that share
/// the connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024 * 1024;

/// Builds a [`Client`] that reaches its broker over the network.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    url: String,
    connect_timeout: Duration,
    keepalive_interval: Duration,
    keepalive_timeout: Duration,
    options: ClientOptions,
    probe: Probe,
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    /// Ask the broker who it is before the client is handed out.
    Eager,
    /// The first request connects.
    Lazy,
}

impl ClientBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            options: ClientOptions::default(),
            probe: Probe::Eager,
        }
    }

    /// For the TCP connection and the HTTP/2 handshake. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// For one request and its answer; streams are watched by heartbeats instead. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// HTTP/2 pings: how often, and how long to wait for the answer. Default: 10 s, 5 s.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive_interval = interval;
        self.keepalive_timeout = timeout;
        self
    }

    /// Do not connect before the first request: [`connect`](Self::connect) then fails only for a malformed URL.
    pub fn lazy(mut self) -> Self {
        self.probe = Probe::Lazy;
        self
    }

    /// Opens the client: one connection for publishing, one for everything else, so that a publisher that is held never
    /// blocks reads and acks.
    ///
    /// # Errors
    /// [`ConnectError::InvalidUrl`]; without [`lazy`](Self::lazy) also when the broker does not answer in time.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let endpoint = self.endpoint()?;
        let publish = Channel::from_service(endpoint.connect_lazy());
        let read = Channel::from_service(endpoint.connect_lazy());
        let client = Client::from_channels(publish, read, self.options.clone());
        match self.probe {
            Probe::Lazy => Ok(client),
            Probe::Eager => match tokio::time::timeout(self.connect_timeout, client.info()).await {
                Ok(Ok(_)) => Ok(client),
                Ok(Err(error)) => Err(self.failed(error)),
                Err(_) => Err(ConnectError::TimedOut { url: self.url, after: self.connect_timeout }),
            },
        }
    }

    fn endpoint(&self) -> Result<Endpoint, ConnectError> {
        let invalid = |detail: String| ConnectError::InvalidUrl { url: self.url.clone(), detail };
        let uri: http::Uri = self.url.parse().map_err(|error: http::uri::InvalidUri| invalid(error.to_string()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(invalid("this build has no TLS; use http://".into())),
            Some(other) => return Err(invalid(format!("unknown scheme {other:?}; use http://HOST:PORT"))),
            None => return Err(invalid("no scheme; use http://HOST:PORT".into())),
        }
        Ok(Endpoint::from(uri)
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            .keep_alive_while_idle(true)
            .max_frame_size(FRAME_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
    }

    fn failed(self, error: RequestError) -> ConnectError {
        let url = self.url;
        match error {
            RequestError::Unreachable { source, .. } => {
                let source = source.map_or_else(BrokerError::unreachable, |source| *source);
                ConnectError::Unreachable { url, source: Box::new(source) }
            }
            RequestError::TimedOut { after } => ConnectError::TimedOut { url, after },
            RequestError::Rejected(source) => ConnectError::Refused { url, source },
            RequestError::Closed => ConnectError::Unreachable { url, source: Box::new(BrokerError::unreachable()) },
            RequestError::Malformed { detail } => ConnectError::NotABroker { url, detail },
        }
    }
}
