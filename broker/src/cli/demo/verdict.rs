//! The end of the story: what was promised, what was found, and whether that is the same.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use aqueduct_client::{Client, Event, Gap, GapReason, Item, Start, SubscribeError};
use serde::Serialize;

use super::failing::Failing;
use super::flights::fingerprint;
use super::ledger::{Audit, Digest, Ledger, Seen};
use super::narration::Narrator;
use super::traffic::Published;
use super::{PARTITIONS, TOPIC, next_commands};
use crate::cli::render::{self, Align, Format};
use crate::cli::size::{counted, grouped};
use crate::cli::time::human;

/// Ranges named one by one; more are only counted.
const RANGES_SHOWN: usize = 5;

/// Everything that is checked.
#[derive(Debug)]
pub(super) struct Verdict {
    total: u64,
    ledger: Ledger,
    published: Published,
    groups: Vec<GroupResult>,
    honoured: u64,
    missing: u64,
    different: u64,
    unexpected: u64,
    /// What the broker said could not be read.
    troubles: u64,
    promised: Digest,
    replays: Vec<Digest>,
    pub(super) failing: Failing,
    /// Of the whole demo.
    pub(super) elapsed: Duration,
}

#[derive(Debug)]
struct GroupResult {
    name: &'static str,
    seen: u64,
    redelivered: u64,
}

/// A line of the final table.
struct Check {
    what: String,
    expected: String,
    found: String,
}

impl Check {
    fn numbers(what: impl Into<String>, expected: u64, found: u64) -> Self {
        Self { what: what.into(), expected: grouped(expected), found: grouped(found) }
    }

    fn holds(&self) -> bool {
        self.expected == self.found
    }
}

