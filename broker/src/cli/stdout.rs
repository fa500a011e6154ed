//! Standard output for data: buffered, written away from the runtime, and honest about whether it was taken.
//!
//! A reader may stop reading for as long as it likes (`| less`), so a write must never hold the thread that answers the
//! broker's heartbeats. [`Stdout::flush`] returns only when everything buffered has been handed to the operating system:
//! that is what `subscribe --group` acknowledges.

use std::io::{self, ErrorKind, Write as _};

/// Enough for one system call to be cheap per record, little enough to be prompt.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Why output was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdoutError {
    /// The reader has gone, as in `subscribe | head`.
    #[error("standard output is closed")]
    Closed,
    /// Such as a full disk behind `> file`.
    #[error("cannot write to standard output: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for StdoutError {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe { Self::Closed } else { Self::Failed(error) }
    }
}

/// Output that has been made but not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Stdout {
    buffer: Vec<u8>,
}

impl Stdout {
    /// Where the next line goes.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// There is something to flush.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// It is time to flush even if more output is ready.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_BYTES_MAX
    }

    /// Hands everything to the operating system; waits as long as the reader makes it wait.
    ///
    /// # Errors
    /// [`StdoutError`]; how much of the buffer was taken is then not known.
    pub(crate) async fn flush(&mut self) -> Result<(), StdoutError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let written = tokio::task::spawn_blocking(move || write(&buffer).map(|()| buffer)).await;
        self.buffer = written.map_err(io::Error::other)??;
        self.buffer.clear();
        Ok(())
    }
}

/// Writes a short text at once, for commands that answer and end.
///
/// # Errors
/// As [`Stdout::flush`].
pub(crate) fn print(text: &str) -> Result<(), StdoutError> {
    Ok(write(text.as_bytes())?)
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
