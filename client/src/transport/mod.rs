//! How requests reach a broker: over HTTP/2, or by a call in the same process.
//!
//! Everything above this module sees one type, [`Channel`], and cannot tell the difference.

pub(crate) mod backoff;
pub(crate) mod breaker;
#[cfg(feature = "grpc")]
pub(crate) mod connect;
pub(crate) mod link;

use std::{
    error::Error,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderName, HeaderValue};
use tonic::body::Body;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;
type ResponseFuture = Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send>>;

/// A way to a broker. Cheap to clone; clones share the connection.
///
/// It is a [`Service`], so that generated gRPC clients run on it unchanged. It is always ready: waiting for the
/// transport is part of the call.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<dyn Dispatch>,
}

impl Channel {
    /// Calls `service` directly: no socket, no HTTP/2.
    pub fn from_service<S>(service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        Self { inner: Arc::new(Dispatcher(service)) }
    }

    /// With who asks in every request: the broker knows what comes from one program, whatever connections it takes.
    pub(crate) fn identified(self, client: &HeaderValue) -> Self {
        Self { inner: Arc::new(Identified { inner: self.inner, client: client.clone() }) }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        self.inner.dispatch(request)
    }
}

/// Object-safe face of a cloneable service.
trait Dispatch: Send + Sync {
    fn dispatch(&self, request: http::Request<Body>) -> ResponseFuture;
}

/// Names the client of a request: 32 hexadecimal digits of its choice.
const CLIENT_HEADER: HeaderName = HeaderName::from_static("aqueduct-client");

struct Identified {
    inner: Arc<dyn Dispatch>,
    client: HeaderValue,
}

impl Dispatch for Identified {
    fn dispatch(&self, mut request: http::Request<Body>) -> ResponseFuture {
        request.headers_mut().insert(CLIENT_HEADER, self.client.clone());
        self.inner.dispatch(request)
    }
}

struct Dispatcher<S>(S);

impl<S> Dispatch for Dispatcher<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn dispatch(&self, request: http::Request<Body>) -> ResponseFuture {
        // A clone of its own, because readiness belongs to the clone that was polled.
        let mut service = self.0.clone();
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            service.call(request).await.map_err(Into::into)
        })
    }
}
