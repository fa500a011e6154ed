//! Who gets in: a bounded number of connections that speak HTTP/2. The others are told, or closed.

use std::{fs::File, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::socket::{Peer, Socket};
use crate::{BrokerCore, config::ConnectionLimits, connection::Connection, fair_pool::Pool};

/// What a client that speaks HTTP/2 says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An empty SETTINGS, and GOAWAY with ENHANCE_YOUR_CALM and a reason: for a client that does not get in.
const NO_PLACE: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo_many_connections";

/// Refused connections that are kept open until the client has read why, and how long: closed at once, what it has sent
/// would make the system throw away what it is told. Beyond these they are closed at once.
const LEAVING_MAX: usize = 16;
const LEAVING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to rest when not even the spare descriptor is there.
const PAUSE: Duration = Duration::from_millis(50);

/// Refusals come by the thousand; one line in this time says how many.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Descriptors that connections leave to the files of the log.
const FILES_MIN: u64 = 32;

/// What to do about refused connections.
const RAISE_DESCRIPTORS: &str =
    "raise the limit on open files of this process (`ulimit -n`, or LimitNOFILE= in systemd)";
const RAISE_CONNECTIONS: &str = "raise `connections_max`";

/// Accepts connections.
pub(super) struct Listener {
    listener: TcpListener,
    limits: ConnectionLimits,
    connection_budget_bytes: u64,
    incoming: Arc<Pool>,
    outgoing: Arc<Pool>,
    places: Arc<Semaphore>,
    /// What to do when they are all taken.
    advice: &'static str,
    /// Given up for a moment when there are no descriptors, so that a connection can be taken from the queue and closed.
    spare: Option<File>,
    refusals: Refusals,
    arriving: FuturesUnordered<BoxFuture<'static, Option<Socket>>>,
    leaving: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Listener {
    /// On a socket that listens. The system's limit on descriptors bounds how many connections there may be.
    pub(super) fn new(listener: TcpListener, core: &BrokerCore) -> Self {
        let limits = core.config.connections;
        let connections_max = limits.connections_max;
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let places = places(connections_max, descriptors);
        let advice = if places < connections_max { RAISE_DESCRIPTORS } else { RAISE_CONNECTIONS };
        if places < connections_max {
            tracing::warn!(
                "{places} connections at a time, not {connections_max}, so that the log's files keep their descriptors; \
                 for more, {advice}"
            );
        }
        Self {
            listener,
            limits,
            connection_budget_bytes: core.config.connection_budget_bytes,
            incoming: Pool::new(limits.incoming_budget_bytes),
            outgoing: Pool::new(limits.outgoing_budget_bytes),
            places: Arc::new(Semaphore::new(places as usize)),
            advice,
            spare: spare(),
            refusals: Refusals::default(),
            arriving: FuturesUnordered::new(),
            leaving: FuturesUnordered::new(),
        }
    }

    /// Connections as they come. Nothing that a client or the system does ends this stream.
    pub(super) fn connections(self) -> impl Stream<Item = io::Result<Socket>> {
        stream::unfold(self, |mut listener| async move {
            let socket = listener.next().await;
            Some((Ok(socket), listener))
        })
    }

    async fn next(&mut self) -> Socket {
        loop {
            tokio::select! {
                Some(arrived) = self.arriving.next(), if !self.arriving.is_empty() => {
                    if let Some(socket) = arrived {
                        return socket;
                    }
                }
                Some(()) = self.leaving.next(), if !self.leaving.is_empty() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.receive(stream, peer),
                    Err(error) if is_of_the_client(&error) => {}
                    Err(error) => self.out_of_descriptors(&error).await,
                }
            }
        }
    }

    fn receive(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.refusals.count(|| format!("all places are taken; {}", self.advice));
            let told = stream.try_write(NO_PLACE).is_ok();
            if told && self.leaving.len() < LEAVING_MAX {
                self.leaving.push(farewell(stream).boxed());
            }
            return;
        };
        let shares = Peer {
            connection: Connection::new(&peer.to_string(), self.connection_budget_bytes),
            incoming: self.incoming.share(),
            outgoing: self.outgoing.share(),
        };
        let preface_timeout = self.limits.preface_timeout;
        let arrival = async move {
            let arrived = timeout(preface_timeout, arrival(stream, shares, place)).await;
            let arrived = arrived.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            arrived.inspect_err(|error| tracing::debug!("{peer} has not begun to speak HTTP/2: {error}")).ok()
        };
        self.arriving.push(arrival.boxed());
    }

    /// Takes connections from the queue and closes them: a client that is refused can try again or go elsewhere, one that
    /// waits in the queue cannot know. `accept` asks for a descriptor before it looks whether anybody waits, so that
    /// without one to spare it would fail again and again.
    async fn out_of_descriptors(&mut self, error: &io::Error) {
        self.refusals.count(|| format!("{error}; {RAISE_DESCRIPTORS}"));
        if self.spare.take().is_some() {
            let refused = self.listener.accept().now_or_never();
            drop(refused);
            self.spare = spare();
        } else {
            sleep(PAUSE).await;
            self.spare = spare();
        }
    }
}

/// Connections that may be open at a time: as many as are wanted, if at least a quarter of the descriptors stays free.
fn places(connections_max: u32, descriptors: Option<u64>) -> u32 {
    let Some(descriptors) = descriptors else { return connections_max };
    let for_connections = descriptors.saturating_sub(FILES_MIN.max(descriptors / 4)).max(1);
    u32::try_from(for_connections).map_or(connections_max, |places| places.min(connections_max))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Whether `accept` has failed because of the connection that it was about to return.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Waits until the client has said that it speaks HTTP/2. Until then a connection costs its descriptor and little else.
async fn arrival(mut stream: TcpStream, peer: Peer, place: OwnedSemaphorePermit) -> io::Result<Socket> {
    // Without it acknowledgements wait for the peer's delayed ones: 44 ms.
    stream.set_nodelay(true)?;
    let mut said = [0; PREFACE.len()];
    let mut length = 0;
    while length < said.len() {
        let more = stream.read(&mut said[length..]).await?;
        length += more;
        // Whoever speaks another protocol may never say as much.
        if more == 0 || said[..length] != PREFACE[..length] {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(Socket { stream, preface: PREFACE, peer, _place: place })
}

/// Waits until the client has closed its side.
fn farewell(mut stream: TcpStream) -> impl Future<Output = ()> + Send {
    let until_closed = async move {
        let mut ignored = [0; 512];
        while stream.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {}
    };
    timeout(LEAVING_TIMEOUT, until_closed).map(drop)
}

/// Connections that were refused since the last line about them.
#[derive(Default)]
struct Refusals {
    count: u64,
    logged: Option<Instant>,
}

impl Refusals {
    fn count(&mut self, why: impl FnOnce() -> String) {
        self.count += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            tracing::warn!("connections refused: {}; {}", self.count, why());
            *self = Self { count: 0, logged: Some(Instant::now()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_the_log() {
        for (wanted, descriptors, places_there) in [
            (4096, None, 4096),
            (4096, Some(1 << 20), 4096),
            (4096, Some(1024), 768),
            (10, Some(1024), 10),
            (4096, Some(64), 32),
            (4096, Some(20), 1),
        ] {
            assert_eq!(places(wanted, descriptors), places_there, "{wanted} of {descriptors:?}");
        }
    }

    #[test]
    fn what_the_refused_are_told_are_two_whole_frames() {
        let (settings, goaway) = NO_PLACE.split_at(9);
        assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(usize::from(goaway[2]), goaway.len() - 9);
    }
}
