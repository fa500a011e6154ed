//! The requests of one consume stream, made when the transport asks for them.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aqueduct_proto::v1::{
    self,
    consume_request::{Event, Heartbeat, Leave},
};
use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep};

use super::shared::{Phase, Shared};

/// A heartbeat after this much silence: below the 10 s after which the broker begins to wonder.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(super) struct Requests {
    shared: Arc<Shared>,
    session: u64,
    heartbeat: Pin<Box<Sleep>>,
    stage: Stage,
    rest: Rest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Joining,
    Consuming,
    /// `Leave` has been sent; late settlements still follow it.
    Left,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Asleep,
    Awake,
}

impl Requests {
    pub(super) fn new(shared: Arc<Shared>, session: u64) -> Self {
        Self { shared, session, heartbeat: Box::pin(sleep(HEARTBEAT)), stage: Stage::Joining, rest: Rest::Awake }
    }

    fn next(&mut self, cx: &Context<'_>) -> Next {
        let mut state = self.shared.state.lock();
        if state.session != self.session {
            return Next::End;
        }
        if self.stage == Stage::Joining {
            self.stage = Stage::Consuming;
            let credit = Some(state.settlements.room().of_join());
            return Next::Send(Box::new(Event::Join(v1::Join { credit, ..self.shared.join.clone() })));
        }
        if let Some(event) = state.settlements.next() {
            return Next::Send(Box::new(event));
        }
        if state.phase != Phase::Consuming && self.stage == Stage::Consuming && state.settlements.is_settled() {
            self.stage = Stage::Left;
            return Next::Send(Box::new(Event::Leave(Leave { for_good: state.leaves_for_good })));
        }
        state.requests = Some(cx.waker().clone());
        Next::Wait
    }
}

enum Next {
    Send(Box<Event>),
    Wait,
    End,
}

impl Stream for Requests {
    type Item = v1::ConsumeRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::ConsumeRequest>> {
        let this = &mut *self;
        if this.rest == Rest::Asleep {
            // Let the reader settle a few more first: one message for all of them.
            this.rest = Rest::Awake;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let event = match this.next(cx) {
            Next::Send(event) => *event,
            Next::End => return Poll::Ready(None),
            Next::Wait => match this.heartbeat.as_mut().poll(cx) {
                Poll::Ready(()) => Event::Heartbeat(Heartbeat {}),
                Poll::Pending => {
                    this.rest = Rest::Asleep;
                    return Poll::Pending;
                }
            },
        };
        this.heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
        Poll::Ready(Some(v1::ConsumeRequest { event: Some(event) }))
    }
}
