//! Makes the state out of the entries of the journal.
//!
//! What it returns is complete or an error: entries that follow on something unreadable count for nothing until a
//! whole snapshot has been seen.

use super::entry::Entry;
use crate::groups::{error::JournalError, state::State};

/// A replay under way.
#[derive(Debug)]
pub(super) struct Replay {
    base: Base,
    snapshot: Option<Snapshot>,
}

/// What the entries are applied to.
#[derive(Debug)]
enum Base {
    Known(State),
    /// Something before is missing; says what.
    Lost(String),
}

/// A snapshot whose end has not been seen yet. The end may never come, so its entries also count as ordinary ones; they
/// repeat what holds anyway.
#[derive(Debug, Default)]
struct Snapshot {
    state: State,
    entries: u64,
}

impl Replay {
    /// Of a journal that is read from its very first entry.
    pub(super) fn from_the_beginning() -> Self {
        Self { base: Base::Known(State::default()), snapshot: None }
    }

    /// Of a journal whose first entries are not there; `what` says so to people.
    pub(super) fn from_the_middle(what: String) -> Self {
        Self { base: Base::Lost(what), snapshot: None }
    }

    /// Entries are missing here.
    pub(super) fn lose(&mut self, what: String) {
        self.snapshot = None;
        if let Base::Known(_) = self.base {
            self.base = Base::Lost(what);
        }
    }

    /// The next entry.
    pub(super) fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::SnapshotBegin => self.snapshot = Some(Snapshot::default()),
            Entry::SnapshotEnd { entries } => match self.snapshot.take() {
                Some(snapshot) if snapshot.entries == entries => self.base = Base::Known(snapshot.state),
                Some(snapshot) => self.lose(format!("a snapshot has {} of {entries} entries", snapshot.entries)),
                None => {} // Its beginning was lost; so is what it says.
            },
            Entry::Change(change) => {
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.state.apply(change.clone());
                    snapshot.entries += 1;
                }
                if let Base::Known(state) = &mut self.base {
                    state.apply(change);
                }
            }
        }
    }

    /// The state at the end.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if it cannot be told.
    pub(super) fn finish(self) -> Result<State, JournalError> {
        match self.base {
            Base::Known(state) => Ok(state),
            Base::Lost(what) => Err(JournalError::Damaged(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::state::tests::random_change;

    fn snapshot(state: &State) -> Vec<Entry> {
        let changes: Vec<_> = state.changes().map(Entry::Change).collect();
        let end = Entry::SnapshotEnd { entries: changes.len() as u64 };
        std::iter::once(Entry::SnapshotBegin).chain(changes).chain([end]).collect()
    }

    /// A history with snapshots in it, and where the last whole snapshot begins.
    fn history(random: &mut fastrand::Rng) -> (Vec<Entry>, State, Option<usize>) {
        let (mut entries, mut state, mut last_snapshot) = (Vec::new(), State::default(), None);
        for _ in 0..random.usize(1..80) {
            if random.u8(0..15) == 0 {
                last_snapshot = Some(entries.len());
                entries.extend(snapshot(&state));
            }
            let change = random_change(random);
            state.apply(change.clone());
            entries.push(Entry::Change(change));
        }
        (entries, state, last_snapshot)
    }

    #[test]
    fn replaying_a_history_gives_its_state() {
        for seed in 0..200 {
            let (entries, state, _) = history(&mut fastrand::Rng::with_seed(seed));
            let mut replay = Replay::from_the_beginning();
            entries.into_iter().for_each(|entry| replay.apply(entry));
            assert_eq!(replay.finish(), Ok(state), "seed {seed}");
        }
    }

    #[test]
    fn a_history_without_its_beginning_is_whole_exactly_if_a_snapshot_is_left() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (entries, state, last_snapshot) = history(&mut random);
            let cut = random.usize(1..=entries.len());
            let mut replay = Replay::from_the_middle("cut".to_owned());
            entries[cut..].iter().for_each(|entry| replay.apply(entry.clone()));
            let whole = last_snapshot.is_some_and(|begin| begin >= cut);
            assert_eq!(replay.finish().ok(), whole.then_some(state), "seed {seed}");
        }
    }

    #[test]
    fn damage_is_an_error_unless_a_snapshot_follows() {
        let mut state = State::default();
        (0..50).for_each(|seed| state.apply(random_change(&mut fastrand::Rng::with_seed(seed))));
        let mut replay = Replay::from_the_beginning();
        replay.lose("offsets 3 to 9".to_owned());
        state.changes().for_each(|change| replay.apply(Entry::Change(change)));
        for entry in snapshot(&state) {
            replay.apply(entry);
        }
        assert_eq!(replay.finish(), Ok(state));

        let mut replay = Replay::from_the_beginning();
        replay.lose("offsets 3 to 9".to_owned());
        assert_eq!(replay.finish(), Err(JournalError::Damaged("offsets 3 to 9".to_owned())));
    }

    #[test]
    fn a_snapshot_that_was_never_finished_changes_nothing() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (entries, mut state, _) = history(&mut random);
            let mut replay = Replay::from_the_beginning();
            entries.into_iter().for_each(|entry| replay.apply(entry));
            let begun = snapshot(&state);
            begun[..random.usize(..begun.len())].iter().for_each(|entry| replay.apply(entry.clone()));
            for _ in 0..5 {
                let change = random_change(&mut random);
                state.apply(change.clone());
                replay.apply(Entry::Change(change));
            }
            assert_eq!(replay.finish(), Ok(state), "seed {seed}");
        }
    }
}
