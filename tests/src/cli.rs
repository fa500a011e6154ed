//! The command line, run to its end.

use std::{
    io::{Read, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
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
    let mut command = Command::new(aqueduct_binary());
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
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // A command that ends early closes the pipe; that is its right.
        let _ = stdin.write_all(&input);
    });
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("its status") {
            break status;
        }
        if started.elapsed() > DEADLINE {
            // It may end this very moment.
            let _ = child.kill();
            panic!("aqueduct {args:?} did not end within {DEADLINE:?}");
        }
        thread::sleep(PROBE_INTERVAL);
    };
    writer.join().expect("the writer of stdin");
    let text = |collected: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&collected.join().expect("the reader of a pipe")).into_owned()
    };
    Output { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("it is piped");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("the pipe can be read");
        bytes
    })
}
