//! Publishers that are held, or refused, while a group is too far behind in a topic.
//!
//! Each topic has a [`Gate`] through which everything that is published to it goes. It is the one owner of whether the
//! topic is held, by whom, since when and at what lag. Without a [`Backlog`] it costs one look at an atomic. With one, it
//! counts down the room that was left when the group's lag was last looked at, and only when that is used up does a
//! publisher wait for the next look: so nobody asks for positions request by request, and no more than one batch is stored
//! beyond a bound ([`meter`]). An age is reached a look's time late.
//!
//! Looking is the business of one [`watcher`] for each topic that has a backlog. It looks when a publisher needs to know,
//! when the group's positions have moved while it holds somebody, and when the oldest unread record reaches the bound. A
//! group that is made is seen within 50 ms.
//! After a start, publishers wait for the first look: a topic that was held is held again before it takes anything.
//!
//! Decisions are pure: [`decision`].

mod decision;
mod gate;
mod meter;
mod setting;
mod watcher;

use std::{fmt::Write as _, time::Duration};

pub(crate) use self::{
    decision::Lag,
    gate::{Entrant, Gate, Load, Passed},
    setting::{Backlog, Bounds, Mode},
    watcher::oversee,
};

/// The reason that goes with it, for programs.
pub(crate) const REASON: &str = "GROUP_BACKLOG";

/// When a held publisher should try again: groups catch up in seconds rather than milliseconds.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A group holds the publishers of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupHold {
    pub(crate) topic: String,
    pub(crate) backlog: Backlog,
    /// When it was last looked at.
    pub(crate) lag: Lag,
    pub(crate) since_us: i64,
}

impl GroupHold {
    /// For people: who, where, by how much, and how much is allowed.
    pub(crate) fn culprit(&self) -> String {
        let Backlog { group, bounds, .. } = &self.backlog;
        let mut measures = Vec::new();
        let mut add = |lag: String, bound: String| measures.push(format!("{lag} (bound {bound})"));
        if let Some(records) = bounds.records {
            add(format!("{} records", grouped(self.lag.records)), grouped(records));
        }
        if let Some(bytes) = bounds.bytes {
            add(format!("{} bytes", grouped(self.lag.bytes)), grouped(bytes));
        }
        if let Some(age) = bounds.age {
            add(format!("{:.1} s", self.lag.age.as_secs_f64()), format!("{:.1} s", age.as_secs_f64()));
        }
        format!("group {group:?}, which is behind in topic {:?} by {}", self.topic, measures.join(" and "))
    }
}

/// `1,200,000`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        let comma = if i > 0 && (digits.len() - i).is_multiple_of(3) { "," } else { "" };
        // Writing into a string does not fail.
        let _ = write!(text, "{comma}{digit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_culprit_is_told_with_every_measure_that_is_bounded() {
        let hold = GroupHold {
            topic: "orders".to_owned(),
            backlog: Backlog {
                mode: Mode::Hold,
                group: "billing".to_owned(),
                bounds: Bounds { records: Some(1_000_000), bytes: None, age: Some(Duration::from_secs(60)) },
            },
            lag: Lag { records: 1_200_000, bytes: 5, age: Duration::from_millis(75_250) },
            since_us: 0,
        };
        let text = "group \"billing\", which is behind in topic \"orders\" by 1,200,000 records (bound 1,000,000) and 75.2 s \
                    (bound 60.0 s)";
        assert_eq!(hold.culprit(), text);
        assert_eq!([0, 7, 999, 1000, 12_345].map(grouped), ["0", "7", "999", "1,000", "12,345"]);
    }
}
