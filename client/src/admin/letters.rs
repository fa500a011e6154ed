//! The dead letters of a group, from outside.

use std::time::Duration;

use aqueduct_proto::v1;
use tokio::time::{Instant, sleep_until};

use crate::{
    client::Client,
    dead_letters::DeadLetter,
    error::{RequestError, SubscribeError},
    transport::link::Link,
    types::{Offset, Start, Timestamp},
};

/// Letters settled in one request.
const SETTLED_AT_ONCE: usize = 1000;

/// Which groups have dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettersInfo {
    /// Who could not handle them.
    pub group: String,
    /// Where they were published.
    pub topic: String,
    /// Where they lie, in partition 0.
    pub dead_letter_topic: String,
    /// How many are neither redriven nor discarded.
    pub count: u64,
    /// When the first of those was parked.
    pub oldest: Option<Timestamp>,
}

/// Which letters are meant. All conditions must hold; the default means all letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// The first or the last error contains this.
    pub error: Option<String>,
    /// The record's key is this.
    pub key: Option<Vec<u8>>,
    /// The last attempt failed at this time or later.
    pub since: Option<Timestamp>,
    /// The last attempt failed before this time.
    pub until: Option<Timestamp>,
}

impl LetterFilter {
    /// Whether `letter` is meant.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let DeadLetter { event, death } = letter;
        let says = |text: &String| death.first_error.contains(text) || death.last_error.contains(text);
        self.error.as_ref().is_none_or(says)
            && self.key.as_deref().is_none_or(|key| event.key() == Some(key))
            && self.since.is_none_or(|since| death.last_failed >= since)
            && self.until.is_none_or(|until| death.last_failed < until)
    }
}

/// The dead letters of one group on one topic.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    client: Client,
    link: Link,
    topic: String,
    group: String,
}

impl DeadLetters {
    pub(crate) fn new(client: Client, link: Link, topic: String, group: String) -> Self {
        Self { client, link, topic, group }
    }

    /// Those that are neither redriven nor discarded and that `filter` means, in the order in which they were parked, up
    /// to those that are there now; each goes to `see`.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn read(&self, filter: &LetterFilter, mut see: impl FnMut(DeadLetter)) -> Result<(), SubscribeError> {
        let Some(letters) = self.unsettled().await? else { return Ok(()) };
        let (Some(first), Some(last)) = (letters.unsettled.first(), letters.unsettled.last()) else { return Ok(()) };
        let start = Start::Offset(first.from);
        let subscription = self.client.subscribe(&letters.dead_letter_topic).partition_from(0, start).until_end();
        let mut events = subscription.build().await?;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                // What lies behind can still be read.
                Err(SubscribeError::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            if event.offset >= last.to {
                break;
            }
            let is_unsettled = letters.unsettled.iter().any(|range| (range.from..range.to).contains(&event.offset));
            if let Some(letter) = DeadLetter::from_event(event).filter(|_| is_unsettled)
                && filter.matches(&letter)
            {
                see(letter);
            }
        }
        Ok(())
    }

    /// Sends letters back to the group, and to no other: its members get them again, at most `per_second` of them.
    /// `offsets` are those of the letters. Returns how many went back.
    ///
    /// # Errors
    /// [`RequestError`]; those before are on their way.
    pub async fn redrive(&self, offsets: &[Offset], per_second: Option<u32>) -> Result<u64, RequestError> {
        let chunk = per_second.map_or(SETTLED_AT_ONCE, |rate| (rate as usize).clamp(1, SETTLED_AT_ONCE));
        let mut next = Instant::now();
        let mut redriven = 0;
        for offsets in offsets.chunks(chunk) {
            sleep_until(next).await;
            let request =
                v1::RedriveRequest { group: self.group.clone(), topic: self.topic.clone(), offsets: ranges(offsets) };
            let mut groups = self.link.groups();
            redriven += self.link.unary(async move { groups.redrive(request).await }).await?.redriven;
            if let Some(rate) = per_second {
                next += Duration::from_secs_f64(offsets.len() as f64 / f64::from(rate.max(1)));
            }
        }
        Ok(redriven)
    }

    /// Nobody wants these letters any more. Returns how many that were.
    ///
    /// # Errors
    /// [`RequestError`]; those before are discarded.
    pub async fn discard(&self, offsets: &[Offset]) -> Result<u64, RequestError> {
        let mut discarded = 0;
        for offsets in offsets.chunks(SETTLED_AT_ONCE) {
            let request =
                v1::DiscardRequest { group: self.group.clone(), topic: self.topic.clone(), offsets: ranges(offsets) };
            let mut groups = self.link.groups();
            discarded += self.link.unary(async move { groups.discard(request).await }).await?.discarded;
        }
        Ok(discarded)
    }

    async fn unsettled(&self) -> Result<Option<v1::DeadLetters>, RequestError> {
        Ok(list(&self.link, &self.group, &self.topic).await?.pop())
    }
}

pub(super) async fn list(link: &Link, group: &str, topic: &str) -> Result<Vec<v1::DeadLetters>, RequestError> {
    let ask = || {
        let mut groups = link.groups();
        let request = v1::ListDeadLettersRequest { group: group.to_owned(), topic: topic.to_owned() };
        async move { groups.list_dead_letters(request).await }
    };
    Ok(link.read(ask).await?.dead_letters)
}

pub(super) fn info(letters: v1::DeadLetters) -> DeadLettersInfo {
    DeadLettersInfo {
        count: letters.unsettled.iter().map(|range| range.to.saturating_sub(range.from)).sum(),
        oldest: Some(letters.oldest_us).filter(|time| *time != 0).map(Timestamp::from_micros),
        group: letters.group,
        topic: letters.topic,
        dead_letter_topic: letters.dead_letter_topic,
    }
}

/// Neighbours as one range each.
fn ranges(offsets: &[Offset]) -> Vec<v1::OffsetRange> {
    let mut ranges: Vec<v1::OffsetRange> = Vec::new();
    for &offset in offsets {
        match ranges.last_mut() {
            Some(last) if last.to == offset => last.to += 1,
            _ => ranges.push(v1::OffsetRange { from: offset, to: offset + 1 }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_travel_as_one_range() {
        let range = |from, to| v1::OffsetRange { from, to };
        assert_eq!(ranges(&[3, 4, 5, 7, 9, 10]), [range(3, 6), range(7, 8), range(9, 11)]);
        assert_eq!(ranges(&[]), []);
    }
}
