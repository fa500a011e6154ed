//! Disks that are slow or fail: `strace` attached to a running broker changes what its system calls do.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const ATTACH_DEADLINE: Duration = Duration::from_secs(20);

/// A fault that lasts until it is dropped.
pub struct Fault {
    strace: Child,
    directory: TempDir,
}

impl Fault {
    /// Changes what the system calls of process `pid` do, in the words of `strace -e inject=`, and traces `calls`.
    ///
    /// # Panics
    /// If strace is not there or may not attach: these tests are not to be passed over in silence.
    pub fn inject(pid: u32, calls: &str, injections: &[&str]) -> Self {
        Self::attach(pid, &["-e", &format!("trace={calls}")], injections)
    }

    /// As [`inject`](Self::inject), for calls on files in `directory` only; with what is there now.
    ///
    /// # Panics
    /// As [`inject`](Self::inject).
    pub fn inject_under(pid: u32, directory: &Path, injections: &[&str]) -> Self {
        let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
        let paths: Vec<String> = entries.map(|path| path.display().to_string()).collect();
        let words: Vec<&str> = paths.iter().flat_map(|path| ["-P", path.as_str()]).collect();
        Self::attach(pid, &words, injections)
    }

    fn attach(pid: u32, what: &[&str], injections: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let said = directory.path().join("stderr");
        let mut command = Command::new("strace");
        // -y: descriptors with their paths.
        command.args(["-f", "-y", "-s", "0"]).args(what).arg("-o").arg(directory.path().join("trace"));
        for injection in injections {
            command.args(["-e", &format!("inject={injection}")]);
        }
        let strace = command
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said).expect("a file"))
            .spawn()
            .unwrap_or_else(|error| panic!("strace is needed to make the disk fail, and cannot be run: {error}"));
        let mut fault = Self { strace, directory };
        let started = Instant::now();
        while !fs::read_to_string(&said).expect("what strace says").contains("attached") {
            let ended = fault.strace.try_wait().expect("its status");
            assert!(
                ended.is_none() && started.elapsed() < ATTACH_DEADLINE,
                "strace cannot attach to the broker; it needs the right to trace (root, or kernel.yama.ptrace_scope=0): {}",
                fs::read_to_string(&said).expect("what strace says")
            );
            thread::sleep(Duration::from_millis(5));
        }
        fault
    }

    /// The calls so far, one a line.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn trace(&self) -> Vec<String> {
        let path: PathBuf = self.directory.path().join("trace");
        fs::read_to_string(path).expect("the trace").lines().map(str::to_owned).collect()
    }
}

impl Drop for Fault {
    /// From here on the disk is as it was.
    fn drop(&mut self) {
        // SIGINT detaches; killed, strace would leave the broker stopped.
        let asked = Command::new("kill").args(["-INT", &self.strace.id().to_string()]).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.strace.kill();
        }
        let _ = self.strace.wait();
    }
}
