//! An event that waits for its verdict.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    inbox::HandedOut,
    settlements::Claim,
    shared::{Shared, Verdict},
};
use crate::{dead_letters::Death, error::AckError, record::Event, types::millis};

/// Longer texts are cut: they are stored with the record.
const ERROR_CHARS_MAX: usize = 256;

fn cut(error: impl fmt::Display) -> String {
    error.to_string().chars().take(ERROR_CHARS_MAX).collect()
}

/// An event of a group. It belongs to this member until it is acked, given back, or the group's ack time-out has passed.
///
/// Dropped without a word, by a panic too, it is given back at once, as with [`nack`](Self::nack).
#[must_use = "a delivery that is dropped is delivered again"]
pub struct Delivery {
    /// Boxed, because deliveries are handed on from task to task.
    handed_out: Box<HandedOut>,
    session: u64,
    /// `None` once settled.
    shared: Option<Arc<Shared>>,
}

impl Delivery {
    pub(super) fn new(handed_out: Box<HandedOut>, session: u64, shared: Arc<Shared>) -> Self {
        Self { handed_out, session, shared: Some(shared) }
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.handed_out.event
    }

    /// How it had failed before it was redriven; `None` for a record that was never a dead letter.
    pub fn redriven(&self) -> Option<&Death> {
        self.handed_out.death.as_deref()
    }

    /// 1 for the first delivery of this record, or the first since it was redriven.
    pub fn attempt(&self) -> u32 {
        self.handed_out.attempt
    }

    /// Of the assignment under which it was delivered.
    pub fn generation(&self) -> u64 {
        self.handed_out.claim.generation
    }

    /// The record is handled. Returns at once; acks travel together.
    pub fn ack(mut self) {
        self.settle(Verdict::Ack { done: None });
    }

    /// The record is handled; waits until that is on the broker's disk. Cancelled, the ack is still sent.
    ///
    /// # Errors
    /// [`AckError`]: it will be delivered again.
    pub async fn ack_durable(mut self) -> Result<(), AckError> {
        let (done, settled) = oneshot::channel();
        self.settle(Verdict::Ack { done: Some(done) });
        settled.await.unwrap_or(Err(AckError::SessionLost))
    }

    /// The record could not be handled: it is delivered again after the group's backoff, or parked once it has failed as
    /// often as the group allows.
    pub fn nack(mut self, error: impl fmt::Display) {
        self.refuse(None, cut(error));
    }

    /// The record could not be handled: it is delivered again, but not before `delay` has passed.
    pub fn nack_after(mut self, delay: Duration, error: impl fmt::Display) {
        self.refuse(Some(millis(delay)), cut(error));
    }

    /// The record will never be handled: it moves to the group's dead letters now, and nothing waits for it.
    pub fn park(mut self, reason: impl fmt::Display) {
        self.settle(Verdict::Park { reason: cut(reason), done: None });
    }

    /// As [`park`](Self::park); waits until the record is durable among the dead letters. Cancelled, it is still parked.
    ///
    /// # Errors
    /// [`AckError`]: it will be delivered again.
    pub async fn park_durable(mut self, reason: impl fmt::Display) -> Result<(), AckError> {
        let (done, settled) = oneshot::channel();
        self.settle(Verdict::Park { reason: cut(reason), done: Some(done) });
        settled.await.unwrap_or(Err(AckError::SessionLost))
    }

    /// Still working on it: the group's ack time-out begins again.
    pub fn extend(&self) {
        if let Some(shared) = &self.shared {
            shared.extend(self.session, self.handed_out.claim, self.handed_out.position);
        }
    }

    fn refuse(&mut self, delay_ms: Option<u32>, error: String) {
        let key = self.handed_out.event.record.key.clone();
        self.settle(Verdict::Nack { delay_ms, error, key });
    }

    /// Nobody has begun to work on it: no attempt is counted. See [`Shared::release_one`].
    pub(super) fn release(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.release_one(self.session, self.handed_out.claim, self.handed_out.position);
        }
    }

    /// By which it belongs to this member.
    pub(super) fn claim(&self) -> Claim {
        self.handed_out.claim
    }

    fn settle(&mut self, verdict: Verdict) {
        if let Some(shared) = self.shared.take() {
            shared.settle(self.session, self.handed_out.claim, self.handed_out.position, verdict);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.shared.is_some() {
            self.refuse(None, "dropped without an answer".into());
        }
    }
}

impl Deref for Delivery {
    type Target = Event;

    fn deref(&self) -> &Event {
        self.event()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("event", self.event())
            .field("attempt", &self.attempt())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}
