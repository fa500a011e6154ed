//! What a producer's handles, its request stream and its driver share.
//!
//! One short lock holds the [`Pipeline`]; packing, checksums and wake-ups happen outside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use parking_lot::Mutex;
use tokio::{
    sync::{AcquireError, Notify, Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{
    error::PublishError,
    lane::Settled,
    pipeline::{Intake, Pipeline},
    receipt::Hold,
    ticket::{BatchTicket, Completion, Outcome, Ticket, TopicRef},
};
use crate::{codec::encode, record::Record, types::Codec};

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Wakes the driver while no stream is open.
    pub(super) work: Notify,
    /// Wakes the driver while a stream is open, because it is not needed or of no use any more.
    pub(super) interrupt: Notify,
    /// Bytes of records that are neither stored nor given up.
    pub(super) budget: Semaphore,
    /// Callers that wait for the budget: meanwhile no batch lingers, for it could not fill.
    pub(super) short_of_room: AtomicUsize,
    pub(super) buffer_bytes_max: usize,
    pub(super) codec: Codec,
    pub(super) topic: Arc<TopicRef>,
    pub(super) counters: Counters,
}

pub(super) struct State {
    pub(super) pipeline: Pipeline,
    /// Of the request stream, while it has nothing to send.
    pub(super) waker: Option<Waker>,
    /// Counts streams: what is left of an older one sends nothing.
    pub(super) session: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) records_stored: AtomicU64,
    pub(super) batches_stored: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) records_failed: AtomicU64,
    pub(super) reconnects: AtomicU64,
}

/// One caller that waits for the budget.
struct ShortOfRoom<'a>(&'a AtomicUsize);

impl Drop for ShortOfRoom<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Waits for room in the budget. What has been admitted goes at once: nothing else makes room.
    pub(super) async fn room(&self, permits: u32) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.short_of_room.fetch_add(1, Ordering::Relaxed);
        let _waiting = ShortOfRoom(&self.short_of_room);
        // Under the lock: whoever admits a record later sees the count.
        drop(self.hurry());
        self.budget.acquire_many(permits).await
    }

    /// Adds one record whose bytes have been taken from the budget.
    ///
    /// # Errors
    /// The record, if the producer takes none any more; its bytes go back to the budget.
    pub(super) fn admit(&self, record: Record, length: Length) -> Result<Ticket, PublishError> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.pipeline.intake() == Intake::Draining {
            drop(state);
            self.budget.add_permits(length.framed);
            return Err(PublishError::closed(record));
        }
        let (completion, index) = state.pipeline.push(&record, length.record, now);
        if self.short_of_room.load(Ordering::Relaxed) > 0 {
            state.pipeline.stop_lingering();
        }
        let waker = if state.pipeline.take_wake(now) { Wake::take(&mut state) } else { Wake::Nobody };
        drop(state);
        self.wake(waker);
        Ok(Ticket::new(completion, index))
    }

    /// Adds as many of `records` as there is room for, under one lock; the rest stays.
    pub(super) fn admit_run(
        &self,
        records: &mut std::iter::Peekable<std::vec::IntoIter<Record>>,
        ticket: &mut BatchTicket,
    ) -> Result<(), PublishError> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.pipeline.intake() == Intake::Draining {
            return Err(PublishError::Closed { record: None });
        }
        let mut wake = false;
        while let Some(record) = records.peek() {
            let length = Length::of(record);
            let Ok(permit) = self.budget.try_acquire_many(length.permits()) else { break };
            permit.forget();
            let (completion, index) = state.pipeline.push(record, length.record, now);
            ticket.add(completion, index);
            if self.short_of_room.load(Ordering::Relaxed) > 0 {
                state.pipeline.stop_lingering();
            }
            wake |= state.pipeline.take_wake(now);
            records.next();
        }
        let waker = if wake { Wake::take(&mut state) } else { Wake::Nobody };
        drop(state);
        self.wake(waker);
        Ok(())
    }

    pub(super) fn hold(&self) -> Option<Hold> {
        self.state.lock().pipeline.hold().cloned()
    }

    /// Changes the pipeline, gives the ended batches their outcome, and wakes whoever may go on.
    pub(super) fn update(&self, change: impl FnOnce(&mut Pipeline, Instant, &mut Vec<Settled>)) {
        let mut settled = Vec::new();
        let (waker, interrupt) = {
            let mut state = self.state.lock();
            change(&mut state.pipeline, Instant::now(), &mut settled);
            let interrupt = state.pipeline.is_finished() || state.pipeline.needs_restart();
            (Wake::take(&mut state), interrupt)
        };
        self.settle(settled);
        if interrupt {
            self.interrupt.notify_one();
        }
        self.wake(waker);
    }

    /// The end of everything that has been admitted so far.
    pub(super) fn hurry(&self) -> Vec<Arc<Completion>> {
        let (completions, waker) = {
            let mut state = self.state.lock();
            (state.pipeline.hurry(), Wake::take(&mut state))
        };
        self.wake(waker);
        completions
    }

    fn settle(&self, settled: Vec<Settled>) {
        let counters = &self.counters;
        for Settled { completion, outcome, bytes, records } in settled {
            match &outcome {
                Outcome::Stored(ack) => {
                    counters.batches_stored.fetch_add(1, Ordering::Relaxed);
                    counters.records_stored.fetch_add(records.into(), Ordering::Relaxed);
                    if ack.duplicate {
                        counters.duplicates.fetch_add(records.into(), Ordering::Relaxed);
                    }
                }
                Outcome::Rejected { .. } | Outcome::Unknown { .. } => {
                    counters.records_failed.fetch_add(records.into(), Ordering::Relaxed);
                }
            }
            // Room first: whoever has a receipt finds the buffer without that record.
            self.budget.add_permits(bytes);
            completion.complete(outcome);
        }
    }

    fn wake(&self, wake: Wake) {
        match wake {
            Wake::Nobody => {}
            Wake::Requests(waker) => waker.wake(),
            Wake::Driver => self.work.notify_one(),
        }
    }
}

enum Wake {
    Nobody,
    Requests(Waker),
    Driver,
}

impl Wake {
    /// Without a request stream that waits, it is the driver's turn.
    fn take(state: &mut State) -> Self {
        state.waker.take().map_or(Self::Driver, Self::Requests)
    }
}

/// Encoded bytes of one record, computed once.
#[derive(Clone, Copy)]
pub(super) struct Length {
    /// Of the record itself.
    record: usize,
    /// With its frame in the batch: what it takes from the budget.
    pub(super) framed: usize,
}

impl Length {
    pub(super) fn of(record: &Record) -> Self {
        let record = encode::record_len(record);
        Self { record, framed: encode::framed_len(record) }
    }

    /// Saturates: no buffer holds 4 GiB, so such a record is refused anyway.
    pub(super) fn permits(self) -> u32 {
        u32::try_from(self.framed).unwrap_or(u32::MAX)
    }
}
