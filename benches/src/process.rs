//! What a broker process has used, from the kernel.

use std::fs;

use anyhow::Context as _;

/// Anonymous resident memory, in bytes: without mapped files.
pub(crate) fn anonymous_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
