//! What a process costs.

use std::{fs, io, time::Duration};

/// Ticks of the kernel's clock for CPU time: 100 a second on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Anonymous resident memory: without mapped files and the page cache.
///
/// # Panics
/// If the process is gone.
pub fn resident_anonymous_bytes(pid: u32) -> u64 {
    status(pid, "RssAnon:") * 1024
}

/// Whether the kernel may give a process huge pages.
///
/// # Panics
/// If the process is gone.
pub fn may_have_huge_pages(pid: u32) -> bool {
    status(pid, "THP_enabled:") != 0
}

fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("Linux tells it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Open file descriptors.
///
/// # Panics
/// If the process is gone.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// CPU time of all threads of a process, user and system.
///
/// # Errors
/// If the process is gone.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name, may contain anything; what follows its closing parenthesis does not.
    let (_, fields) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    let mut times = fields.split_whitespace().skip(11).map_while(|ticks| ticks.parse::<f64>().ok());
    let (user, system) = times.next().zip(times.next()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Duration::from_secs_f64((user + system) / TICKS_PER_SECOND))
}
