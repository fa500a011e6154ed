//! What the command line has printed, and what must be true of everything that it prints later.
//!
//! A line of evidence is a receipt (`publish`), an event (`subscribe`) or a committed offset (`lag`). The broker itself is
//! never asked whether it did well.

use std::collections::{BTreeMap, BTreeSet};

use aqueduct_tests::Output;
use serde_json::Value;

/// One run of `publish` to one partition. Its lines name it, so that every value is unique in the campaign.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) partition: u32,
    pub(crate) lines: Vec<String>,
}

impl Run {
    pub(crate) fn input(&self, lines: std::ops::Range<usize>) -> Vec<u8> {
        self.lines[lines].iter().flat_map(|line| [line.as_bytes(), b"\n"]).flatten().copied().collect()
    }
}

/// Everything known of one partition.
#[derive(Default)]
struct Partition {
    /// Values whose offset somebody was told, by a receipt or by delivery.
    known: BTreeMap<u64, String>,
    /// Where values were seen, to find what is stored twice.
    offsets: BTreeMap<String, u64>,
    /// Of each run, how many of its lines are acknowledged.
    acked: BTreeMap<String, usize>,
    log_start: u64,
    /// Where the last complete reading ended.
    read_to: u64,
    append_times_us: BTreeMap<u64, i64>,
}

/// What a topic must still hold.
#[derive(Default)]
pub(crate) struct Ledger {
    partitions: BTreeMap<u32, Partition>,
    committed: BTreeMap<u32, u64>,
    /// Offsets that a member of the group was given, exclusive.
    delivered: BTreeMap<u32, u64>,
    pub(crate) receipts: u64,
    pub(crate) deliveries: u64,
}

/// An event as `subscribe --output json` prints it.
struct Printed {
    partition: u32,
    offset: u64,
    append_time_us: i64,
    value: String,
}

fn printed(output: &Output) -> Vec<Printed> {
    let event = |line: Value| Printed {
        partition: u32::try_from(number(&line, "partition")).expect("a partition"),
        offset: number(&line, "offset"),
        append_time_us: line["append_time_us"].as_i64().expect("a time"),
        value: line["value"].as_str().expect("text").to_owned(),
    };
    output.json_lines().into_iter().map(event).collect()
}

pub(crate) fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("no {field} in {line}"))
}

impl Ledger {
    /// Receipts of a run: one for each input line, in order, from the first on. Whether it got them all is no matter.
    pub(crate) fn receipts(&mut self, run: &Run, output: &Output) {
        let receipts = output.json_lines();
        assert!(receipts.len() <= run.lines.len(), "more receipts than lines: {output:?}");
        let partition = self.partitions.entry(run.partition).or_default();
        for (index, receipt) in receipts.iter().enumerate() {
            assert_eq!(number(receipt, "line"), index as u64 + 1, "receipts come in input order");
            assert_eq!(number(receipt, "partition"), u64::from(run.partition), "{receipt}");
            assert_eq!(receipt["durability"], "fsync", "{receipt}");
            let time = receipt["append_time_us"].as_i64().expect("a time");
            partition.learn(number(receipt, "offset"), &run.lines[index], time, "acknowledged");
        }
        partition.acked.insert(run.name.clone(), receipts.len());
        self.receipts += receipts.len() as u64;
    }

    /// Events that a reader was given, of whichever partitions, in any part.
    pub(crate) fn seen(&mut self, output: &Output) {
        for event in printed(output) {
            let partition = self.partitions.entry(event.partition).or_default();
            partition.learn(event.offset, &event.value, event.append_time_us, "delivered");
            self.deliveries += 1;
        }
    }

    /// Events that a member of the group was given.
    pub(crate) fn consumed(&mut self, output: &Output) {
        self.seen(output);
        for event in printed(output) {
            let end = self.delivered.entry(event.partition).or_default();
            *end = (*end).max(event.offset + 1);
        }
    }

    /// `--group` acknowledges all that it printed before it ends with success.
    pub(crate) fn acknowledged(&mut self, output: &Output) {
        let events = if output.code == 0 { printed(output) } else { Vec::new() };
        for event in events {
            let committed = self.committed.entry(event.partition).or_default();
            *committed = (*committed).max(event.offset + 1);
        }
    }

