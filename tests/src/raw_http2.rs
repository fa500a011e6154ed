//! HTTP/2 by hand: frames in any order and number, and a reader that answers nothing.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::within;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub mod kind {
    #![expect(missing_docs, reason = "the names are those of RFC 9113, section 6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames. Some share a bit.
pub mod flag {
    #![expect(missing_docs, reason = "the names are those of RFC 9113, section 6")]
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// Settings that a client may send.
pub mod setting {
    #![expect(missing_docs, reason = "the names are those of RFC 9113, section 6.5.2")]
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// Why a stream or a connection was ended.
pub mod reason {
    #![expect(missing_docs, reason = "the names are those of RFC 9113, section 7")]
    pub const REFUSED_STREAM: u32 = 7;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Of [`kind`].
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// 0: the connection.
    pub stream: u32,
    /// As it came.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Why the stream or the connection was ended, if this is such a frame.
    pub fn reason(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        self.payload.get(at..at + 4).map(|bytes| bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }
}

/// One frame's bytes.
///
/// # Panics
/// If the payload is longer than a frame can be.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    assert_eq!(length[0], 0, "a frame holds less than 16 MiB");
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call, compressed with nothing but the static table.
pub fn call(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // POST, http
    block.push(0x04); // :path
    text(&mut block, path);
    block.push(0x01); // :authority
    text(&mut block, "broker");
    block.extend([0x0f, 0x10]); // content-type
    text(&mut block, "application/grpc");
    header(&mut block, "te", "trailers");
    block
}

/// Adds a header to a block.
pub fn header(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    text(block, name);
    text(block, value);
}

fn text(block: &mut Vec<u8>, text: &str) {
    // An integer with a prefix of seven bits, the rest in groups of seven.
    let mut rest = text.len();
    if rest < 127 {
        block.push(rest.to_le_bytes()[0]);
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        block.push(rest.to_le_bytes()[0]);
    }
    block.extend(text.bytes());
}

/// A message as gRPC frames it.
///
/// # Panics
/// If it is longer than 4 GiB.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    [&[0][..], &length, bytes].concat()
}

/// A connection on which nothing happens by itself: no acknowledgement, no answer to a ping, no window.
pub struct RawHttp2 {
    stream: TcpStream,
}

impl RawHttp2 {
    /// A connection on which nothing has been said.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the broker listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream }
    }

    /// A connection that has begun, with these settings.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn begin(port: u16, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::connect(port).await;
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        raw.write(&[PREFACE, &frame(kind::SETTINGS, flag::NONE, 0, &payload)].concat()).await.expect("taken");
        raw
    }

    /// Any bytes.
    ///
    /// # Errors
    /// When the broker has closed.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// As [`Self::write`], but only what the system takes at once: how many bytes.
    ///
    /// # Errors
    /// When the broker has closed, and [`io::ErrorKind::WouldBlock`] when it takes nothing.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    /// Opens a stream with a call and one message, and leaves it open for more.
    ///
    /// # Errors
    /// When the broker has closed.
    pub async fn open(&mut self, stream: u32, path: &str, request: &[u8]) -> io::Result<()> {
        let headers = frame(kind::HEADERS, flag::END_HEADERS, stream, &call(path));
        let data = frame(kind::DATA, flag::NONE, stream, &message(request));
        self.write(&[headers, data].concat()).await
    }

    /// As [`Self::open`], and says that nothing more will come.
    ///
    /// # Errors
    /// When the broker has closed.
    pub async fn ask(&mut self, stream: u32, path: &str, request: &[u8]) -> io::Result<()> {
        let headers = frame(kind::HEADERS, flag::END_HEADERS, stream, &call(path));
        let data = frame(kind::DATA, flag::END_STREAM, stream, &message(request));
        self.write(&[headers, data].concat()).await
    }

    /// The next frame; `None` when the broker has closed, in whatever way.
    ///
    /// # Panics
    /// If nothing comes within a minute.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
        };
        within("a frame or the end", read).await
    }

    /// The next frame that `wanted` wants; `None` when the broker closes before.
    pub async fn find(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads until the broker closes, and returns the reason it gave in GOAWAY, if it did.
    pub async fn end(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.next().await {
            if frame.kind == kind::GOAWAY {
                reason = frame.reason();
            }
        }
        reason
    }

    /// Whether the broker still talks on this connection: it answers a ping.
    pub async fn answers(&mut self) -> bool {
        let ping = frame(kind::PING, flag::NONE, 0, b"are you?");
        if self.write(&ping).await.is_err() {
            return false;
        }
        let pong = self.find(|frame| frame.kind == kind::PING && frame.flags == flag::ACK).await;
        pong.is_some_and(|pong| pong.payload == b"are you?")
    }
}
