//! Dead letters: records that a group could not handle, in a topic of their own, with what is known of how they failed.
//!
//! The topic of a group's dead letters is named `<topic>~<group>~dlq`. A dead letter is the record as it was, with the
//! headers named here behind its own. They are text, so that any client and any eye can read them.

use std::{borrow::Cow, fmt::Write as _};

use bytes::Bytes;

use crate::{
    codec::RecordRef,
    record::{Event, Header, Record},
    types::{Offset, Timestamp},
};

const ORIGIN_TOPIC: &str = "aqueduct-origin-topic";
const ORIGIN_PARTITION: &str = "aqueduct-origin-partition";
const ORIGIN_OFFSET: &str = "aqueduct-origin-offset";
const GROUP: &str = "aqueduct-group";
const ATTEMPTS: &str = "aqueduct-attempts";
const REDRIVEN: &str = "aqueduct-redriven";
const FIRST_ERROR: &str = "aqueduct-first-error";
const LAST_ERROR: &str = "aqueduct-last-error";
const FIRST_FAILED_US: &str = "aqueduct-first-failed-us";
const LAST_FAILED_US: &str = "aqueduct-last-failed-us";
const TRIED: &str = "aqueduct-tried";
const DUE_US: &str = "aqueduct-due-us";

/// The topic that holds what `group` could not handle of `topic`.
pub fn dead_letter_topic(topic: &str, group: &str) -> String {
    format!("{topic}~{group}~dlq")
}

/// How a record became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Where it was published.
    pub topic: String,
    /// Its partition there.
    pub partition: u32,
    /// Its offset there.
    pub offset: Offset,
    /// Who could not handle it.
    pub group: String,
    /// How often it was tried, over all its redrives.
    pub attempts: u32,
    /// How often it was redriven before.
    pub redriven: u32,
    /// What the first attempt ended with; at most 256 bytes.
    pub first_error: String,
    /// What the last attempt ended with; at most 256 bytes.
    pub last_error: String,
    /// When the first attempt ended, by the broker's clock.
    pub first_failed: Timestamp,
    /// When the last attempt ended, by the broker's clock.
    pub last_failed: Timestamp,
}

impl Death {
    /// `record`, as a dead letter.
    #[must_use]
    pub fn mark(&self, record: Record) -> Record {
        self.mark_with(record, &[])
    }

    fn mark_with(&self, record: Record, more: &[Told<'_>]) -> Record {
        let (first_failed_us, last_failed_us) = (self.first_failed.as_micros(), self.last_failed.as_micros());
        let death: [Told<'_>; 10] = [
            (ORIGIN_TOPIC, &self.topic),
            (ORIGIN_PARTITION, &self.partition),
            (ORIGIN_OFFSET, &self.offset),
            (GROUP, &self.group),
            (ATTEMPTS, &self.attempts),
            (REDRIVEN, &self.redriven),
            (FIRST_ERROR, &self.first_error),
            (LAST_ERROR, &self.last_error),
            (FIRST_FAILED_US, &first_failed_us),
            (LAST_FAILED_US, &last_failed_us),
        ];
        tell(record, death.iter().chain(more))
    }

    /// This death and the `next` one of the same record, which was redriven in between, or had not failed before.
    #[must_use]
    pub fn again(self, next: Self) -> Self {
        if self.attempts == 0 {
            let Self { topic, partition, offset, redriven, .. } = self;
            return Self { topic, partition, offset, redriven, ..next };
        }
        Self {
            attempts: self.attempts.saturating_add(next.attempts),
            last_error: next.last_error,
            last_failed: next.last_failed,
            ..self
        }
    }
}

/// A record that a group could not handle.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Where it lies among the dead letters, and what was published: without the headers that tell its death.
    pub event: Event,
    /// How it came there.
    pub death: Death,
}

