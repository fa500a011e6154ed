//! What a sync costs, in the ways in which a log can ask for it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Percentiles;
use crate::cli::bench::histogram::Latencies;

const PIECE_BYTES: u64 = 4 << 10;
const LARGE_PIECE_BYTES: u64 = 1 << 20;
/// Zeros to write into: more than a second of syncs needs, and it starts again at the end.
pub(super) const ZEROED_BYTES: u64 = 32 << 20;
const PARALLEL_FILES: usize = 8;
const PARALLEL_ZEROED_BYTES: u64 = 4 << 20;

/// What to say of a directory on which syncs mean nothing.
#[cfg(target_os = "linux")]
pub(in crate::cli::bench) fn warning(directory: &Path) -> Option<String> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let kind = rustix::fs::statfs(directory).ok()?.f_type.cast_unsigned();
    (kind == TMPFS_MAGIC)
        .then(|| "temporary files are in memory here, a sync costs nothing: name a disk with --dir".to_owned())
}

/// Only Linux tells.
#[cfg(not(target_os = "linux"))]
pub(in crate::cli::bench) fn warning(_: &Path) -> Option<String> {
    None
}

pub(super) fn sync_growing(directory: &Path, take: Duration) -> anyhow::Result<Percentiles> {
    let file = Scratch::new(directory, "growing")?;
    let mut latencies = Latencies::default();
    let begun = Instant::now();
    for piece in 0.. {
        if begun.elapsed() >= take && piece > 0 {
            break;
        }
        latencies.record(file.write_and_sync(piece * PIECE_BYTES)?);
    }
    Ok(Percentiles::of(&latencies))
}

pub(super) fn sync_zeroed(directory: &Path, take: Duration) -> anyhow::Result<Percentiles> {
    let begun = Instant::now();
    let file = Scratch::zeroed(directory, "zeroed", ZEROED_BYTES)?;
    let mut latencies = Latencies::default();
    for piece in 0.. {
        if begun.elapsed() >= take && piece > 0 {
            break;
        }
        latencies.record(file.write_and_sync(piece * PIECE_BYTES % ZEROED_BYTES)?);
    }
    Ok(Percentiles::of(&latencies))
}

/// Syncs a second over all files.
pub(super) fn syncs_in_parallel(directory: &Path, take: Duration) -> anyhow::Result<f64> {
    let name = |number| format!("parallel-{number}");
    let files = (0..PARALLEL_FILES).map(|number| Scratch::zeroed(directory, &name(number), PARALLEL_ZEROED_BYTES));
    let files = files.collect::<anyhow::Result<Vec<_>>>()?;
    let syncs = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let threads: Vec<_> = files
        .into_iter()
        .map(|file| {
            let syncs = Arc::clone(&syncs);
            thread::spawn(move || -> anyhow::Result<()> {
                let mut position = 0;
                while begun.elapsed() < take {
                    file.write_and_sync(position % PARALLEL_ZEROED_BYTES)?;
                    syncs.fetch_add(1, Ordering::Relaxed);
                    position += PIECE_BYTES;
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread that syncs has panicked"))??;
    }
    Ok(syncs.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
}

/// MB a second. The first third does not count: a drive's cache takes that faster than it can go on.
pub(super) fn sequential(directory: &Path, take: Duration) -> anyhow::Result<f64> {
    let file = Scratch::new(directory, "sequential")?;
    let piece = random(LARGE_PIECE_BYTES);
    let mut position = 0;
    let mut write_for = |take: Duration| -> anyhow::Result<f64> {
        let (begun, from) = (Instant::now(), position);
        while begun.elapsed() < take || position == from {
            file.file.write_all_at(&piece, position)?;
            file.file.sync_data()?;
            position += LARGE_PIECE_BYTES;
        }
        Ok((position - from) as f64 / 1e6 / begun.elapsed().as_secs_f64())
    };
    write_for(take / 3)?;
    write_for(take * 2 / 3)
}

fn random(bytes: u64) -> Vec<u8> {
    let mut piece = vec![0; usize::try_from(bytes).unwrap_or(0)];
    fastrand::fill(&mut piece);
    piece
}

/// A file that is removed when it is not needed any more.
pub(super) struct Scratch {
    pub(super) file: File,
    path: PathBuf,
    piece: Vec<u8>,
}

impl Scratch {
    fn new(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let path = directory.join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { file, path, piece: random(PIECE_BYTES) })
    }

    pub(super) fn zeroed(directory: &Path, name: &str, bytes: u64) -> anyhow::Result<Self> {
        let scratch = Self::new(directory, name)?;
        let zeros = vec![0; usize::try_from(LARGE_PIECE_BYTES)?];
        for position in (0..bytes).step_by(zeros.len()) {
            scratch.file.write_all_at(&zeros, position)?;
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }

    fn write_and_sync(&self, position: u64) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.file.write_all_at(&self.piece, position)?;
        self.file.sync_data()?;
        Ok(begun.elapsed())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Its directory goes soon as well.
        let _ = std::fs::remove_file(&self.path);
    }
}
