//! A log of keyed records beside what was appended to it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_storage::sim::SimDisk;
use aqueduct_storage::{
    Audience, Batch, BatchHeader, Codec, CompactionError, CompactionPolicy, Disk, Fact, Finding, Installed, Offset,
    OpenError, PartitionLog, ProducerSequence, Urgency, payload_crc, verify_log,
};

use crate::support::keyed::Keyed;
use crate::support::lines::{Line, Lines, turned_over};
use crate::support::{ID, log_dir, read_all, small_options};

pub(crate) const SECOND_US: i64 = 1_000_000;
pub(crate) const TOMBSTONE_RETENTION: Duration = Duration::from_secs(1000);

/// What is known of the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) keyed: Keyed,
    pub(crate) now_us: i64,
    /// The log start that was acknowledged or seen.
    log_start: Offset,
    /// The log start that was asked for.
    log_start_max: Offset,
    sequence: u64,
    /// Installations after which there were fewer segments, and more.
    pub(crate) merges: usize,
    pub(crate) splits: usize,
    /// The most segments that became one at once.
    pub(crate) merged_max: usize,
}

pub(crate) fn policy(now_us: i64) -> CompactionPolicy {
    CompactionPolicy {
        now_us,
        tombstone_retention: TOMBSTONE_RETENTION,
        min_lag: Duration::ZERO,
        active_age_max: Duration::MAX,
        keys_max: 1 << 16,
        urgency: Urgency::Now,
    }
}

pub(crate) fn create(disk: &SimDisk) -> PartitionLog {
    let shared = disk.shared();
    shared.create_dir(Path::new("/log")).expect("a directory");
    shared.sync_dir(Path::new("/")).expect("synced");
    PartitionLog::create(shared, &log_dir(), ID, small_options()).expect("a new log")
}

pub(crate) fn open(disk: &SimDisk) -> Result<PartitionLog, OpenError> {
    let shared: Arc<dyn Disk> = disk.shared();
    PartitionLog::open(shared, &log_dir(), ID, small_options(), 0).map(|(log, report)| {
        assert!(report.damage.is_empty(), "{report:?}");
        log
    })
}

/// What a pass has come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) files: usize,
    pub(crate) records_removed: u64,
}

impl World {
    /// Appends one batch of `lines`, `key=value` or `key`, padded, and one second later.
    pub(crate) fn append(&mut self, log: &mut PartitionLog, lines: &[&str]) -> bool {
        self.now_us += SECOND_US;
        let batch = self.batch(log, lines);
        self.sequence += lines.len() as u64;
        let is_stored = log.append_group(std::slice::from_ref(&batch)).is_ok();
        if is_stored {
            self.keyed.acknowledge(&batch)
        } else {
            self.keyed.suspect(&batch)
        }
        is_stored
    }

    fn batch(&self, log: &PartitionLog, lines: &[&str]) -> Batch {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let codec = if self.sequence.is_multiple_of(2) { Codec::Lz4 } else { Codec::None };
        let payload = turned_over(codec, text.as_bytes());
        let id = [u8::try_from(self.sequence % 3).expect("small"); 16];
        let header = BatchHeader {
            base_offset: log.log_end(),
            record_count: u32::try_from(lines.len()).expect("few"),
            codec,
            payload_crc: payload_crc(&payload),
            append_time_us: self.now_us,
            max_timestamp_us: self.now_us,
            epoch: log.epoch(),
            producer: Some(ProducerSequence { id, epoch: 1, sequence: self.sequence }),
            ..BatchHeader::default()
        };
        Batch { header, payload: payload.into() }
    }

    pub(crate) fn compact(&mut self, log: &mut PartitionLog) -> Result<Pass, CompactionError> {
        let policy = policy(self.now_us);
        self.compact_with(log, policy)
    }

    pub(crate) fn compact_with(
        &mut self,
        log: &mut PartitionLog,
        policy: CompactionPolicy,
    ) -> Result<Pass, CompactionError> {
        self.keyed.compact(&policy);
        let segment_bytes = log.options().segment_bytes;
        let go_on = &mut |_| ControlFlow::Continue(());
        let mut pass = Pass::default();
        let Some(mut compaction) = log.reader().compact(policy, segment_bytes, &Lines, go_on)? else {
            return Ok(pass);
        };
        while let Some(rewritten) = compaction.next(&Lines, go_on)? {
            let segments_before = log.reader().segment_count();
            let installed = log.install(rewritten)?;
            let segments = log.reader().segment_count();
            self.merges += usize::from(segments < segments_before);
            self.splits += usize::from(segments > segments_before);
            self.merged_max = self.merged_max.max(1 + segments_before.saturating_sub(segments));
            match installed {
                Installed::InPlace { records_removed, .. } => {
                    self.keyed.note_gone(log);
                    pass.files += 1;
                    pass.records_removed += records_removed;
                }
                Installed::Overtaken => break,
            }
        }
        Ok(pass)
    }

    pub(crate) fn trim(&mut self, log: &mut PartitionLog, before: Offset) -> bool {
        self.log_start_max = self.log_start_max.max(before);
        let trimmed = log.trim(before);
        self.log_start = trimmed.as_ref().map_or(self.log_start, |log_start| *log_start);
        trimmed.is_ok()
    }

    /// See [`Keyed::check`].
    pub(crate) fn check(&mut self, log: &PartitionLog, context: &str) -> Vec<Line> {
        let window = log.window();
        let asked_for = self.log_start..=self.log_start_max;
        assert!(asked_for.contains(&window.log_start), "{context}: {window:?}, and {asked_for:?} was asked for");
        self.log_start = window.log_start;
        self.keyed.check(window, &read_all(&log.reader()), context)
    }

    /// Nothing in the directory is damaged.
    pub(crate) fn verify(disk: &SimDisk, context: &str) {
        let mut findings = Findings(Vec::new());
        verify_log(&disk.shared(), &log_dir(), ID, &mut findings).expect("readable");
        assert!(findings.0.is_empty(), "{context}: {:?}", findings.0);
    }
}

pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Audience for Findings {
    fn found(&mut self, finding: Finding) {
        // What a power loss may tear, and costs nothing.
        let is_torn = matches!(finding.fact, Fact::Index("checksum") | Fact::StateSlot);
        if finding.is_damage() && !is_torn {
            self.0.push(finding);
        }
    }

    fn read(&mut self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
