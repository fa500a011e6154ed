//! The streams of a session's seats: what comes from their clients, what goes to them, and whether they still listen.
//!
//! Nothing waits in between: a client's requests are taken when the session has room for what they cause, and what is for
//! a client waits in the session until its connection takes it.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    ops::Bound,
    task::{Context, Poll},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use tokio::{
    sync::{mpsc::error::TrySendError, watch},
    time::{Instant, timeout},
};

use super::{
    FAREWELL_TIMEOUT, Outbound,
    message::{Event, Request},
    session::{End, Session},
};
use crate::{
    groups::{assignment::MemberId, clients::Present, coordinator::Target, error::GroupError},
    outgoing::{Allowance, Outgoing},
};

/// What a client sends.
pub(super) type Requests = BoxStream<'static, Result<Request, GroupError>>;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Lines {
    lines: BTreeMap<MemberId, Line>,
    heard_last: MemberId,
    /// Last words to those that have departed.
    farewells: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// One stream.
pub(super) struct Line {
    requests: Requests,
    outbound: Outbound,
    outgoing: Outgoing,
    _present: Present,
    /// Resolves when the stream is to end.
    end: Option<BoxFuture<'static, GroupError>>,
    /// Resolves when the client has gone.
    closed: Option<BoxFuture<'static, ()>>,
    /// Resolves when there is room for an event.
    sendable: Option<BoxFuture<'static, ()>>,
    /// Resolves when the connection has taken enough to read for it again.
    readable: Option<BoxFuture<'static, ()>>,
}

/// What says that a stream goes on.
pub(super) struct Attendance {
    /// The client is a member for as long.
    pub(super) present: Present,
    /// Absent where the session is told itself when the stream is to end.
    pub(super) target: Option<watch::Receiver<Target>>,
}

/// What [`Lines::next`] has heard.
pub(super) enum Heard {
    Request(Request),
    /// Its stream is to end with this.
    End(GroupError),
    Gone,
    /// It may be read for again.
    Readable,
    /// Events may be sent again.
    Sendable,
}

impl Line {
    pub(super) fn new(requests: Requests, outbound: Outbound, outgoing: Outgoing, attendance: Attendance) -> Self {
        let Attendance { present, target } = attendance;
        let end = target.map(|mut target| {
            let ended = async move {
                match target.wait_for(|target| target.end.is_some()).await {
                    Ok(target) => target.end.clone().unwrap_or(GroupError::ShuttingDown),
                    Err(_) => GroupError::ShuttingDown,
                }
            };
            ended.boxed()
        });
        let to_client = outbound.clone();
        let closed = Some(async move { to_client.closed().await }.boxed());
        Self { requests, outbound, outgoing, _present: present, end, closed, sendable: None, readable: None }
    }

    fn poll(&mut self, takes_requests: Listening, cx: &mut Context<'_>) -> Poll<Heard> {
        if let Some(Poll::Ready(error)) = self.end.as_mut().map(|end| end.poll_unpin(cx)) {
            self.end = Some(std::future::pending().boxed());
            return Poll::Ready(Heard::End(error));
        }
        for (waiting, heard) in [
            (&mut self.closed, Heard::Gone),
            (&mut self.sendable, Heard::Sendable),
            (&mut self.readable, Heard::Readable),
        ] {
            if let Some(Poll::Ready(())) = waiting.as_mut().map(|waiting| waiting.poll_unpin(cx)) {
                *waiting = None;
                return Poll::Ready(heard);
            }
        }
        if takes_requests == Listening::No {
            return Poll::Pending;
        }
        self.requests.poll_next_unpin(cx).map(|request| match request {
            Some(Ok(request)) => Heard::Request(request),
            Some(Err(error)) => Heard::End(error),
            None => Heard::Gone,
        })
    }
}

/// Whether a client's requests are taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listening {
    Yes,
    No,
}

impl Lines {
    pub(super) fn insert(&mut self, id: MemberId, line: Line) {
        self.lines.insert(id, line);
    }

    /// The next that was heard, in turn. Pending for ever without lines. Cancel-safe.
    pub(super) async fn next(&mut self, session: &Session) -> (MemberId, Heard) {
        poll_fn(|cx| {
            while let Poll::Ready(Some(())) = self.farewells.poll_next_unpin(cx) {}
            let last = self.heard_last;
            for in_turn in [(Bound::Excluded(last), Bound::Unbounded), (Bound::Unbounded, Bound::Included(last))] {
                for (&id, line) in self.lines.range_mut(in_turn) {
                    let listening = if session.takes_requests(id) { Listening::Yes } else { Listening::No };
                    if let Poll::Ready(heard) = line.poll(listening, cx) {
                        self.heard_last = id;
                        return Poll::Ready((id, heard));
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Sends what there is, as far as the connections take it at once; returns how many events that were.
    pub(super) fn flush(&mut self, session: &mut Session, now: Instant) -> usize {
        let mut sent = 0;
        for (&id, line) in self.lines.iter_mut().filter(|(_, line)| line.sendable.is_none()) {
            while session.has_events(id) {
                match line.outbound.try_reserve() {
                    Ok(permit) => {
                        if let Some(event) = session.next_event(id, now) {
                            permit.send(Ok(event));
                            sent += 1;
                        }
                    }
                    Err(TrySendError::Full(())) => {
                        let outbound = line.outbound.clone();
                        line.sendable = Some(async move { drop(outbound.reserve_owned().await) }.boxed());
                        break;
                    }
                    Err(TrySendError::Closed(())) => session.client_gone(id, now),
                }
            }
        }
        sent
    }

    /// Leave to read for a seat, if its connection gives one now; else it is [heard](Heard::Readable) later.
    pub(super) fn try_allowance(&mut self, id: MemberId, bytes: usize, batch_bytes: usize) -> Option<Allowance> {
        let line = self.lines.get_mut(&id)?;
        let allowance = line.outgoing.try_allowance(bytes, batch_bytes);
        if allowance.is_none() {
            let outgoing = line.outgoing.clone();
            line.readable = Some(async move { drop(outgoing.allowance(usize::MAX, batch_bytes).await) }.boxed());
        }
        allowance
    }

    /// The bytes that were read for a seat go out with its next message.
    pub(super) fn send(&self, id: MemberId, allowance: Allowance, bytes_read: usize) {
        if let Some(line) = self.lines.get(&id) {
            line.outgoing.send(allowance, bytes_read);
        }
    }

    /// A seat departs. Its client learns how, if it listens.
    pub(super) fn depart(&mut self, id: MemberId, events: Vec<Event>, end: End) {
        let Some(Line { requests, outbound, .. }) = self.lines.remove(&id) else { return };
        let farewell = async move {
            for event in events {
                if outbound.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if let End::Failed(error) = end {
                // A client that has gone does not need it.
                let _ = outbound.send(Err(error)).await;
            }
        };
        let farewell = async move {
            // A client that does not read finds its stream ended, which says enough.
            let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
            drop(requests);
        };
        self.farewells.push(farewell.boxed());
    }

    /// Until everybody has heard the last words.
    pub(super) async fn say_farewell(mut self) {
        while self.farewells.next().await.is_some() {}
    }
}
