//! A log of keyed records beside what was appended to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_storage::sim::SimDisk;
use aqueduct_storage::{
    Audience, Batch, BatchHeader, Codec, CompactionError, CompactionPolicy, Disk, Fact, Finding, Installed, Offset,
    OpenError, PartitionLog, ProducerSequence, Urgency, payload_crc, verify_log,
};

use crate::lines::{Line, Lines, lines_of, turned_over};
use crate::support::{ID, log_dir, read_all, read_from, small_options};

pub(crate) const SECOND_US: i64 = 1_000_000;
pub(crate) const TOMBSTONE_RETENTION: Duration = Duration::from_secs(1000);

/// What is known of the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    /// Acknowledged, by offset.
    pub(crate) appended: BTreeMap<Offset, Line>,
    /// Written, and perhaps stored.
    pub(crate) unknown: BTreeMap<Offset, Line>,
    /// Taken out by compactions that were durable when they said so: never found again.
    gone: BTreeSet<Offset>,
    pub(crate) now_us: i64,
    /// The latest moment at which a compaction was begun.
    compacted_at_us: Option<i64>,
    /// Trimmed, or asked to be.
    pub(crate) log_start_max: Offset,
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
        let records = lines_of(&batch);
        self.sequence += lines.len() as u64;
        let is_stored = log.append_group(&[batch]).is_ok();
        let into = if is_stored { &mut self.appended } else { &mut self.unknown };
        into.extend(records.into_iter().map(|line| (line.offset, line)));
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
        self.compacted_at_us = Some(policy.now_us);
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
                    self.note_gone(log);
                    pass.files += 1;
                    pass.records_removed += records_removed;
                }
                Installed::Overtaken => break,
            }
        }
        Ok(pass)
    }

    /// What was put in place is durable, and so is what is no longer there.
    fn note_gone(&mut self, log: &PartitionLog) {
        let window = log.window();
        // Whatever cannot be read now, because the power is off, says nothing.
        let Ok(batches) = read_from(&log.reader(), window.log_start) else { return };
        let found: BTreeSet<Offset> = batches.iter().flat_map(lines_of).map(|line| line.offset).collect();
        let appended = self.appended.range(window.log_start..window.high_watermark);
        self.gone.extend(appended.map(|(offset, _)| *offset).filter(|offset| !found.contains(offset)));
    }

    /// What can be read is what was appended; of each key the latest is there; what is gone does not come back.
    pub(crate) fn check(&mut self, log: &PartitionLog, context: &str) -> Vec<Line> {
        let window = log.window();
        assert!(window.log_start <= self.log_start_max, "{context}");
        self.accept_unknown(window.high_watermark);
        let batches = read_all(&log.reader());
        let ends = batches.last().map_or(window.log_start, |last| last.header.next_offset());
        assert_eq!(ends, window.high_watermark, "{context}");
        let is_readable = |line: &Line| line.offset >= window.log_start;
        let found: Vec<Line> = batches.iter().flat_map(lines_of).filter(is_readable).collect();
        for line in &found {
            assert_eq!(self.appended.get(&line.offset), Some(line), "{context}: offset {}", line.offset);
            assert!(!self.gone.contains(&line.offset), "{context}: {line:?} was gone, durably, and is back");
        }
        let found_at = |offset: &Offset| found.binary_search_by_key(offset, |line| line.offset).is_ok();
        let expired_before_us = self
            .compacted_at_us
            .map_or(i64::MIN, |at| at - i64::try_from(TOMBSTONE_RETENTION.as_micros()).expect("short"));
        let mut latest: BTreeMap<&str, &Line> = BTreeMap::new();
        for line in self.appended.range(window.log_start..).map(|(_, line)| line) {
            match &line.key {
                Some(key) => drop(latest.insert(key, line)),
                None => assert!(found_at(&line.offset), "{context}: {line:?} has no key and is gone"),
            }
        }
        for (key, line) in latest {
            let may_be_gone = line.value.is_none() && line.append_time_us < expired_before_us;
            assert!(found_at(&line.offset) || may_be_gone, "{context}: the latest of {key:?} is gone: {line:?}");
            if !found_at(&line.offset) {
                let back = found.iter().find(|line| line.key.as_deref() == Some(key));
                assert_eq!(back, None, "{context}: {key:?} is back");
            }
        }
        found
    }

    /// What was written without an answer may be there, from the front; the rest never was.
    fn accept_unknown(&mut self, high_watermark: Offset) {
        let unknown = std::mem::take(&mut self.unknown);
        self.appended.extend(unknown.into_iter().filter(|(offset, _)| *offset < high_watermark));
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