    /// `lag` of the group: monotonic, never beyond the end, and never beyond what a member was given.
    pub(crate) fn lag(&mut self, output: &Output) {
        for line in output.json_lines() {
            let partition = u32::try_from(number(&line, "partition")).expect("a partition");
            let committed = number(&line, "committed_offset");
            let promised = self.committed.get(&partition).copied().unwrap_or(0);
            let delivered = self.delivered.get(&partition).copied().unwrap_or(0);
            assert!(committed >= promised, "{promised} had been committed: {line}");
            assert!(committed <= number(&line, "high_watermark"), "beyond the end: {line}");
            assert!(committed <= delivered, "nobody was given more than {delivered}: {line}");
            self.committed.insert(partition, committed);
        }
    }

    /// Where a reader who wants to see everything that is new, and some that is not, begins.
    pub(crate) fn frontier(&self, partition: u32, overlap: u64) -> u64 {
        self.partitions.get(&partition).map_or(0, |partition| partition.read_to.saturating_sub(overlap))
    }

    /// Everything of a partition from `from` on, or from its log start if that is later: gapless, in order, with all that
    /// is known, byte for byte, and of each run a beginning that holds all that was acknowledged, each line once.
    pub(crate) fn complete(&mut self, partition: u32, from: u64, output: &Output) {
        let events = printed(output);
        self.deliveries += events.len() as u64;
        let partition = self.partitions.entry(partition).or_default();
        let first = events.first().map_or(from, |event| event.offset);
        assert!(first >= from && first >= partition.log_start, "{first}: the log start went back");
        let mut here = BTreeSet::new();
        for (expected, event) in (first..).zip(&events) {
            assert_eq!(event.offset, expected, "a gap, or an offset twice");
            partition.learn(event.offset, &event.value, event.append_time_us, "read");
            here.insert(event.offset);
        }
        let lost: Vec<_> = partition.known.range(first..).filter(|(offset, _)| !here.contains(offset)).collect();
        assert!(lost.is_empty(), "{} events are gone, the first is {:?}", lost.len(), lost[0]);
        let times = partition.append_times_us.range(first..).map(|(_, time)| time);
        assert!(times.is_sorted(), "append times go back");
        if first > from {
            partition.log_start = first;
        }
        partition.read_to = first + events.len() as u64;
    }

    /// Of each run that wrote to it, a partition holds a beginning: no line without those before it, none twice.
    pub(crate) fn runs_are_whole(&self, runs: &[Run]) {
        for run in runs {
            let Some(partition) = self.partitions.get(&run.partition) else { continue };
            let offsets = run.lines.iter().map(|line| partition.offsets.get(line).copied());
            let stored: Vec<Option<u64>> = offsets.collect();
            let acked = partition.acked.get(&run.name).copied().unwrap_or(0);
            let whole = stored.iter().take_while(|offset| offset.is_some()).count();
            assert!(whole >= acked, "run {}: {acked} lines acknowledged, {whole} stored", run.name);
            assert!(stored[whole..].iter().all(Option::is_none), "run {}: line {} is missing", run.name, whole + 1);
            assert!(stored[..whole].is_sorted(), "run {}: lines changed places", run.name);
        }
    }

    /// Values that are known of one partition, from its log start on, in bytes.
    pub(crate) fn kept_bytes(&self, partition: u32) -> usize {
        let Some(partition) = self.partitions.get(&partition) else { return 0 };
        partition.known.range(partition.log_start..).map(|(_, value)| value.len()).sum()
    }

    pub(crate) fn log_start(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |partition| partition.log_start)
    }
}

impl Partition {
    fn learn(&mut self, offset: u64, value: &str, append_time_us: i64, how: &str) {
        match self.known.get(&offset) {
            Some(known) => assert_eq!(known, value, "offset {offset} was promised to other bytes than those {how}"),
            None => {
                self.known.insert(offset, value.to_owned());
            }
        }
        let before = self.offsets.insert(value.to_owned(), offset);
        assert!(before.is_none_or(|before| before == offset), "stored at {before:?} and at {offset}: {value}");
        let time = *self.append_times_us.entry(offset).or_insert(append_time_us);
        assert_eq!(time, append_time_us, "offset {offset} changed its append time when it was {how}");
    }
}
