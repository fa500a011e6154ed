//! Members that keep their partitions under a name: who has which name, and who is away until when.
//!
//! Pure. A name stands for one *place* in the roster of its group on its topic. Whoever joins under the name takes the seat:
//! at once while its holder is away; else its holder is to end, and the seat changes hands when it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{assignment::MemberId, coordinator::Consumption};

/// Nobody is waited for longer.
pub(crate) const KEEP_MAX: Duration = Duration::from_secs(10 * 60);
/// Members of all groups together that may be away; those beyond are not waited for.
const AWAY_MAX: usize = 1_000;

/// A name in a group on a topic.
pub(crate) type StaticName = (Consumption, String);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct StaticNames {
    entries: BTreeMap<StaticName, Entry>,
    /// Until when each that is away is waited for.
    away: BTreeSet<(Instant, StaticName)>,
}

#[derive(Debug)]
struct Entry {
    /// In the roster.
    holder: MemberId,
    /// Who joined last under the name. Not the holder: it waits for the holder to end.
    latest: MemberId,
    /// Set while the holder is away.
    until: Option<Instant>,
}

/// How a member that has just joined gets its seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seating {
    /// Nobody had the name.
    New,
    /// Its holder is away.
    TakenOver { from: MemberId },
    /// Somebody has the name: that member is to end, and the seat is free when its holder has.
    Waiting { ends: MemberId },
}

/// What becomes of a seat when a member goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vacancy {
    /// It was not its seat.
    None,
    /// The next one is waiting already.
    Successor(MemberId),
    /// It stays empty for a while.
    Away,
    /// Nobody is waited for.
    Free,
}

/// A member that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Absent<'a> {
    pub(crate) name: &'a StaticName,
    pub(crate) member: MemberId,
    pub(crate) until: Instant,
}

impl StaticNames {
    /// `member` has joined under `name`.
    pub(crate) fn join(&mut self, name: &StaticName, member: MemberId) -> Seating {
        let Some(seat) = self.entries.get_mut(name) else {
            self.entries.insert(name.clone(), Entry { holder: member, latest: member, until: None });
            return Seating::New;
        };
        let ends = std::mem::replace(&mut seat.latest, member);
        match seat.until.take() {
            Some(until) => {
                self.away.remove(&(until, name.clone()));
                Seating::TakenOver { from: std::mem::replace(&mut seat.holder, member) }
            }
            None => Seating::Waiting { ends },
        }
    }

    /// `member`, which had joined under `name`, has gone. It is waited for until `until`, if anybody is.
    pub(crate) fn gone(&mut self, name: &StaticName, member: MemberId, until: Option<Instant>) -> Vacancy {
        let Some(seat) = self.entries.get_mut(name) else { return Vacancy::None };
        if seat.holder != member {
            // It did not live to see its turn.
            if seat.latest == member {
                seat.latest = seat.holder;
            }
            return Vacancy::None;
        }
        if seat.latest != member {
            seat.holder = seat.latest;
            return Vacancy::Successor(seat.latest);
        }
        match until.filter(|_| self.away.len() < AWAY_MAX) {
            Some(until) => {
                seat.until = Some(until);
                self.away.insert((until, name.clone()));
                Vacancy::Away
            }
            None => {
                self.entries.remove(name);
                Vacancy::Free
            }
        }
    }

    /// When somebody may be due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.away.first().map(|(until, _)| *until)
    }

    /// Somebody whose time is over: not waited for any longer.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(StaticName, MemberId)> {
        let (_, name) = self.away.first().filter(|(until, _)| *until <= now)?.clone();
        self.away.pop_first();
        let seat = self.entries.remove(&name)?;
        Some((name, seat.holder))
    }

    /// Everybody who is away.
    pub(crate) fn away(&self) -> impl Iterator<Item = Absent<'_>> {
        self.away
            .iter()
            .filter_map(|(until, name)| Some(Absent { name, member: self.entries.get(name)?.holder, until: *until }))
    }

    /// Nobody is waited for where `over` says so.
    pub(crate) fn forget(&mut self, over: impl Fn(&Consumption) -> bool) {
        self.away.retain(|(_, (consumption, _))| !over(consumption));
        self.entries.retain(|(consumption, _), seat| seat.until.is_none() || !over(consumption));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(of: &str) -> StaticName {
        (("g".to_owned(), [0; 16]), of.to_owned())
    }

    #[test]
    fn a_member_that_comes_back_in_time_takes_over_and_one_that_does_not_is_let_go_once() {
        let (mut names, now) = (StaticNames::default(), Instant::now());
        let until = now + Duration::from_secs(30);
        assert_eq!(names.join(&name("a"), 1), Seating::New);
        assert_eq!(names.join(&name("b"), 2), Seating::New);
        assert_eq!(names.gone(&name("a"), 1, Some(until)), Vacancy::Away);
        assert_eq!((names.next_due(), names.away().count()), (Some(until), 1));
        assert_eq!(names.join(&name("a"), 3), Seating::TakenOver { from: 1 });
        assert_eq!((names.next_due(), names.take_due(until)), (None, None));

        assert_eq!(names.gone(&name("a"), 3, Some(until)), Vacancy::Away);
        assert_eq!(names.take_due(until - Duration::from_nanos(1)), None);
        assert_eq!(names.take_due(until), Some((name("a"), 3)));
        assert_eq!(names.take_due(until), None);
        assert_eq!(names.join(&name("a"), 4), Seating::New);
        assert_eq!(names.gone(&name("b"), 2, None), Vacancy::Free);
        assert_eq!(names.join(&name("b"), 5), Seating::New);
    }

    #[test]
    fn the_newest_of_one_name_gets_the_seat_when_its_holder_has_gone() {
        let (mut names, later) = (StaticNames::default(), Instant::now() + KEEP_MAX);
        let a = name("a");
        names.join(&a, 1);
        assert_eq!(names.join(&a, 2), Seating::Waiting { ends: 1 });
        assert_eq!(names.join(&a, 3), Seating::Waiting { ends: 2 });
        assert_eq!(names.gone(&a, 2, Some(later)), Vacancy::None, "it never had the seat");
        assert_eq!(names.gone(&a, 1, Some(later)), Vacancy::Successor(3));
        assert_eq!(names.gone(&a, 3, Some(later)), Vacancy::Away);

        assert_eq!(names.join(&a, 4), Seating::TakenOver { from: 3 });
        assert_eq!(names.join(&a, 5), Seating::Waiting { ends: 4 });
        assert_eq!(names.gone(&a, 5, Some(later)), Vacancy::None, "the newer one was the first to go");
        assert_eq!(names.gone(&a, 4, Some(later)), Vacancy::Away);
    }

    #[test]
    fn no_more_are_waited_for_than_the_bound() {
        let (mut names, later) = (StaticNames::default(), Instant::now() + KEEP_MAX);
        for number in 0..AWAY_MAX as u64 + 1 {
            let name = name(&number.to_string());
            names.join(&name, number);
            let expected = if number < AWAY_MAX as u64 { Vacancy::Away } else { Vacancy::Free };
            assert_eq!(names.gone(&name, number, Some(later)), expected);
        }
        names.forget(|(group, _)| group == "g");
        assert_eq!((names.away().count(), names.next_due()), (0, None));
        assert_eq!(names.join(&name("0"), 0), Seating::New);
    }
}
