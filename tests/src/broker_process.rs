//! A real broker process, to be killed.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use aqueduct_client::Client;
use tempfile::TempDir;

use crate::cli::{SETTINGS_OF_TESTS, aqueduct_binary};

/// How to start a broker.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Flags after `serve`.
    pub args: Vec<String>,
    /// Additional environment.
    pub env: Vec<(String, String)>,
    /// A program that runs the broker, with its arguments: a tracer, a limit.
    pub wrapper: Vec<OsString>,
}

impl Launch {
    /// With these flags after `serve`.
    pub fn with_args(args: &[&str]) -> Self {
        Self { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..Self::default() }
    }
}

/// A broker on a temporary directory. Killed when it is dropped.
pub struct BrokerProcess {
    child: Child,
    directory: Arc<TempDir>,
    launch: Launch,
    port: u16,
    stderr: Arc<Mutex<String>>,
}

impl BrokerProcess {
    /// Starts a broker with the default settings and waits until it is ready.
    pub fn start() -> Self {
        Self::launch(Launch::default())
    }

    /// Starts a broker and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready, with what it said.
    pub fn launch(launch: Launch) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        Self::launch_in(directory, launch, free_port())
    }

    /// Starts a broker on a directory of before, at a port of before.
    ///
    /// # Panics
    /// If it does not get ready, with what it said.
    pub fn launch_in(directory: Arc<TempDir>, launch: Launch, port: u16) -> Self {
        Self::try_launch_in(directory, launch, port)
            .unwrap_or_else(|ended| panic!("the broker is not ready but {}; stderr:\n{}", ended.status, ended.log))
    }

    fn try_launch_in(directory: Arc<TempDir>, launch: Launch, port: u16) -> Result<Self, EndedAtStart> {
        let mut words = launch.wrapper.clone();
        words.push(aqueduct_binary().into());
        let mut command = Command::new(&words[0]);
        for name in SETTINGS_OF_TESTS {
            command.env_remove(name);
        }
        command
            .args(&words[1..])
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(data_of(&directory))
            .args(&launch.args)
            .envs(launch.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the broker starts");
        let stderr = collect_stderr(&mut child);
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        stdout.read_line(&mut ready).expect("stdout can be read");
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let mut broker = Self { child, directory, launch, port, stderr };
        if !ready.contains(&port.to_string()) {
            let status = broker.child.wait().expect("the broker ends");
            return Err(EndedAtStart { status, log: broker.log(), stopped: broker.stopped() });
        }
        Ok(broker)
    }

    /// Its address, for clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client of it.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn client(&self) -> Client {
        Client::connect(self.url()).await.expect("the broker answers")
    }

    /// Where its data lies.
    pub fn data(&self) -> PathBuf {
        data_of(&self.directory)
    }

    /// What it has logged.
    ///
    /// # Panics
    /// Never, unless the thread that collects it has.
    pub fn log(&self) -> String {
        self.stderr.lock().expect("the log").clone()
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) -> Stopped {
        self.send_sigkill();
        self.stopped()
    }

    /// Asks it to end with SIGTERM and returns how it did. Blocks: a client of the same test says goodbye only if its
    /// runtime has another thread to do so, and the broker waits for that.
    ///
    /// # Panics
    /// If it cannot be signalled.
    pub fn terminate(mut self) -> (ExitStatus, Stopped) {
        self.send_sigterm();
        let status = self.child.wait().expect("the broker ends");
        (status, self.stopped())
    }

    /// Asks it to end, and does not wait.
    ///
    /// # Panics
    /// If it cannot be signalled.
    pub fn send_sigterm(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().expect("kill runs");
        assert!(sent.success(), "the broker is gone");
    }

    /// Kills it and starts it again.
    pub fn kill_and_restart(self) -> Self {
        self.kill().restart()
    }

    /// How it ended, by itself or by the hand of whoever traces it; `None` while it runs.
    ///
    /// # Panics
    /// If nobody can tell.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    /// Ends it with SIGKILL, and keeps what it said.
    pub fn send_sigkill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn stopped(&self) -> Stopped {
        Stopped { directory: Arc::clone(&self.directory), launch: self.launch.clone(), port: self.port }
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        self.send_sigkill();
        if thread::panicking() {
            eprintln!("---- log of the broker ----\n{}", self.log());
        }
    }
}

/// A broker that is not running: its data, and how to start it again.
pub struct Stopped {
    directory: Arc<TempDir>,
    /// Can be changed before the restart.
    pub launch: Launch,
    port: u16,
}

impl Stopped {
    /// Where its data lies.
    pub fn data(&self) -> PathBuf {
        data_of(&self.directory)
    }

    /// Starts it again at the same address.
    pub fn restart(self) -> BrokerProcess {
        BrokerProcess::launch_in(self.directory, self.launch, self.port)
    }

    /// As [`restart`](Self::restart), for a broker that may end before it is ready.
    ///
    /// # Errors
    /// How it ended.
    pub fn try_restart(self) -> Result<BrokerProcess, EndedAtStart> {
        BrokerProcess::try_launch_in(self.directory, self.launch, self.port)
    }
}

/// A broker that ended before it was ready.
pub struct EndedAtStart {
    /// How it ended.
    pub status: ExitStatus,
    /// What it had logged.
    pub log: String,
    /// To start it again.
    pub stopped: Stopped,
}

fn data_of(directory: &TempDir) -> PathBuf {
    Path::new(directory.path()).join("data")
}

/// A port that was free a moment ago, below those that the system gives to outgoing connections: a client that tries to
/// reach a broker that is down must not take its port, or even connect to itself.
///
/// # Panics
/// Never: it goes on until there is one.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).find(is_free).expect("a free port")
}

fn collect_stderr(child: &mut Child) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let collected = Arc::clone(&log);
    thread::spawn(move || {
        let mut line = String::new();
        while stderr.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            collected.lock().expect("the log").push_str(&line);
            line.clear();
        }
    });
    log
}
