//! `--flip-byte`: proof that the demo would notice. One byte of a sealed file changes while the broker is down.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// What was changed.
#[derive(Debug)]
pub(super) struct Flipped {
    /// Relative to the data directory.
    pub(super) file: PathBuf,
    /// Of the byte.
    pub(super) position: u64,
    pub(super) before: u8,
    pub(super) after: u8,
}

/// Flips one bit in the middle of the oldest sealed file of the topic.
pub(super) fn flip_byte(data: &Path, topic: &str) -> anyhow::Result<Flipped> {
    let mut partitions: Vec<PathBuf> = entries(&data.join("topics").join(topic))?;
    partitions.retain(|path| path.is_dir());
    partitions.sort();
    for partition in partitions {
        let mut logs: Vec<PathBuf> = entries(&partition)?;
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        // The last one is active; all before it are sealed.
        if let [sealed, _, ..] = logs.as_slice() {
            return flip(sealed, data);
        }
    }
    anyhow::bail!("topic {topic} has no sealed file")
}

fn flip(path: &Path, data: &Path) -> anyhow::Result<Flipped> {
    let file = File::options().read(true).write(true).open(path)?;
    let position = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, position)?;
    let before = byte[0];
    let after = before ^ 0b0001_0000;
    file.write_all_at(&[after], position)?;
    file.sync_all()?;
    let file = path.strip_prefix(data).unwrap_or(path).to_owned();
    Ok(Flipped { file, position, before, after })
}

fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
