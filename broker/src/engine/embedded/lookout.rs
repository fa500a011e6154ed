//! One task that looks out for its answer, and so keeps the runtime's thread awake while the disk works.
//!
//! A thread that sleeps until the disk is done is woken over another core: 30 to 40 µs on a virtual machine, which is a
//! quarter of what a lone publish takes. Others go on meanwhile: whoever looks out comes last in each round of the runtime,
//! and gives its core to the threads that want it, which without that took 13 % off 64 callers that publish one by one.

use std::time::Instant;

use tokio::sync::oneshot::{self, error::RecvError};

use super::{
    io_pool::AWAKE_MAX,
    sync::{AtomicBool, Ordering, elapsed, thread},
};

/// Who looks out: one of all partitions at a time, and only while the disk is that quick.
#[derive(Default)]
pub(super) struct Lookout {
    is_taken: AtomicBool,
    /// Whether the last answer came within [`AWAKE_MAX`].
    answers_come_soon: AtomicBool,
}

impl Lookout {
    /// Waits for the answer to a question that was asked at `asked`.
    ///
    /// # Errors
    /// If nobody is left who could answer.
    pub(super) async fn wait<T>(&self, asked: Instant, answer: oneshot::Receiver<T>) -> Result<T, RecvError> {
        if self.answers_come_soon.load(Ordering::Relaxed)
            && let Some(_post) = self.take()
        {
            while answer.is_empty() && elapsed(asked) < AWAKE_MAX {
                thread::yield_now();
                tokio::task::yield_now().await;
            }
        }
        let answered = answer.await;
        self.answers_come_soon.store(elapsed(asked) < AWAKE_MAX, Ordering::Relaxed);
        answered
    }

    fn take(&self) -> Option<Post<'_>> {
        (!self.is_taken.swap(true, Ordering::Relaxed)).then_some(Post(self))
    }
}

/// Left when it is dropped: whoever waits may be gone before there is an answer.
struct Post<'a>(&'a Lookout);

impl Drop for Post<'_> {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn answers_come_soon(lookout: &Lookout) -> bool {
        lookout.answers_come_soon.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn one_looks_out_the_others_sleep_and_who_leaves_makes_room() {
        let lookout = Lookout::default();
        lookout.answers_come_soon.store(true, Ordering::Relaxed);
        let (_asked, answer) = oneshot::channel::<()>();
        let mut first = Box::pin(lookout.wait(Instant::now(), answer));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(lookout.take().is_none(), "the first looks out");
        let (said, answer) = oneshot::channel();
        said.send(7).expect("it is listened to");
        assert_eq!(lookout.wait(Instant::now(), answer).await, Ok(7), "whoever finds it taken is answered as well");
        drop(first);
        assert!(lookout.take().is_some(), "the first is gone");
    }

    #[tokio::test]
    async fn nobody_looks_out_for_a_slow_disk() {
        let lookout = Lookout::default();
        let long_ago = Instant::now().checked_sub(2 * AWAKE_MAX).expect("the machine runs for longer");
        for (asked, soon) in [(Instant::now() + AWAKE_MAX, true), (long_ago, false)] {
            let (said, answer) = oneshot::channel();
            said.send(()).expect("it is listened to");
            lookout.wait(asked, answer).await.expect("it is answered");
            assert_eq!(answers_come_soon(&lookout), soon);
        }
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_an_error() {
        let lookout = Lookout::default();
        lookout.answers_come_soon.store(true, Ordering::Relaxed);
        let (asked, answer) = oneshot::channel::<()>();
        drop(asked);
        assert!(lookout.wait(Instant::now(), answer).await.is_err());
    }
}