impl DeadLetter {
    /// Reads what its headers tell. `None` for an event that is not a dead letter.
    pub fn from_event(mut event: Event) -> Option<Self> {
        let told = told_of(&mut event)?;
        let text = |name: &str| text_of(&told, name);
        let death = Death {
            topic: text(ORIGIN_TOPIC)?.to_owned(),
            partition: text(ORIGIN_PARTITION)?.parse().ok()?,
            offset: text(ORIGIN_OFFSET)?.parse().ok()?,
            group: text(GROUP)?.to_owned(),
            attempts: text(ATTEMPTS)?.parse().ok()?,
            redriven: text(REDRIVEN)?.parse().ok()?,
            first_error: text(FIRST_ERROR)?.to_owned(),
            last_error: text(LAST_ERROR)?.to_owned(),
            first_failed: Timestamp::from_micros(text(FIRST_FAILED_US)?.parse().ok()?),
            last_failed: Timestamp::from_micros(text(LAST_FAILED_US)?.parse().ok()?),
        };
        Some(Self { event, death })
    }
}

/// A record on its way back to the group that could not handle it, without having been a dead letter since it was
/// published or last redriven. Groups whose records are settled each by itself keep such records in a log of their own,
/// with the headers of a dead letter and one more.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Where it lies among the group's retries, and what was published.
    pub event: Event,
    /// How it has failed so far.
    pub death: Death,
    /// How often it was tried since it was published or last redriven.
    pub tried: u32,
    /// Not before then. `None` for a record that came there when it was due, was redriven, or follows one that failed.
    pub due: Option<Timestamp>,
}

impl Retry {
    /// `record`, to be tried again.
    #[must_use]
    pub fn mark(record: Record, death: &Death, tried: u32) -> Record {
        death.mark_with(record, &[(TRIED, &tried)])
    }

    /// As [`mark`](Self::mark), for a record that waits among the retries until it is due.
    #[must_use]
    pub fn mark_due(record: Record, death: &Death, tried: u32, due: Timestamp) -> Record {
        death.mark_with(record, &[(TRIED, &tried), (DUE_US, &due.as_micros())])
    }

    /// Reads what its headers tell. A record that was redriven was not tried since. `None` for an event that has never
    /// failed.
    pub fn from_event(event: Event) -> Option<Self> {
        let headers = &event.record.headers;
        let begin = headers.iter().rposition(|header| header.name == ORIGIN_TOPIC)?;
        let tried = text_of(&headers[begin..], TRIED).and_then(|tried| tried.parse().ok()).unwrap_or(0);
        let due = text_of(&headers[begin..], DUE_US).and_then(|due| due.parse().ok()).map(Timestamp::from_micros);
        let DeadLetter { event, death } = DeadLetter::from_event(event)?;
        Some(Self { event, death, tried, due })
    }
}

/// What of a [`Retry`] decides when its turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPlace {
    /// The partition in which it was published.
    pub partition: u32,
    /// Its offset there.
    pub offset: Offset,
    /// When the first attempt ended, by the broker's clock.
    pub first_failed: Timestamp,
    /// When it is due, if it waits among the retries.
    pub due: Option<Timestamp>,
}

impl RetryPlace {
    /// Reads what the headers of a record tell, as [`Retry::from_event`] does, without a copy of anything.
    pub fn of(record: &RecordRef<'_>) -> Option<Self> {
        let (mut partition, mut offset, mut first_failed, mut due) = (None, None, None, None);
        for (name, value) in record.headers() {
            let number = || std::str::from_utf8(value).ok()?.parse::<i64>().ok();
            match name {
                // The last ones count.
                ORIGIN_TOPIC => (partition, offset, first_failed, due) = (None, None, None, None),
                ORIGIN_PARTITION => partition = number(),
                ORIGIN_OFFSET => offset = number(),
                FIRST_FAILED_US => first_failed = number(),
                DUE_US => due = number(),
                _ => {}
            }
        }
        Some(Self {
            partition: u32::try_from(partition?).ok()?,
            offset: Offset::try_from(offset?).ok()?,
            first_failed: Timestamp::from_micros(first_failed?),
            due: due.map(Timestamp::from_micros),
        })
    }
}

/// The name of a header, and its value.
type Told<'a> = (&'static str, &'a dyn std::fmt::Display);

