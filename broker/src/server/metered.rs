//! The services, with what their calls leave in memory bounded: requests that have not come in completely, and answers
//! that have not been taken. What the framework itself refuses gets a reason here, like everything else.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body, service::Routes};
use tower_service::Service;

use super::{message::Messages, socket::Peer};
use crate::{
    BrokerCore,
    fair_pool::{AtLeast, Grant, Share},
    outgoing::Outgoing,
    status,
};

/// See the [module](self).
#[derive(Clone)]
pub(super) struct Metered {
    routes: Routes,
    request_timeout: Duration,
    request_bytes_max: usize,
}

impl Metered {
    pub(super) fn new(routes: Routes, core: &BrokerCore) -> Self {
        let request_bytes_max = core.config.limits.request_bytes_max();
        Self { routes, request_timeout: core.config.connections.request_timeout, request_bytes_max }
    }
}

impl Service<Request<Body>> for Metered {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Routes always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return futures_util::future::ready(Ok(Status::internal("a call without a connection").into_http()))
                .boxed();
        };
        let outgoing = Outgoing::new(peer.outgoing);
        request.extensions_mut().insert(peer.connection);
        request.extensions_mut().insert(outgoing.clone());
        let (timeout, bytes_max) = (self.request_timeout, self.request_bytes_max);
        let request = request.map(|body| Incoming::new(body, peer.incoming, timeout, bytes_max));
        let answer = self.routes.call(request);
        async move {
            let response = answer.await?;
            let refused = Status::from_header_map(response.headers());
            if let Some(named) = refused.and_then(|refused| status::of_the_framework(&refused, bytes_max)) {
                return Ok(named.into_http());
            }
            Ok(response.map(|body| Body::new(Answer { body, outgoing })))
        }
        .boxed()
    }
}

/// The body of a request. A message that has not come in completely waits in memory: it has its place there from when its
/// length is known, or is refused, and it must be complete in time.
struct Incoming {
    body: Body,
    messages: Messages,
    share: Arc<Share>,
    /// For the message that is coming in.
    grant: Option<Grant>,
    timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Longer ones are refused by whoever decodes them.
    message_bytes_max: usize,
}

impl Incoming {
    fn new(body: Body, share: Arc<Share>, timeout: Duration, message_bytes_max: usize) -> Self {
        Self { body, messages: Messages::default(), share, grant: None, timeout, deadline: None, message_bytes_max }
    }

    /// Notes what has come in.
    fn received(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.messages.advance(data) > 0 {
            self.grant = None;
            self.deadline = None;
        }
        if !self.messages.is_inside() {
            return Ok(());
        }
        if self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep_until(Instant::now() + self.timeout)));
        }
        match self.messages.bytes() {
            Some(bytes) if self.grant.is_none() && bytes <= self.message_bytes_max => {
                let bytes = bytes as u64;
                self.grant = Some(
                    self.share
                        .try_take(bytes, bytes, AtLeast::Little)
                        .ok_or_else(|| status::too_much_incoming(bytes))?,
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let received = frame.data_ref().map_or(Ok(()), |data| this.received(data));
                Poll::Ready(Some(received.map(|()| frame)))
            }
            Poll::Ready(other) => Poll::Ready(other),
            Poll::Pending => {
                let Some(deadline) = &mut this.deadline else { return Poll::Pending };
                ready!(deadline.as_mut().poll(cx));
                this.deadline = None;
                Poll::Ready(Some(Err(status::request_incomplete(this.timeout))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. Its bytes carry the grants of what was read for them, until the last of them has been taken.
struct Answer {
    body: Body,
    outgoing: Outgoing,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let grants = self.outgoing.take_attached();
        Poll::Ready(polled.map(|frame| {
            frame.map(|frame| match grants.is_empty() {
                true => frame,
                false => frame.map_data(|bytes| Bytes::from_owner(Granted { bytes, _grants: grants })),
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes in memory, and the leave for them.
struct Granted {
    bytes: Bytes,
    _grants: Vec<Grant>,
}

impl AsRef<[u8]> for Granted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
