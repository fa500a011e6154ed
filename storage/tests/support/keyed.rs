//! What must be found of a log whose records have keys, and of which compactions take some out.

use std::collections::{BTreeMap, BTreeSet};

use aqueduct_storage::{Batch, Codec, CompactionPolicy, Offset, PartitionLog, Window, payload_crc};

use super::lines::{Line, lines_of, turned_over};
use super::next_group;

/// The records of a log, whatever has become of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyed {
    /// Acknowledged or read, by offset.
    appended: BTreeMap<Offset, Line>,
    /// Written, and perhaps stored.
    unknown: BTreeMap<Offset, Line>,
    /// Taken out by compactions that were durable when they said so: never found again.
    gone: BTreeSet<Offset>,
    /// Tombstones appended before this may be gone; µs since the epoch.
    expired_before_us: Option<i64>,
}

impl Keyed {
    /// Number of records that were acknowledged or read.
    pub(crate) fn len(&self) -> usize {
        self.appended.len()
    }

    pub(crate) fn acknowledge(&mut self, batch: &Batch) {
        self.appended.extend(lines_of(batch).into_iter().map(|line| (line.offset, line)));
    }

    pub(crate) fn suspect(&mut self, batch: &Batch) {
        self.unknown.extend(lines_of(batch).into_iter().map(|line| (line.offset, line)));
    }

    /// What was written without an answer is not there, and its offsets go to others.
    pub(crate) fn give_up_unknown(&mut self) {
        self.unknown.clear();
    }

    /// A compaction begins.
    pub(crate) fn compact(&mut self, policy: &CompactionPolicy) {
        let retention_us = i64::try_from(policy.tombstone_retention.as_micros()).expect("short");
        self.expired_before_us = self.expired_before_us.max(Some(policy.now_us - retention_us));
    }

    /// What was put in place is durable, and so is what is no longer there.
    pub(crate) fn note_gone(&mut self, log: &PartitionLog) {
        let window = log.window();
        let mut batches: Vec<Batch> = Vec::new();
        let mut from = window.log_start;
        while from < window.high_watermark {
            // What cannot be read now says nothing.
            let Ok(read) = log.reader().read(from, 1 << 20) else { return };
            from = read.last().expect("a read makes progress").header.next_offset();
            batches.extend(read);
        }
        let found: BTreeSet<Offset> = batches.iter().flat_map(lines_of).map(|line| line.offset).collect();
        let appended = self.appended.range(window.log_start..window.high_watermark);
        self.gone.extend(appended.map(|(offset, _)| *offset).filter(|offset| !found.contains(offset)));
    }

    /// What was found is what was appended; of each key the latest is there; what is gone does not come back. From then on
    /// everything below the high watermark is certain.
    pub(crate) fn check(&mut self, window: Window, batches: &[Batch], context: &str) -> Vec<Line> {
        self.accept_unknown(window.high_watermark);
        let end = batches.last().map_or(window.log_start, |last| last.header.next_offset());
        assert_eq!(end, window.high_watermark, "{context}");
        let is_readable = |line: &Line| line.offset >= window.log_start;
        let found: Vec<Line> = batches.iter().flat_map(lines_of).filter(is_readable).collect();
        for line in &found {
            assert_eq!(self.appended.get(&line.offset), Some(line), "{context}: offset {}", line.offset);
            assert!(!self.gone.contains(&line.offset), "{context}: {line:?} was gone, durably, and is back");
        }
        self.check_latest(window.log_start, &found, context);
        found
    }

    fn check_latest(&self, log_start: Offset, found: &[Line], context: &str) {
        let found_at = |offset: &Offset| found.binary_search_by_key(offset, |line| line.offset).is_ok();
        let mut latest: BTreeMap<&str, &Line> = BTreeMap::new();
        for line in self.appended.range(log_start..).map(|(_, line)| line) {
            match &line.key {
                Some(key) => drop(latest.insert(key, line)),
                None => assert!(found_at(&line.offset), "{context}: {line:?} has no key and is gone"),
            }
        }
        for (key, line) in latest {
            let is_expired = self.expired_before_us.is_some_and(|before| line.append_time_us < before);
            let may_be_gone = line.value.is_none() && is_expired;
            assert!(found_at(&line.offset) || may_be_gone, "{context}: the latest of {key:?} is gone: {line:?}");
            if !found_at(&line.offset) {
                let back = found.iter().find(|line| line.key.as_deref() == Some(key));
                assert_eq!(back, None, "{context}: {key:?} is back");
            }
        }
    }

    /// What was written without an answer may be there, from the front; the rest never was.
    fn accept_unknown(&mut self, high_watermark: Offset) {
        let unknown = std::mem::take(&mut self.unknown);
        self.appended.extend(unknown.into_iter().filter(|(offset, _)| *offset < high_watermark));
    }
}

/// A group like [`next_group`] whose records have few keys: most are values, some say that their key is gone, and some have
/// none.
pub(crate) fn next_keyed_group(log: &PartitionLog, payload_bytes: &[usize]) -> Vec<Batch> {
    let mut group = next_group(log, payload_bytes);
    for (batch, bytes) in group.iter_mut().zip(payload_bytes) {
        let header = &mut batch.header;
        let small = format!("k{}", header.base_offset / 2 % 5);
        let name = match header.base_offset % 14 {
            0 => String::new(),
            other => format!("k{}", other % 9),
        };
        let value = format!("{}/{}{}", header.base_offset, header.epoch, "-".repeat(*bytes));
        let text = match header.base_offset % 10 {
            0 => format!("{small}\n{name}={value}\n"),
            _ => format!("{small}={}\n{name}={value}\n", header.epoch),
        };
        header.codec = if header.base_offset.is_multiple_of(4) { Codec::Lz4 } else { Codec::None };
        let payload = turned_over(header.codec, text.as_bytes());
        header.payload_crc = payload_crc(&payload);
        batch.payload = payload.into();
    }
    group
}
