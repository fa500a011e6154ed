//! One `Consume` stream: one member of one group on one topic, for as long as the stream lasts.

mod feed;
mod message;
mod session;

use std::{future::pending, ops::Range, time::Duration};

use aqueduct_storage::Offset;
use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

pub(crate) use self::message::{Assigned, Credit, Delivery, Event, JoinRequest, Loss, Request, Settle};
use self::{
    feed::{Feeds, Happened},
    session::{End, Session, Terms, WallClock},
};
use super::{
    Handle,
    coordinator::{Membership, PartitionGeneration},
    dead_letters,
    error::GroupError,
    sources::Sources,
};
use crate::{clock::Clock, outgoing::Outgoing};

/// Events on their way to the connection. Few: what waits here has been taken from the client's credit.
pub(crate) const OUTBOUND_EVENTS: usize = 16;
/// How long a stream may be silent in either direction, unless its client says otherwise.
pub(crate) const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(10);
/// Until the first request must have come.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last words to a client that does not read.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// What goes to the client; an error is the last.
pub(crate) type Outbound = mpsc::Sender<Result<Event, GroupError>>;

/// Waits for the first request.
///
/// # Errors
/// [`GroupError::Invalid`] if it is not a join, or does not come.
pub(super) async fn first_request(
    requests: &mut (impl Stream<Item = Result<Request, GroupError>> + Unpin),
) -> Result<JoinRequest, GroupError> {
    let invalid = |reason: &str| GroupError::Invalid { field: "event", reason: reason.to_owned() };
    match timeout(JOIN_TIMEOUT, requests.next()).await {
        Ok(Some(Ok(Request::Join(join)))) => Ok(*join),
        Ok(Some(Ok(_))) => Err(invalid("the first request must be a join")),
        Ok(Some(Err(error))) => Err(error),
        Ok(None) => Err(invalid("the stream ended before a join")),
        Err(_) => Err(invalid("no join came")),
    }
}

/// What a member works with.
pub(super) struct Member {
    pub(super) handle: Handle,
    pub(super) membership: Membership,
    pub(super) sources: Sources,
    pub(super) clock: Clock,
}

/// Serves a member until its stream ends, however it does.
pub(super) async fn run(
    member: Member,
    join: &JoinRequest,
    mut requests: impl Stream<Item = Result<Request, GroupError>> + Unpin,
    outbound: Outbound,
    outgoing: Outgoing,
) {
    let Member { handle, membership, sources, clock } = member;
    let Membership { id, policy, mut target, stats } = membership;
    let meta = sources.topic.meta();
    let terms = Terms { policy: policy.clone(), heartbeat: join.heartbeat, credit: join.credit };
    let mut session = Session::new(id, terms, stats, WallClock { at: clock.now(), at_us: clock.now_us() });
    session.push(Event::Joined { topic_id: meta.id, member: id, policy, partitions: meta.partitions });
    target.mark_changed();
    let mut feeds = Feeds::new(sources.clone(), outgoing, clock.clone());
    let mut settling = None;
    let mut parking = None;
    let mut ahead = clock.ahead();
    let end = loop {
        feeds.pump(&mut session);
        if settling.is_none() {
            settling = Settling::begin(&mut session, &handle, clock.now());
        }
        if parking.is_none() {
            parking = Parking::begin(&mut session, &sources, clock.now());
        }
        if let Some(end) = session.finished() {
            break end;
        }
        let timer = session.timer();
        tokio::select! {
            changed = target.changed() => match changed {
                Ok(()) => {
                    let new = session.target(&target.borrow_and_update());
                    feeds.retain(&session);
                    new.into_iter().for_each(|partition| feeds.start(partition, &mut session));
                }
                Err(_) => break End::Failed(GroupError::ShuttingDown),
            },
            outcome = Settling::ended(&mut settling) => {
                if let Some(Settling { advanced, .. }) = settling.take() {
                    session.settled(&advanced, outcome, clock.now());
                    feeds.retain(&session);
                }
            }
            outcome = Parking::ended(&mut parking) => {
                if let Some(Parking { at, .. }) = parking.take() {
                    session.parked(at, outcome, clock.now());
                }
            }
            request = requests.next(), if session.takes_requests() => match request {
                Some(Ok(request)) => session.request(request, clock.now()),
                Some(Err(error)) => session.end(error),
                None => session.client_gone(clock.now()),
            },
            sent = outbound.reserve(), if session.has_events() => match sent {
                Ok(permit) => send(&mut session, permit, &outbound, clock.now()),
                Err(_) => session.client_gone(clock.now()),
            },
            () = outbound.closed(), if !session.has_events() && !session.client_has_gone() => session.client_gone(clock.now()),
            happened = feeds.next() => match happened {
                Happened::Moved(partition) => session.queue(partition),
                Happened::Read(read) => feeds.hand_over(read, &mut session),
                // Looked at above.
                Happened::Room => {}
            },
            () = clock.sleep_until(timer) => {
                let now = clock.now();
                let before = std::mem::replace(&mut ahead, clock.ahead());
                session.set_forward(ahead - before);
                session.on_time(now);
            }
        }
    };
    // This is what tells the coordinator: the partitions move now, however long the client takes to listen.
    drop(target);
    let farewell = async {
        for event in session.last_events() {
            if outbound.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if let End::Failed(error) = end {
            // A client that has gone does not need it.
            let _ = outbound.send(Err(error)).await;
        }
    };
    // A client that does not read finds its stream ended, which says enough.
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
}

/// Sends what there is, as far as the connection takes it at once.
fn send(session: &mut Session, permit: mpsc::Permit<'_, Result<Event, GroupError>>, outbound: &Outbound, now: Instant) {
    let mut permit = Some(permit);
    while let Some(free) = permit {
        let Some(event) = session.next_event(now) else { return };
        free.send(Ok(event));
        permit = outbound.try_reserve().ok();
    }
}

/// A settlement on its way.
struct Settling {
    advanced: Vec<PartitionGeneration>,
    answer: BoxFuture<'static, Result<Vec<u32>, GroupError>>,
}

impl Settling {
    fn begin(session: &mut Session, handle: &Handle, now: Instant) -> Option<Self> {
        let settlement = session.next_settlement(now)?;
        let advanced = settlement.advanced.iter().map(|one| one.at).collect();
        let handle = handle.clone();
        Some(Self { advanced, answer: async move { handle.settle(settlement).await }.boxed() })
    }

    /// Resolves when it has ended; never without one. Cancel-safe.
    async fn ended(under_way: &mut Option<Self>) -> Result<Vec<u32>, GroupError> {
        match under_way {
            Some(settling) => (&mut settling.answer).await,
            None => pending().await,
        }
    }
}

/// Records on their way to the dead letters.
struct Parking {
    at: PartitionGeneration,
    answer: BoxFuture<'static, Result<Range<Offset>, GroupError>>,
}

impl Parking {
    fn begin(session: &mut Session, sources: &Sources, now: Instant) -> Option<Self> {
        let (at, parking) = session.next_parking(now)?;
        let (sources, begin) = (sources.clone(), parking.range.start);
        let moved = async move { dead_letters::park(sources, at.partition, parking).await.map(|end| begin..end) };
        Some(Self { at, answer: moved.boxed() })
    }

    /// Resolves when it has ended; never without one. Cancel-safe.
    async fn ended(under_way: &mut Option<Self>) -> Result<Range<Offset>, GroupError> {
        match under_way {
            Some(parking) => (&mut parking.answer).await,
            None => pending().await,
        }
    }
}
