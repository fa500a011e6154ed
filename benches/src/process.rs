//! What a broker process has used, from the kernel.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Ticks of the kernel's clock for CPU time: 100 a second on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Anonymous resident memory, in bytes: without mapped files.
pub(crate) fn anonymous_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// CPU time of all threads, user and system.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name, may contain anything; what follows its closing parenthesis does not.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = times.next().zip(times.next()).context("no times in stat")?;
    Ok(Duration::from_secs_f64((user? + system?) / TICKS_PER_SECOND))
}
