//! The offsets of one key, as they were read of its partition: first those that are with a member, then those that wait for them.

use aqueduct_storage::Offset;
use smallvec::SmallVec;

/// How many of those that are gone from the front are kept before the others move up.
const TAKEN_MAX: u32 = 32;

/// See the [module](self). A few offsets need no memory of their own: with many keys, each of which has one or two records open,
/// finding that memory again is most of what a record costs.
#[derive(Debug, Default)]
pub(super) struct Line {
    all: SmallVec<[Offset; 3]>,
    /// How many at the front are gone.
    taken: u32,
    /// How many after those are open; what follows waits.
    open: u32,
}

impl Line {
    /// With a member; ascending.
    pub(super) fn open(&self) -> &[Offset] {
        &self.all[self.taken as usize..self.end_of_open()]
    }

    /// Passed over; ascending. Empty unless something is open.
    pub(super) fn waiting(&self) -> &[Offset] {
        &self.all[self.end_of_open()..]
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.taken as usize == self.all.len()
    }

    /// One more is open, while nothing waits.
    pub(super) fn push_open(&mut self, offset: Offset) {
        debug_assert!(self.waiting().is_empty(), "it would overtake what waits");
        self.all.push(offset);
        self.open += 1;
    }

    /// One more waits.
    pub(super) fn push_waiting(&mut self, offset: Offset) {
        let at = self.waiting().partition_point(|waiting| *waiting < offset);
        self.all.insert(self.end_of_open() + at, offset);
    }

    /// Takes one out, open or not, if it is there.
    pub(super) fn remove(&mut self, offset: Offset) {
        if self.open().first() == Some(&offset) {
            self.taken += 1;
            self.open -= 1;
            self.move_up();
        } else if let Some(at) = self.open().iter().chain(self.waiting()).position(|known| *known == offset) {
            self.all.remove(self.taken as usize + at);
            self.open -= u32::from(at < self.open as usize);
        }
    }

    /// From this one on, nothing is open any more; returns what was open behind it. `None` if it is not open itself.
    pub(super) fn take_back(&mut self, offset: Offset) -> Option<Vec<Offset>> {
        let at = self.open().binary_search(&offset).ok()?;
        let followers = self.open()[at + 1..].to_vec();
        self.open = u32::try_from(at).unwrap_or(u32::MAX);
        Some(followers)
    }

    /// Takes out what waits.
    pub(super) fn take_waiting(&mut self) -> Vec<Offset> {
        let waiting = self.waiting().to_vec();
        self.all.truncate(self.end_of_open());
        waiting
    }

    fn end_of_open(&self) -> usize {
        self.taken as usize + self.open as usize
    }

    fn move_up(&mut self) {
        let taken = self.taken as usize;
        if taken == self.all.len() || (self.taken >= TAKEN_MAX && 2 * taken >= self.all.len()) {
            self.all.drain(..taken);
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn a_line_agrees_with_two_queues() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut line, mut open, mut waiting) = (Line::default(), VecDeque::new(), VecDeque::new());
            for next in 0..300 {
                match random.u8(0..10) {
                    0..4 if waiting.is_empty() => {
                        line.push_open(next);
                        open.push_back(next);
                    }
                    0..4 => {
                        // Some come again out of order.
                        let offset = if random.bool() { next } else { 1000 - next };
                        line.push_waiting(offset);
                        waiting.insert(waiting.partition_point(|known| *known < offset), offset);
                    }
                    4..7 => line.remove(open.pop_front().unwrap_or(Offset::MAX)),
                    7 => {
                        let known: Vec<Offset> = open.iter().chain(&waiting).copied().collect();
                        let any = random.choice(&known).copied().unwrap_or(next);
                        line.remove(any);
                        open.retain(|known| *known != any);
                        waiting.retain(|known| *known != any);
                    }
                    8 => {
                        assert_eq!(line.take_back(Offset::MAX), None, "seed {seed}");
                        let Some(at) = random.choice(0..open.len()) else { continue };
                        let taken_back = open.split_off(at);
                        let followers: Vec<Offset> = taken_back.iter().skip(1).copied().collect();
                        assert_eq!(line.take_back(taken_back[0]), Some(followers), "seed {seed}");
                        taken_back.into_iter().rev().for_each(|offset| waiting.push_front(offset));
                    }
                    _ => assert_eq!(line.take_waiting(), Vec::from(std::mem::take(&mut waiting)), "seed {seed}"),
                }
                assert!(line.open().iter().eq(&open), "seed {seed}: {line:?}, not {open:?}");
                assert!(line.waiting().iter().eq(&waiting), "seed {seed}: {line:?}, not {waiting:?}");
                assert_eq!(line.is_empty(), open.is_empty() && waiting.is_empty(), "seed {seed}");
            }
        }
    }
}
