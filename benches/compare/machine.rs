//! The machine, as far as it explains figures.

use std::{fs, path::Path, thread};

/// One line each: processor, kernel, file system.
pub(crate) fn description() -> Vec<String> {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let file_system = file_system(&std::env::temp_dir()).unwrap_or_else(|| "unknown".to_owned());
    vec![
        format!("{cores} cores, {cpu}, {} MiB of memory", mebibytes(&memory)),
        format!("Linux {}", kernel.trim()),
        format!("data on {file_system}"),
    ]
}

fn mebibytes(kibibytes: &str) -> u64 {
    kibibytes.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The type of the mount that `directory` lies in: the longest mount point above it.
fn file_system(directory: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().zip(fields.next())
    });
    let above = mounts.filter(|(point, _)| directory.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}
