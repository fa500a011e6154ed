//! How fast bytes get from one place to another, in memory and over loopback.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Far more than caches hold.
const COPY_BYTES: usize = 64 << 20;
const PIECE_BYTES: usize = 256 << 10;

/// GB a second of one thread.
pub(super) fn copy(take: Duration) -> f64 {
    let (from, mut to) = (vec![7_u8; COPY_BYTES], vec![0_u8; COPY_BYTES]);
    // Its pages are there from here on.
    to.copy_from_slice(&from);
    let begun = Instant::now();
    let mut copied = 0;
    while begun.elapsed() < take || copied == 0 {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        copied += COPY_BYTES;
    }
    copied as f64 / 1e9 / begun.elapsed().as_secs_f64()
}

/// GB a second of one connection, a thread at each end.
pub(super) fn loopback(take: Duration) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let sending = thread::spawn(move || {
        let piece = vec![7; PIECE_BYTES];
        // Until the other end is closed.
        while sender.write_all(&piece).is_ok() {}
    });
    let mut buffer = vec![0; PIECE_BYTES];
    let begun = Instant::now();
    let mut received = 0;
    while begun.elapsed() < take || received == 0 {
        received += receiver.read(&mut buffer)?;
    }
    let rate = received as f64 / 1e9 / begun.elapsed().as_secs_f64();
    drop(receiver);
    sending.join().map_err(|_| anyhow::anyhow!("the sending thread has panicked"))?;
    Ok(rate)
}