/// `record` with these headers. Their values share one buffer.
fn tell<'a>(mut record: Record, told: impl Iterator<Item = &'a Told<'a>> + Clone) -> Record {
    let (mut text, mut ends) = (String::with_capacity(128), Vec::with_capacity(12));
    for (_, value) in told.clone() {
        // Writing into a `String` does not fail.
        let _ = write!(text, "{value}");
        ends.push(text.len());
    }
    let (mut text, mut begin) = (Bytes::from(text), 0);
    record.headers.reserve(ends.len());
    for ((name, _), end) in told.zip(ends) {
        record.headers.push(Header { name: Cow::Borrowed(name), value: text.split_to(end - begin) });
        begin = end;
    }
    record
}

/// Takes the headers out that tell how a record has failed. The last ones count: a dead letter may itself have been one
/// before.
fn told_of(event: &mut Event) -> Option<Vec<Header>> {
    let headers = &mut event.record.headers;
    let begin = headers.iter().rposition(|header| header.name == ORIGIN_TOPIC)?;
    Some(headers.split_off(begin))
}

fn text_of<'a>(told: &'a [Header], name: &str) -> Option<&'a str> {
    let header = told.iter().find(|header| header.name == name)?;
    std::str::from_utf8(&header.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death() -> Death {
        Death {
            topic: "orders".into(),
            partition: 3,
            offset: 1042,
            group: "billing".into(),
            attempts: 5,
            redriven: 1,
            first_error: "no route to bank".into(),
            last_error: "déjà vu".into(),
            first_failed: Timestamp::from_micros(1),
            last_failed: Timestamp::from_micros(-2),
        }
    }

    fn event(record: Record) -> Event {
        let topic = dead_letter_topic("orders", "billing").into();
        Event { topic, partition: 0, offset: 7, append_time: Timestamp::from_micros(9), record }
    }

    #[test]
    fn a_dead_letter_tells_what_was_published_and_how_it_failed() {
        let record = Record::new("payload").key("customer-7").header("traceparent", "00-1");
        let read = DeadLetter::from_event(event(death().mark(record.clone())));
        assert_eq!(read, Some(DeadLetter { event: event(record), death: death() }));
    }

    #[test]
    fn of_a_letter_that_has_died_twice_the_last_death_counts() {
        let first = Death { group: "audit".into(), ..death() };
        let twice = death().mark(first.mark(Record::new("payload")));
        let read = DeadLetter::from_event(event(twice)).expect("it is one");
        assert_eq!(read.death, death());
        assert_eq!(read.event.record, first.mark(Record::new("payload")));
    }

    #[test]
    fn a_record_in_retry_tells_how_often_it_was_tried_and_a_redriven_one_was_not() {
        let record = Record::new("payload").header("traceparent", "00-1");
        let read = Retry::from_event(event(Retry::mark(record.clone(), &death(), 3)));
        assert_eq!(read, Some(Retry { event: event(record.clone()), death: death(), tried: 3, due: None }));
        let due = Timestamp::from_micros(-7);
        let waits = Retry::from_event(event(Retry::mark_due(record.clone(), &death(), 3, due)));
        assert_eq!(waits.map(|waits| (waits.tried, waits.due)), Some((3, Some(due))));
        let redriven = Retry::from_event(event(death().mark(Retry::mark(record, &death(), 3)))).expect("it has failed");
        assert_eq!(redriven.tried, 0);
        assert_eq!(Retry::from_event(event(Record::new("payload"))), None);
    }

    #[test]
    fn what_has_only_waited_for_another_dies_for_the_first_time() {
        let waited = Death { attempts: 0, first_error: String::new(), ..death() };
        let next = Death { topic: "elsewhere".into(), partition: 9, offset: 5, attempts: 1, ..death() };
        assert_eq!(waited.again(next), Death { attempts: 1, ..death() });
    }

    #[test]
    fn other_events_are_no_dead_letters() {
        assert_eq!(DeadLetter::from_event(event(Record::new("payload"))), None);
        let mut cut = death().mark(Record::new("payload"));
        cut.headers.pop();
        assert_eq!(DeadLetter::from_event(event(cut)), None);
    }
}
