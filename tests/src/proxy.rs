//! A network that delays, drops and breaks: a TCP proxy in front of a broker.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What becomes of the bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They arrive.
    Open,
    /// They are not taken: the sender finds its window full.
    Stalled,
    /// They are taken and vanish, as do the ends of connections: the sender hears nothing. What follows on the same
    /// connection makes no sense to anybody.
    Lost,
    /// So many more arrive on each connection, then it breaks.
    CutAfter(u64),
}

/// The state of the network. A change counts for connections that exist and for new ones.
#[derive(Debug, Clone, Copy)]
struct Weather {
    to_broker: Flow,
    to_client: Flow,
    /// Connections of older ages are gone.
    age: u64,
}

/// A way to a broker that can be disturbed. Gone when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    open: Arc<AtomicUsize>,
}

/// Which end of a connection somebody sits at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Towards {
    Broker,
    Client,
}

impl Proxy {
    /// In front of whoever listens on `port`, now or later.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", crate::free_port())).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (weather, watched) = watch::channel(Weather { to_broker: Flow::Open, to_client: Flow::Open, age: 0 });
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        tokio::spawn(async move {
            let mut gone = watched.clone();
            loop {
                let client = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    () = dropped(&mut gone) => return,
                };
                let (watched, open) = (watched.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    // Nobody listens: the client finds its connection closed, which is what a broker's machine would say.
                    let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    open.fetch_add(1, Ordering::Relaxed);
                    connect(client, broker, watched).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, weather, open }
    }

    /// Its address, for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what becomes of what clients send.
    pub fn to_broker(&self, flow: Flow) {
        self.weather.send_modify(|weather| weather.to_broker = flow);
    }

    /// Changes what becomes of what the broker sends.
    pub fn to_client(&self, flow: Flow) {
        self.weather.send_modify(|weather| weather.to_client = flow);
    }

    /// Breaks every connection; new ones find the network as it should be.
    pub fn break_and_heal(&self) {
        self.weather.send_modify(|weather| {
            *weather = Weather { to_broker: Flow::Open, to_client: Flow::Open, age: weather.age + 1 };
        });
    }

    /// Connections to the broker that neither end has closed, as far as the network lets anybody know.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

async fn dropped(weather: &mut watch::Receiver<Weather>) {
    while weather.changed().await.is_ok() {}
}

/// Carries bytes both ways until one end is closed, or the connection breaks. Then both ends see it.
async fn connect(client: TcpStream, broker: TcpStream, mut weather: watch::Receiver<Weather>) {
    let age = weather.borrow_and_update().age;
    for stream in [&client, &broker] {
        // Delays are ours to make.
        stream.set_nodelay(true).expect("TCP");
    }
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let (to_broker_weather, to_client_weather) = (weather.clone(), weather.clone());
    let broken = async { while weather.borrow_and_update().age == age && weather.changed().await.is_ok() {} };
    tokio::select! {
        () = carry(from_client, to_broker, Towards::Broker, to_broker_weather) => {}
        () = carry(from_broker, to_client, Towards::Client, to_client_weather) => {}
        () = broken => {}
    }
}

/// Carries bytes one way. Ends when the sender has closed, unless nobody would hear of that, and when it is time to cut.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    towards: Towards,
    mut weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 64 << 10];
    let flow = |weather: Weather| match towards {
        Towards::Broker => weather.to_broker,
        Towards::Client => weather.to_client,
    };
    let mut now = flow(*weather.borrow_and_update());
    let mut carried = 0;
    loop {
        let room = match now {
            Flow::Open | Flow::Lost => buffer.len(),
            Flow::CutAfter(bytes) if bytes <= carried => return,
            Flow::CutAfter(bytes) => buffer.len().min(usize::try_from(bytes - carried).unwrap_or(usize::MAX)),
            Flow::Stalled => 0,
        };
        tokio::select! {
            changed = weather.changed() => {
                if changed.is_err() {
                    return;
                }
                let new = flow(*weather.borrow_and_update());
                if new != now {
                    (now, carried) = (new, 0);
                }
            }
            read = from.read(&mut buffer[..room]), if room > 0 => match (read, now) {
                (Ok(0) | Err(_), Flow::Lost) => return std::future::pending().await,
                (Ok(0) | Err(_), _) => return,
                (Ok(_), Flow::Lost) => {}
                (Ok(bytes), _) => {
                    carried += bytes as u64;
                    if to.write_all(&buffer[..bytes]).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
}
