//! How far a subscription has got in each partition: what a reconnect resumes at. Pure.

use std::collections::BTreeMap;

use aqueduct_proto::v1;

use super::{Position, Window};
use crate::types::{Gap, GapReason, Offset, Start};

#[derive(Debug, Default)]
pub(super) struct Progress {
    tracks: BTreeMap<u32, Track>,
}

#[derive(Debug)]
struct Track {
    /// Everything below has been handed out, or is known to be gone.
    next: Offset,
    end: Option<Offset>,
    window: Window,
    state: TrackState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrackState {
    Live,
    /// Its end offset is reached.
    Ended,
    /// It cannot be read further.
    Failed,
}

/// What a batch means for the reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Offsets to be seen.
    pub(super) from: Offset,
    pub(super) until: Offset,
    /// Offsets that are missing before it, without the broker having said so.
    pub(super) gap: Option<Gap>,
}

impl Progress {
    /// The broker's answer to a new stream. A stream that resumes tells nothing new about positions.
    pub(super) fn started(&mut self, positions: &[v1::PartitionPosition]) {
        for position in positions {
            let window = Window { log_start: 0, high_watermark: position.offset };
            self.tracks.entry(position.partition).or_insert(Track {
                next: position.offset,
                end: position.end_offset,
                window,
                state: TrackState::Live,
            });
        }
        // An empty range may be reached before anything comes.
        for track in self.tracks.values_mut() {
            if track.end.is_some_and(|end| track.next >= end) {
                track.state = TrackState::Ended;
            }
        }
    }

    /// Where the next stream begins: exactly where this one stopped.
    pub(super) fn resume(&self) -> Vec<v1::PartitionStart> {
        let live = self.tracks.iter().filter(|(_, track)| track.state == TrackState::Live);
        live.map(|(partition, track)| v1::PartitionStart {
            partition: *partition,
            start: Some(Start::Offset(track.next).into()),
            end_offset: track.end,
        })
        .collect()
    }

    /// Takes a batch that covers `base..next`; `None`: nothing of it is to be seen.
    pub(super) fn accept(&mut self, partition: u32, base: Offset, next: Offset) -> Option<Accepted> {
        let track = self.tracks.get_mut(&partition).filter(|track| track.state == TrackState::Live)?;
        let until = track.end.map_or(next, |end| next.min(end));
        if until <= track.next {
            return None;
        }
        let gap = (base > track.next).then_some(Gap {
            partition,
            from: track.next,
            to: base,
            reason: GapReason::Unspecified,
        });
        let from = base.max(track.next);
        track.next = until;
        Some(Accepted { from, until, gap }).filter(|accepted| accepted.from < accepted.until)
    }

    pub(super) fn gap(&mut self, gap: &Gap) {
        if let Some(track) = self.tracks.get_mut(&gap.partition) {
            track.next = track.next.max(gap.to);
        }
    }

    pub(super) fn window(&mut self, partition: u32, window: Window) {
        if let Some(track) = self.tracks.get_mut(&partition) {
            // Errors and heartbeats may come without one; neither end ever goes back.
            track.window.log_start = track.window.log_start.max(window.log_start);
            track.window.high_watermark = track.window.high_watermark.max(window.high_watermark);
        }
    }

    pub(super) fn window_of(&self, partition: u32) -> Option<Window> {
        self.tracks.get(&partition).map(|track| track.window)
    }

    pub(super) fn ended(&mut self, partition: u32) {
        self.set(partition, TrackState::Ended);
    }

    pub(super) fn failed(&mut self, partition: u32) {
        self.set(partition, TrackState::Failed);
    }

    fn set(&mut self, partition: u32, state: TrackState) {
        if let Some(track) = self.tracks.get_mut(&partition) {
            track.state = state;
        }
    }

    /// No partition has anything more to give.
    pub(super) fn is_finished(&self) -> bool {
        !self.tracks.is_empty() && self.tracks.values().all(|track| track.state != TrackState::Live)
    }

    pub(super) fn positions(&self) -> Vec<Position> {
        let position = |(partition, track): (&u32, &Track)| Position {
            partition: *partition,
            offset: track.next,
            end_offset: track.end,
        };
        self.tracks.iter().map(position).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(offset: Offset, end_offset: Option<Offset>) -> Progress {
        let mut progress = Progress::default();
        progress.started(&[v1::PartitionPosition { partition: 3, offset, end_offset }]);
        progress
    }

    #[test]
    fn a_batch_that_begins_earlier_is_seen_from_the_wanted_offset() {
        let mut progress = started(42, None);
        assert_eq!(progress.accept(3, 40, 50), Some(Accepted { from: 42, until: 50, gap: None }));
        assert_eq!(progress.accept(3, 40, 50), None, "sent again");
        assert_eq!(progress.positions(), [Position { partition: 3, offset: 50, end_offset: None }]);
    }

    #[test]
    fn nothing_beyond_the_end_is_seen() {
        let mut progress = started(0, Some(5));
        assert_eq!(progress.accept(3, 0, 8), Some(Accepted { from: 0, until: 5, gap: None }));
        assert_eq!(progress.accept(3, 8, 9), None);
        progress.ended(3);
        assert!(progress.is_finished());
        assert!(started(5, Some(5)).is_finished());
    }

    #[test]
    fn a_resumed_stream_begins_where_the_last_one_stopped() {
        let mut progress = started(0, Some(90));
        progress.accept(3, 0, 10);
        progress.gap(&Gap { partition: 3, from: 10, to: 20, reason: GapReason::Retention });
        // A reconnect is answered with positions too; they change nothing.
        progress.started(&[v1::PartitionPosition { partition: 3, offset: 7, end_offset: None }]);
        let resume = progress.resume();
        assert_eq!((resume.len(), resume[0].end_offset), (1, Some(90)));
        assert_eq!(resume[0].start, Some(Start::Offset(20).into()));
    }

    #[test]
    fn missing_offsets_are_never_silent() {
        let mut progress = started(10, None);
        let accepted = progress.accept(3, 15, 20).expect("seen");
        let gap = Gap { partition: 3, from: 10, to: 15, reason: GapReason::Unspecified };
        assert_eq!(accepted, Accepted { from: 15, until: 20, gap: Some(gap) });
    }

    #[test]
    fn failed_and_unknown_partitions_are_left_out() {
        let mut progress = started(0, None);
        progress.failed(3);
        assert!(progress.is_finished() && progress.resume().is_empty());
        assert_eq!(progress.accept(3, 0, 1), None);
        assert_eq!(progress.accept(9, 0, 1), None);
    }
}
