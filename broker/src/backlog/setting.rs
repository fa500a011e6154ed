//! The setting of a topic, and how it is kept among those of `topic.toml`. Pure.

use std::{collections::BTreeMap, time::Duration};

use crate::{error::TopicError, names};

/// Keys in `topic.toml`, table `settings`.
const MODE: &str = "backlog";
const GROUP: &str = "backlog_group";
const RECORDS: &str = "backlog_records";
const BYTES: &str = "backlog_bytes";
const AGE_MS: &str = "backlog_age_ms";

/// What happens to publishers while a group is too far behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backlog {
    pub(crate) mode: Mode,
    /// Need not exist.
    pub(crate) group: String,
    pub(crate) bounds: Bounds,
}

/// What is done to publishers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They wait.
    Hold,
    /// They are refused at once.
    Reject,
}

/// How far behind is too far: the first one reached counts. At least one is set, and none is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Unread records of all partitions.
    pub(crate) records: Option<u64>,
    /// Unread bytes of all partitions, as stored.
    pub(crate) bytes: Option<u64>,
    /// Of the oldest unread record, in whole milliseconds.
    pub(crate) age: Option<Duration>,
}

impl Backlog {
    /// Itself, if everything is within its bounds.
    ///
    /// # Errors
    /// [`TopicError::Config`] names the field.
    pub(crate) fn checked(self) -> Result<Self, TopicError> {
        let refused = |field, reason: String| Err(TopicError::Config { field, reason });
        if let Err(error) = names::check(&self.group) {
            return refused("backlog.group", error.to_string());
        }
        let Bounds { records, bytes, age } = self.bounds;
        if records.is_none() && bytes.is_none() && age.is_none() {
            let reason =
                "needs a bound: so many records, so many bytes, or so old (`max_records`, `max_bytes`, `max_ms`)";
            return refused("backlog", reason.to_owned());
        }
        let zero = [
            ("backlog.max_records", records == Some(0)),
            ("backlog.max_bytes", bytes == Some(0)),
            ("backlog.max_ms", age == Some(Duration::ZERO)),
        ];
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((field, _)) => refused(field, "must be at least 1; leave it out for no such bound".to_owned()),
            None => Ok(self),
        }
    }

    /// What is kept of it in `topic.toml`; `None`: no backlog.
    ///
    /// # Errors
    /// Which key makes no sense, for people.
    pub(crate) fn from_settings(settings: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let number = |key: &str| match settings.get(key) {
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| format!("`{key}` is {text:?}, which is no number")),
            None => Ok(None),
        };
        let mode = match settings.get(MODE).map(String::as_str) {
            None => return Ok(None),
            Some("hold") => Mode::Hold,
            Some("reject") => Mode::Reject,
            Some(other) => return Err(format!("`{MODE}` is {other:?}, which is none of hold and reject")),
        };
        let group = settings.get(GROUP).cloned().unwrap_or_default();
        let age = number(AGE_MS)?.map(Duration::from_millis);
        let backlog = Self { mode, group, bounds: Bounds { records: number(RECORDS)?, bytes: number(BYTES)?, age } };
        backlog.checked().map(Some).map_err(|error| error.to_string())
    }

    /// Replaces what `settings` say.
    pub(crate) fn store(backlog: Option<&Self>, settings: &mut BTreeMap<String, String>) {
        settings.retain(|key, _| ![MODE, GROUP, RECORDS, BYTES, AGE_MS].contains(&key.as_str()));
        let Some(Self { mode, group, bounds }) = backlog else { return };
        let mode = match mode {
            Mode::Hold => "hold",
            Mode::Reject => "reject",
        };
        settings.insert(MODE.to_owned(), mode.to_owned());
        settings.insert(GROUP.to_owned(), group.clone());
        let numbers = [
            (RECORDS, bounds.records.map(u128::from)),
            (BYTES, bounds.bytes.map(u128::from)),
            (AGE_MS, bounds.age.map(|age| age.as_millis())),
        ];
        settings.extend(numbers.into_iter().filter_map(|(key, number)| Some((key.to_owned(), number?.to_string()))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(bounds: Bounds) -> Backlog {
        Backlog { mode: Mode::Reject, group: "billing".to_owned(), bounds }
    }

    fn all() -> Bounds {
        Bounds { records: Some(u64::MAX), bytes: Some(7), age: Some(Duration::from_millis(u64::MAX)) }
    }

    #[test]
    fn what_is_stored_is_read_again_and_other_settings_stay() {
        let mut settings = BTreeMap::from([("cleanup".to_owned(), "compact".to_owned())]);
        for bounds in [all(), Bounds { records: Some(1), ..Bounds::default() }] {
            Backlog::store(Some(&backlog(bounds)), &mut settings);
            assert_eq!(Backlog::from_settings(&settings), Ok(Some(backlog(bounds))));
        }
        Backlog::store(None, &mut settings);
        assert_eq!(Backlog::from_settings(&settings), Ok(None));
        assert_eq!(settings.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let field = |backlog: Backlog| match backlog.checked() {
            Err(TopicError::Config { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(backlog(Bounds::default())), "backlog");
        assert_eq!(field(backlog(Bounds { records: Some(0), ..all() })), "backlog.max_records");
        assert_eq!(field(backlog(Bounds { bytes: Some(0), ..all() })), "backlog.max_bytes");
        assert_eq!(field(backlog(Bounds { age: Some(Duration::ZERO), ..all() })), "backlog.max_ms");
        for name in ["", "a b", "orders~billing", &"g".repeat(250)] {
            assert_eq!(field(Backlog { group: name.to_owned(), ..backlog(all()) }), "backlog.group");
        }
        let mut settings = BTreeMap::new();
        Backlog::store(Some(&backlog(all())), &mut settings);
        for (key, value) in [("backlog", "halt"), ("backlog_records", "-1"), ("backlog_group", "~")] {
            let mut edited = settings.clone();
            edited.insert(key.to_owned(), value.to_owned());
            assert!(Backlog::from_settings(&edited).is_err(), "{key} = {value}");
        }
    }
}
