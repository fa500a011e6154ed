//! The command line, run to its end.

use std::{
    io::{Read, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// Generous: a command that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Output {
    /// Itself, if the command succeeded.
    ///
    /// # Panics
    /// With everything it printed, if it failed.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Itself, if the command ended with `code` and stderr contains every one of `words`.
    ///
    /// # Panics
    /// With everything it printed, otherwise.
    #[track_caller]
    pub fn failure(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in stderr:\n{}", self.stderr);
        }
        self
    }

    /// Standard output as JSON, one value a line.
    ///
    /// # Panics
    /// If a line is not JSON.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }
}

/// Settings of tests. A broker would take them for misspelt settings of its own.
pub(crate) const SETTINGS_OF_TESTS: [&str; 3] = ["AQUEDUCT_SEED", "AQUEDUCT_SEEDS", "AQUEDUCT_SOAK"];

/// A process of the binary under test, in an environment without settings of tests.
///
/// # Panics
/// If it has not been built.
pub fn aqueduct_command() -> Command {
    let mut command = Command::new(aqueduct_binary());
    for name in SETTINGS_OF_TESTS {
        command.env_remove(name);
    }
    command
}

/// The binary under test, built by the same `cargo test --workspace`.
///
/// # Panics
/// If it has not been built.
pub fn aqueduct_binary() -> PathBuf {
    let mut path = std::env::current_exe().expect("the path of this test");
    // …/debug/deps/test-hash → …/debug/aqueduct
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path.join("aqueduct");
    assert!(
        path.exists(),
        "{} is not built: run `cargo build -p aqueduct` or test the whole workspace",
        path.display()
    );
    path
}

/// Runs `aqueduct` with `args`, against the broker at `server` if there is one.
pub fn aqueduct(server: Option<&str>, args: &[&str]) -> Output {
    aqueduct_with_input(server, args, b"")
}

/// As [`aqueduct()`], with `input` on standard input.
///
/// # Panics
/// If the process cannot be started, or does not end.
pub fn aqueduct_with_input(server: Option<&str>, args: &[&str], input: &[u8]) -> Output {
    let mut running = Running::start(server, args);
    let stdin = running.stdin.take();
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // A command that ends early closes the pipe; that is its right.
        let _ = stdin.expect("stdin is piped").write_all(&input);
    });
    let output = running.finish();
    writer.join().expect("the writer of stdin");
    output
}

/// A command that runs, with what it has printed so far. Killed when it is dropped.
pub struct Running {
    args: Vec<String>,
    child: Child,
    stdin: Option<ChildStdin>,
    started: Instant,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    /// Starts `aqueduct` with `args`, against the broker at `server` if there is one. It waits for its input.
    ///
    /// # Panics
    /// If the process cannot be started.
    pub fn start(server: Option<&str>, args: &[&str]) -> Self {
        let mut command = aqueduct_command();
        command
            .args(args)
            .env_remove("AQUEDUCT_SERVER")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(server) = server {
            command.env("AQUEDUCT_SERVER", server);
        }
        let mut child = command.spawn().expect("aqueduct starts");
        let (stdout, stderr) = (Collected::from(child.stdout.take()), Collected::from(child.stderr.take()));
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let stdin = child.stdin.take();
        Self { args, child, stdin, started: Instant::now(), stdout, stderr }
    }

    /// Gives it more input, no more than fits into a pipe.
    ///
    /// # Panics
    /// After the end of its input.
    pub fn feed(&mut self, input: &[u8]) {
        // A command that ends early closes the pipe; that is its right.
        let _ = self.stdin.as_mut().expect("its input has not ended").write_all(input);
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Lines that it has printed, the last one included only if it is whole.
    pub fn lines(&self) -> usize {
        self.stdout.whole_lines().lines().count()
    }

    /// The whole lines that it has said on stderr.
    pub fn said(&self) -> String {
        self.stderr.whole_lines()
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// If it runs for so long that it must be hanging.
    pub fn has_ended(&mut self) -> bool {
        if self.child.try_wait().expect("its status").is_some() {
            return true;
        }
        if self.started.elapsed() > DEADLINE {
            // It may end this very moment.
            let _ = self.child.kill();
            panic!("aqueduct {:?} did not end within {DEADLINE:?}", self.args);
        }
        false
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// If it does not.
    pub fn finish(mut self) -> Output {
        while !self.has_ended() {
            thread::sleep(PROBE_INTERVAL);
        }
        self.left_behind()
    }

    /// Ends it with SIGKILL, unless it has ended, and returns the whole lines that it printed.
    pub fn kill(mut self) -> Output {
        // It may have ended by itself.
        let _ = self.child.kill();
        let mut output = self.left_behind();
        output.stdout.truncate(output.stdout.rfind('\n').map_or(0, |end| end + 1));
        output
    }

    fn left_behind(&mut self) -> Output {
        let status = self.child.wait().expect("its status");
        Output { code: status.code().unwrap_or(-1), stdout: self.stdout.all(), stderr: self.stderr.all() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes out of a pipe, read by a thread of its own.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Collected {
    fn from(pipe: Option<impl Read + Send + 'static>) -> Self {
        let mut pipe = pipe.expect("it is piped");
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = pipe.read(&mut buffer).expect("the pipe can be read");
                if read == 0 {
                    return;
                }
                collected.lock().expect("what was read").extend_from_slice(&buffer[..read]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn whole_lines(&self) -> String {
        let bytes = self.bytes.lock().expect("what was read");
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Waits for the end of the pipe.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of a pipe");
        }
        String::from_utf8_lossy(&self.bytes.lock().expect("what was read")).into_owned()
    }
}
