//! Processes of the servers: started on loopback and a temporary directory, measured, and always killed.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// A server process and its directory. Killed and removed when it is dropped.
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) port: u16,
    /// Removed after the process is dead: fields go after `drop`.
    _directory: TempDir,
}

impl ServerProcess {
    /// Starts what `command` makes of a directory and a port, and waits until it listens.
    pub(crate) fn start(command: impl FnOnce(&TempDir, u16) -> anyhow::Result<Command>) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = command(&directory, port)?;
        let name = command.get_program().to_string_lossy().into_owned();
        let log = directory.path().join("server.log");
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("{name} does not start"))?;
        let mut server = Self { child, port, _directory: directory };
        let started = Instant::now();
        while TcpStream::connect(server.address()).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended with {status}: {}", fs::read_to_string(&log)?);
            }
            if started.elapsed() > READY_WITHIN {
                bail!("{name} does not listen after {READY_WITHIN:?}: {}", fs::read_to_string(&log)?);
            }
            thread::sleep(PROBE_INTERVAL);
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
