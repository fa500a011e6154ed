//! The terminal while a live table is on it: another screen, no cursor, keys without echo; all of it given back at the
//! end, however it comes.

use std::io::{self, IsTerminal as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use crate::cli::stdout::{self, StdoutError};

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// What terminals have been since there are any, for those that do not say.
const SIZE_DEFAULT: Size = Size { columns: 80, rows: 24 };

/// See the [module](self).
pub(super) struct Terminal {
    /// To be put back.
    input: Option<Termios>,
}

impl Terminal {
    pub(super) fn enter() -> Result<Self, StdoutError> {
        let terminal = Self { input: quiet_input() };
        stdout::print(ENTER)?;
        Ok(terminal)
    }

    pub(super) fn size() -> Size {
        let known = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        known.map_or(SIZE_DEFAULT, |size| Size { columns: size.ws_col.into(), rows: size.ws_row.into() })
    }

    /// Draws over what is there, so that nothing flickers.
    pub(super) fn draw(&self, lines: &[String]) -> Result<(), StdoutError> {
        let frame = lines.join(&format!("{CLEAR_LINE}\r\n"));
        stdout::print(&format!("{HOME}{frame}{CLEAR_LINE}{CLEAR_BELOW}"))
    }

    /// Keys as they are typed; none if the input is no terminal.
    pub(super) fn keys(&self) -> mpsc::Receiver<u8> {
        let (keys, typed) = mpsc::channel(16);
        if self.input.is_some() {
            // It ends with the process: a read of a terminal cannot be called off.
            std::thread::spawn(move || {
                for key in io::stdin().lock().bytes().map_while(Result::ok) {
                    if keys.blocking_send(key).is_err() {
                        return;
                    }
                }
            });
        }
        typed
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal may have gone before.
        let _ = stdout::print(LEAVE);
        if let Some(input) = &self.input {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, input);
        }
    }
}

/// Keys come one by one and are not shown; ctrl-c stays what it is. Gives what was set before.
fn quiet_input() -> Option<Termios> {
    let before = io::stdin().is_terminal().then(|| tcgetattr(io::stdin()).ok())??;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
    tcsetattr(io::stdin(), OptionalActions::Now, &quiet).ok()?;
    Some(before)
}
