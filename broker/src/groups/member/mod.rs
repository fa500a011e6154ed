//! Consuming: one `Consume` stream is one member of one group on one topic, for as long as the stream lasts.
//!
//! In order, every stream is served by a task of its own, which has partitions. Where records are spread over members,
//! one task for the group and topic has all partitions, and serves all streams: the *hub*. It is the same task, but for who
//! may join it.

mod errands;
mod feed;
mod keys;
mod lines;
mod message;
mod session;
mod tidying;

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use tokio::{sync::mpsc, time::timeout};

pub(crate) use self::message::{Assigned, Credit, Delivery, Event, JoinRequest, Leave, Loss, Request, Settle};
use self::{
    errands::Errands,
    feed::{Feeds, Happened},
    lines::{Attendance, Heard, Line, Lines, Requests},
    session::{SeatTerms, Session, WallClock},
};
pub(super) use self::{
    keys::Unpacker,
    session::{Departed, Exits, MOVED_BYTES, Moved, copies_pool, detached},
};
use super::{
    Handle,
    clients::Present,
    coordinator::{Membership, Owner, Target},
    error::GroupError,
    leaving::Carrier,
    sources::Sources,
};
use crate::{clock::Clock, fair_pool::Share, outgoing::Outgoing};

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

/// Those who wait for the hub to take notice of them.
pub(super) const NEWCOMERS: usize = 16;

/// Somebody who joins, and the two ends of the stream.
pub(super) struct Newcomer {
    pub(super) membership: Membership,
    pub(super) heartbeat: Duration,
    pub(super) credit: Credit,
    pub(super) requests: Requests,
    pub(super) outbound: Outbound,
    pub(super) outgoing: Outgoing,
    pub(super) present: Present,
}

/// What streams are served with.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) handle: Handle,
    pub(super) sources: Sources,
    pub(super) carrier: Carrier,
    pub(super) unpacker: Unpacker,
    /// For copies of records that leave.
    pub(super) copies: Arc<Share>,
    pub(super) clock: Clock,
}

/// Serves `newcomers` until nobody else can come and every stream has ended, however it does.
pub(super) async fn run(means: Means, owner: Owner, mut newcomers: mpsc::Receiver<Newcomer>) {
    let Means { handle, sources, carrier, unpacker, copies, clock } = means;
    let Owner { id, mut target, mut asked } = owner;
    let policy = target.borrow().policy.clone();
    let mut session = Session::new(id, policy, WallClock { at: clock.now(), at_us: clock.now_us() }, copies);
    let mut lines = Lines::default();
    let mut feeds = Feeds::new(sources.clone(), unpacker, clock.clone());
    let mut errands = Errands::new(handle, carrier, clock.now());
    let mut entry = Entry::Open;
    let mut ahead = clock.ahead();
    target.mark_changed();
    loop {
        session.look_at_the_clock(clock.now(), || clock.now_us());
        // Before anything is delivered: what is to be is what whoever published it has seen.
        if target.has_changed().unwrap_or(false) {
            follow(&target.borrow_and_update(), &mut session, &mut feeds);
        }
        read_and_send(&mut session, &mut feeds, &mut lines, &clock);
        errands.begin(&mut session, clock.now());
        see_off(&mut session, &mut lines);
        if session.is_finished() {
            break;
        }
        let timer = session.timer();
        tokio::select! {
            newcomer = newcomers.recv(), if entry == Entry::Open => match newcomer {
                Some(newcomer) => join(newcomer, &mut session, &mut lines, &sources, &clock),
                None => {
                    entry = Entry::Closed;
                    session.close_entry();
                }
            },
            changed = target.changed(), if entry != Entry::Abandoned => match changed {
                Ok(()) => follow(&target.borrow_and_update(), &mut session, &mut feeds),
                Err(_) => {
                    entry = Entry::Abandoned;
                    session.end(GroupError::ShuttingDown);
                }
            },
            done = errands.next() => {
                errands.tell(done, &mut session, clock.now());
                feeds.retain(&session);
            }
            // Whoever has asked may have gone.
            Some(reply) = asked.recv() => drop(reply.send(session.waits(clock.now()))),
            (seat, heard) = lines.next(&session) => match heard {
                Heard::Request(request) => session.request(seat, request, clock.now()),
                Heard::End(error) => session.end_seat(seat, error),
                Heard::Gone => session.client_gone(seat, clock.now()),
                Heard::Readable => session.unhold(seat),
                // Sent above.
                Heard::Sendable => {}
            },
            happened = feeds.next() => match happened {
                Happened::Moved(partition) => session.queue(partition),
                Happened::Read(read) => feeds.hand_over(read, &mut session, &lines),
            },
            () = clock.sleep_until(timer) => on_time(&mut session, &clock, &mut ahead),
        }
    }
    // This is what tells the coordinator: the partitions move now, however long clients take to listen.
    drop((target, asked));
    lines.say_farewell().await;
}

/// Takes over what the coordinator wants.
fn follow(target: &Target, session: &mut Session, feeds: &mut Feeds) {
    let new = session.target(target);
    feeds.retain(session);
    new.into_iter().for_each(|partition| feeds.start(partition, session));
}

/// As far as memory has what is to be read, and the connections take it at once.
fn read_and_send(session: &mut Session, feeds: &mut Feeds, lines: &mut Lines, clock: &Clock) {
    feeds.pump(session, lines);
    // What has been sent makes room to read more.
    while lines.flush(session, clock.now()) > 0 {
        feeds.pump(session, lines);
    }
}

/// Does what is due. `ahead` is by how much the clock had been set forward when that was looked at last.
fn on_time(session: &mut Session, clock: &Clock, ahead: &mut Duration) {
    let now = clock.now();
    let before = std::mem::replace(ahead, clock.ahead());
    session.set_forward(*ahead - before);
    session.on_time(now);
}

/// Ends the streams that have nothing to wait for any more.
fn see_off(session: &mut Session, lines: &mut Lines) {
    while let Some((seat, end)) = session.next_departure() {
        lines.depart(seat, session.depart(seat), end);
    }
}

/// Whether anybody may still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Open,
    Closed,
    /// There is no coordinator any more.
    Abandoned,
}

fn join(newcomer: Newcomer, session: &mut Session, lines: &mut Lines, sources: &Sources, clock: &Clock) {
    let Newcomer { membership, heartbeat, credit, requests, outbound, outgoing, present } = newcomer;
    let Membership { id, policy, target, stats, generation } = membership;
    let meta = sources.topic.meta();
    let joined = Event::Joined { topic_id: meta.id, member: id, policy, partitions: meta.partitions };
    let terms = SeatTerms { generation, heartbeat, credit, stats: Arc::clone(&stats) };
    session.join(id, terms, joined, clock.now());
    lines.insert(id, Line::new(requests, outbound, outgoing, Attendance { present, target }));
}
