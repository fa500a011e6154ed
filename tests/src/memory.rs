//! What a process costs.

use std::fs;

/// Anonymous resident memory: without mapped files and the page cache.
///
/// # Panics
/// If the process is gone.
pub fn resident_anonymous_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux tells it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}
