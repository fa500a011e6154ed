//! What the mover reads of the tiers, and when.

use aqueduct_storage::Offset;

use super::{LOOK_AGAIN_US, Mover, READ_BYTES, RETRY_MAX};
use crate::{
    delays::{
        entry::Placed,
        lane::Ready,
        reading::{Found, Reading},
        shelf::Tier,
        state::{Settled, Step, Target},
        tiers::{dwell_us, nothing_due_before_us, tier_for},
    },
    engine::ReadError,
};

impl Mover {
    pub(super) async fn read(&mut self, now_us: i64) {
        for (number, tier) in self.shared.shelf.list() {
            let read =
                if number == 0 { self.read_near(&tier).await } else { self.look_at(number, &tier, now_us).await };
            if let Err(what) = read {
                tracing::warn!(tier = number, "delayed records cannot be read now: {what}");
                match number {
                    0 => self.resting_until = Some(self.clock.now() + RETRY_MAX),
                    _ => self.reading(number).next_look_us = Some(self.clock.now_us() + LOOK_AGAIN_US),
                }
            }
        }
    }

    /// Takes in what is new in tier 0, or everything if something of it was forgotten.
    async fn read_near(&mut self, tier: &Tier) -> Result<(), String> {
        if self.near.needs_rereading() {
            self.near.rereads();
            self.reading(0).cursor = self.journal.state().settled(0).map_or(0, Settled::below);
        }
        let end = tier.log.window().high_watermark;
        while self.reading(0).cursor < end {
            for placed in self.read_some(0, tier, i64::MAX).await? {
                self.near.insert(placed);
            }
        }
        Ok(())
    }

    /// Carries on what the tier lets go of now, some of it at a time.
    async fn look_at(&mut self, number: u8, tier: &Tier, now_us: i64) -> Result<(), String> {
        let end = tier.log.window().high_watermark;
        while self.reading(number).is_to_be_looked_at(now_us, end) {
            for Placed { offset, entry } in self.read_some(number, tier, now_us).await? {
                let shelf = &self.shared.shelf;
                let to = tier_for(entry.due_us, now_us, |tier| shelf.last_append_us(tier));
                self.reading(number).take(std::iter::once(offset));
                let ready = Ready { from: number, offset, bytes: entry.record.len(), cached: Some(entry) };
                self.push(Target::Tier(to), ready);
            }
        }
        Ok(())
    }

    /// Up to when everything that is due is known to be in tier 0. Later than now, unless a tier has something to let go
    /// of that is not there yet: after a start, or when the clock has jumped.
    pub(super) fn complete_until_us(&self) -> i64 {
        let under_way = self.readings.iter().filter(|(number, reading)| **number > 0 && reading.under_way > 0);
        under_way.map(|(_, reading)| nothing_due_before_us(reading.let_go_us)).min().unwrap_or(i64::MAX)
    }

    /// The next entries of a tier that it lets go of by `now_us`.
    async fn read_some(&mut self, number: u8, tier: &Tier, now_us: i64) -> Result<Vec<Placed>, String> {
        let from = self.reading(number).cursor;
        let batches = match tier.log.read(from, READ_BYTES).await {
            Ok(batches) => batches,
            Err(ReadError::Damaged { to, what, .. }) => {
                self.lose(number, from, to, &what);
                return Ok(Vec::new());
            }
            Err(ReadError::Lost { to, .. }) => {
                self.lose(number, from, to, "taken out by a repair");
                return Ok(Vec::new());
            }
            Err(ReadError::OutOfRange { window, .. }) => {
                self.reading(number).cursor = window.log_start.max(from + 1);
                return Ok(Vec::new());
            }
            Err(ReadError::Failed(what)) => return Err(what),
        };
        let settled = self.journal.state().settled(number);
        let reading = self.readings.entry(number).or_insert_with(|| Reading::starting(settled));
        let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
        reading.next_look_us = None;
        for batch in batches {
            let look_us = batch.header.append_time_us.saturating_add(dwell_us(number));
            if look_us > now_us {
                reading.next_look_us = Some(look_us);
                break;
            }
            if entries.is_empty() {
                reading.let_go_us = look_us;
            }
            match reading.read(&batch, settled) {
                Found::Entries(found) => entries.extend(found),
                Found::Unreadable => unreadable.push(batch.header.base_offset..batch.header.next_offset()),
            }
        }
        for offsets in unreadable {
            self.lose(number, offsets.start, offsets.end, "not readable");
        }
        Ok(entries)
    }

    pub(super) fn lose(&mut self, number: u8, from: Offset, to: Offset, what: &str) {
        let to = to.max(from + 1);
        tracing::error!(tier = number, from, to, "delayed records are lost: {what}");
        self.steps.push(Step::Lost { tier: number, offsets: from..to });
        let reading = self.reading(number);
        reading.cursor = reading.cursor.max(to);
    }

    pub(super) fn reading(&mut self, number: u8) -> &mut Reading {
        let settled = self.journal.state().settled(number);
        self.readings.entry(number).or_insert_with(|| Reading::starting(settled))
    }
}
