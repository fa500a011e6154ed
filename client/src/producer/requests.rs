//! The requests of one publish stream, made when the transport asks for them: flow control reaches the batches.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use aqueduct_proto::v1::{self, publish_request::Payload};
use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    pipeline::{Dispatch, Next},
    shared::Shared,
};

pub(super) struct Requests {
    shared: Arc<Shared>,
    session: u64,
    timer: Pin<Box<Sleep>>,
    rest: Rest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// It has had nothing to send.
    Asleep,
    /// Just woken: it has let others run first.
    Yielded,
    Busy,
}

impl Requests {
    pub(super) fn new(shared: Arc<Shared>, session: u64) -> Self {
        Self { shared, session, timer: Box::pin(sleep_until(Instant::now())), rest: Rest::Busy }
    }

    fn request(&self, dispatch: Dispatch) -> v1::PublishRequest {
        let topic = &self.shared.topic;
        let mut request = v1::PublishRequest {
            partition: Some(dispatch.partition),
            payload: Some(Payload::Batch(dispatch.payload.batch(self.shared.codec))),
            producer: dispatch.producer,
            request_id: dispatch.request_id,
            ..v1::PublishRequest::default()
        };
        if dispatch.opens_stream {
            request.topic = topic.name.to_string();
            request.topic_id = topic.id.to_bytes();
        }
        request
    }
}

impl Stream for Requests {
    type Item = v1::PublishRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::PublishRequest>> {
        let this = &mut *self;
        if this.rest == Rest::Asleep {
            // Whoever woke this stream may have neighbours that are about to publish too: one batch for all of them.
            this.rest = Rest::Yielded;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let next = {
                let mut state = this.shared.state.lock();
                if state.session != this.session {
                    return Poll::Ready(None);
                }
                let next = state.pipeline.next(Instant::now());
                state.waker = match next {
                    Next::Wait | Next::WaitUntil(_) => Some(cx.waker().clone()),
                    Next::Send(_) | Next::End => None,
                };
                next
            };
            match next {
                Next::Send(dispatch) => {
                    this.rest = Rest::Busy;
                    return Poll::Ready(Some(this.request(dispatch)));
                }
                Next::End => return Poll::Ready(None),
                Next::Wait => {
                    this.rest = Rest::Asleep;
                    return Poll::Pending;
                }
                Next::WaitUntil(at) => {
                    this.timer.as_mut().reset(at);
                    ready!(this.timer.as_mut().poll(cx));
                }
            }
        }
    }
}