impl Verdict {
    pub(super) fn new(total: u64, ledger: Ledger, published: Published, groups: [(&'static str, Seen); 2]) -> Self {
        let groups =
            groups.map(|(name, seen)| GroupResult { name, seen: ledger.seen_by(&seen), redelivered: seen.redelivered });
        Self {
            total,
            ledger,
            published,
            groups: groups.into(),
            honoured: 0,
            missing: 0,
            different: 0,
            unexpected: 0,
            troubles: 0,
            promised: Digest::default(),
            replays: Vec::new(),
            failing: Failing::default(),
            elapsed: Duration::ZERO,
        }
    }

    /// Reads the whole topic and compares every record with its receipt.
    pub(super) async fn audit(&mut self, narrator: &Narrator, client: &Client) -> anyhow::Result<()> {
        let mut audit = Audit::new(&self.ledger);
        let starts = vec![0; self.ledger.ends().len()];
        let troubles =
            read(client, &starts, |event| audit.take(event.partition, event.offset, fingerprint(&event.record)))
                .await?;
        audit.finish();
        for trouble in &troubles {
            narrator.bad(&format!("the broker says: {trouble}"));
        }
        for range in audit.missing.iter().take(RANGES_SHOWN) {
            let records = grouped(range.to - range.from);
            let (partition, from, last) = (range.partition, range.from, range.to - 1);
            narrator.bad(&format!("{TOPIC}/{partition}: {records} acked events missing, offsets {from} to {last}"));
        }
        for range in audit.different.iter().take(RANGES_SHOWN) {
            narrator.bad(&format!("{TOPIC}/{}: other bytes at offset {}", range.partition, range.from));
        }
        if audit.is_clean() {
            narrator.good(&format!(
                "{}, each with its record: same offset, same bytes",
                counted(audit.honoured, "receipt")
            ));
            narrator.good("no offset missing, nothing stored twice");
        }
        self.honoured = audit.honoured;
        self.missing = audit.missing_records();
        self.different = audit.different.len() as u64;
        self.unexpected = audit.unexpected;
        self.troubles += troubles.len() as u64;
        Ok(())
    }

    /// Reads the second half of every partition twice; both times must give what was published, in order.
    pub(super) async fn replay(&mut self, narrator: &Narrator, client: &Client) -> anyhow::Result<()> {
        let starts: Vec<u64> = self.ledger.ends().iter().map(|end| end / 2).collect();
        let list = starts.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        narrator.line(&format!("from offsets {list} of the {PARTITIONS} partitions"));
        self.promised = combined(&self.ledger.digests(&starts));
        narrator.line(&format!(
            "published   {:016x}  {}",
            self.promised.value,
            counted(self.promised.records, "event")
        ));
        for number in 1..=2 {
            let mut digests = vec![Digest::default(); starts.len()];
            let troubles = read(client, &starts, |event| {
                if let Some(digest) = usize::try_from(event.partition).ok().and_then(|p| digests.get_mut(p)) {
                    digest.add(fingerprint(&event.record));
                }
            })
            .await?;
            self.troubles += troubles.len() as u64;
            let replay = combined(&digests);
            let text = format!("replay {number}  {:016x}  {}", replay.value, counted(replay.records, "event"));
            if replay == self.promised {
                narrator.good(&text)
            } else {
                narrator.bad(&text)
            }
            self.replays.push(replay);
        }
        Ok(())
    }

    pub(super) fn is_good(&self) -> bool {
        self.troubles == 0 && self.replays.len() == 2 && self.checks().iter().all(Check::holds)
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = vec![
            Check::numbers("events published with a receipt", self.total, self.ledger.receipts()),
            Check::numbers("receipts that hold: offset and bytes", self.total, self.honoured),
            Check::numbers("acked events lost or changed", 0, self.missing + self.different),
            Check::numbers("events stored twice", 0, self.unexpected + self.ledger.contradictions()),
            Check::numbers("gaps in the offsets", 0, self.ledger.holes()),
        ];
        for group in &self.groups {
            checks.push(Check::numbers(format!("events handled by {}", group.name), self.total, group.seen));
        }
        for (number, replay) in (1..).zip(&self.replays) {
            checks.push(Check {
                what: format!("digest of replay {number}"),
                expected: format!("{:016x}", self.promised.value),
                found: format!("{:016x}", replay.value),
            });
        }
        let Failing { events, hopeless, handled, letters, handled_after_redrive, seen_by_bystander } = self.failing;
        checks.extend([
            Check::numbers("events handled while others failed", events - hopeless, handled),
            Check::numbers("failed events among the dead letters", hopeless, letters),
            Check::numbers("dead letters handled after a redrive", hopeless, handled_after_redrive),
            Check::numbers("events that the other group was given", events, seen_by_bystander),
        ]);
        checks
    }

    /// The table, the sentence, and what to do next.
    pub(super) fn tell(&self, narrator: &mut Narrator, format: Format, kept: Option<&Path>) -> anyhow::Result<()> {
        narrator.step("The verdict");
        let rows = self.checks().into_iter().map(|check| {
            let mark = if check.holds() { "✓" } else { "✗" };
            [check.what, check.expected, check.found, mark.to_owned()]
        });
        let table = render::table(
            [("CHECK", Align::Left), ("PROMISED", Align::Right), ("FOUND", Align::Right), ("", Align::Left)],
            rows,
        );
        narrator.plain(table.trim_end());
        for group in self.groups.iter().filter(|group| group.redelivered > 0) {
            let again = counted(group.redelivered, "event");
            narrator.plain(&format!("{} was given {again} again after the kill: at least once.", group.name));
        }
        let elapsed = human(self.elapsed);
        if self.is_good() {
            narrator.plain(&format!("\nEvery receipt held, through a kill -9, in {elapsed}.\n"));
            narrator.plain(&next_commands(kept));
        } else {
            narrator.plain(&format!("\nNot everything agreed; see the lines marked ✗ above. ({elapsed})"));
        }
        if format == Format::Json {
            render::print_json([self.to_json()])?;
        }
        Ok(())
    }

    fn to_json(&self) -> VerdictJson {
        VerdictJson {
            good: self.is_good(),
            events: self.total,
            receipts: self.ledger.receipts(),
            receipts_honoured: self.honoured,
            events_missing: self.missing,
            events_different: self.different,
            events_stored_twice: self.unexpected + self.ledger.contradictions(),
            offset_gaps: self.ledger.holes(),
            dead_letters: self.failing.letters,
            dead_letters_redriven: self.failing.handled_after_redrive,
            reconnects: self.published.reconnects,
            duplicates_recognised: self.published.duplicates,
            digest_published: format!("{:016x}", self.promised.value),
            digest_replays: self.replays.iter().map(|replay| format!("{:016x}", replay.value)).collect(),
            seconds: self.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct VerdictJson {
    good: bool,
    events: u64,
    receipts: u64,
    receipts_honoured: u64,
    events_missing: u64,
    events_different: u64,
    events_stored_twice: u64,
    offset_gaps: u64,
    dead_letters: u64,
    dead_letters_redriven: u64,
    reconnects: u64,
    duplicates_recognised: u64,
    digest_published: String,
    digest_replays: Vec<String>,
    seconds: f64,
}

/// One number for all partitions.
fn combined(digests: &[Digest]) -> Digest {
    let mut combined = Digest::default();
    for digest in digests {
        combined.add(digest.value);
    }
    combined.records = digests.iter().map(|digest| digest.records).sum();
    combined
}

/// Reads every partition from its start to its end. What the broker cannot read is returned, not skipped silently.
async fn read(client: &Client, starts: &[u64], mut take: impl FnMut(&Event)) -> anyhow::Result<Vec<String>> {
    let mut builder = client.subscribe(TOPIC);
    for (partition, start) in (0u32..).zip(starts) {
        builder = builder.partition_from(partition, Start::Offset(*start));
    }
    let mut subscription = builder.until_end().build().await.context("cannot read the topic back")?;
    let mut troubles = Vec::new();
    while let Some(item) = subscription.next_item().await {
        match item {
            Ok(Item::Event(event)) => take(&event),
            Ok(Item::Gap(gap)) => troubles.push(describe_gap(&gap)),
            Ok(Item::CaughtUp { .. } | Item::End { .. } | Item::Reconnected) => {}
            Err(error @ SubscribeError::Request(_)) => return Err(error.into()),
            Err(
                error @ (SubscribeError::OffsetOutOfRange(_)
                | SubscribeError::Partition { .. }
                | SubscribeError::Damaged { .. }
                | SubscribeError::Decode(_)),
            ) => troubles.push(error.to_string()),
        }
    }
    Ok(troubles)
}

fn describe_gap(gap: &Gap) -> String {
    let what = match gap.reason {
        GapReason::Damaged => "damaged on disk",
        GapReason::Retention => "removed by retention",
        GapReason::Unspecified => "not readable",
    };
    format!("{TOPIC}/{}: offsets {} to {} are {what}", gap.partition, gap.from, gap.to.saturating_sub(1))
}
