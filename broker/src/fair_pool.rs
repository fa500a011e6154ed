//! Memory that many share, none of whom is known: a bound for all, and fair shares of it.
//!
//! Every holder may have as much as is left for everybody else ("dynamic thresholds", Choudhury and Hahne, 1998): alone
//! it gets half of the pool, one of n that want all they can get the (n + 1)th part, and as much is always left for the
//! next. So nobody can starve the others, whatever it does and however long it holds what it has, and nothing has to be
//! set for each.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What a holder that has nothing gets in any case, in bytes: with it everybody makes progress, slowly.
pub(crate) const SHARE_BYTES_MIN: u64 = 64 << 10;

/// What a holder that has nothing gets although it is more than its due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtLeast {
    /// [`SHARE_BYTES_MIN`].
    Little,
    /// What it needs: it cannot be had in smaller pieces.
    OneWhole,
}

/// A number of bytes for all.
#[derive(Debug)]
pub(crate) struct Pool {
    bytes_max: u64,
    used: Mutex<u64>,
    freed: Notify,
}

/// One holder's part in a [`Pool`].
#[derive(Debug)]
pub(crate) struct Share {
    pool: Arc<Pool>,
    /// Changed under the lock of the pool.
    used: Mutex<u64>,
    freed: Notify,
}

/// Bytes of a [`Share`]; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    share: Arc<Share>,
    bytes: u64,
}

impl Pool {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, used: Mutex::new(0), freed: Notify::new() })
    }

    /// A part for another holder.
    pub(crate) fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share { pool: Arc::clone(self), used: Mutex::new(0), freed: Notify::new() })
    }
}

impl Share {
    /// Between `least` and `most` bytes, as many as are this holder's due; `None` while those are fewer than `least`.
    pub(crate) fn try_take(self: &Arc<Self>, least: u64, most: u64, at_least: AtLeast) -> Option<Grant> {
        let mut pool_used = self.pool.used.lock();
        let mut used = self.used.lock();
        let due = self.pool.bytes_max.saturating_sub(*pool_used).saturating_sub(*used);
        let without_anything = match at_least {
            AtLeast::Little => SHARE_BYTES_MIN,
            AtLeast::OneWhole => least,
        };
        let due = if *used == 0 { due.max(without_anything) } else { due };
        if due < least {
            return None;
        }
        let bytes = due.min(most);
        *pool_used += bytes;
        *used += bytes;
        Some(Grant { share: Arc::clone(self), bytes })
    }

    /// As [`Self::try_take`], once there is so much. Cancel-safe.
    ///
    /// Bytes that come back wake one of those who wait in the same share, and one of all. Whoever is woken and finds
    /// enough wakes the next of its share. So a thousand who wait cost those who do not next to nothing; and nobody waits
    /// in vain, because who waits has something that will come back, or else gets what it needs at once.
    pub(crate) async fn take(self: &Arc<Self>, least: u64, most: u64, at_least: AtLeast) -> Grant {
        loop {
            let mut freed_here = std::pin::pin!(self.freed.notified());
            let mut freed_anywhere = std::pin::pin!(self.pool.freed.notified());
            freed_here.as_mut().enable();
            freed_anywhere.as_mut().enable();
            if let Some(grant) = self.try_take(least, most, at_least) {
                self.freed.notify_one();
                return grant;
            }
            tokio::select! {
                () = freed_here => {}
                () = freed_anywhere => {}
            }
        }
    }
}

impl Grant {
    /// How many bytes it is for.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it one for `bytes`. More than it was are taken whether there are so many or not: they are in memory already.
    pub(crate) fn resize(&mut self, bytes: u64) {
        let share = &self.share;
        let mut pool_used = share.pool.used.lock();
        let mut used = share.used.lock();
        *pool_used = *pool_used - self.bytes + bytes;
        *used = *used - self.bytes + bytes;
        drop((used, pool_used));
        if std::mem::replace(&mut self.bytes, bytes) > bytes {
            share.freed.notify_one();
            share.pool.freed.notify_one();
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// As much as it can get.
    fn all(share: &Arc<Share>) -> Vec<Grant> {
        std::iter::from_fn(|| share.try_take(1, 4096, AtLeast::Little)).collect()
    }

    fn total(grants: &[Grant]) -> u64 {
        grants.iter().map(Grant::bytes).sum()
    }

    #[test]
    fn one_alone_gets_half_and_leaves_half() {
        let pool = Pool::new(64 * MIB);
        let greedy = all(&pool.share());
        assert_eq!(total(&greedy), 32 * MIB);
        assert!(pool.share().try_take(16 * MIB, 16 * MIB, AtLeast::Little).is_some());
    }

    #[test]
    fn any_number_of_the_greedy_leave_something_for_the_next_and_keep_to_the_bound() {
        let pool = Pool::new(64 * MIB);
        let mut held = Vec::new();
        for _ in 0..100 {
            held.extend(all(&pool.share()));
            assert!(pool.share().try_take(1, SHARE_BYTES_MIN, AtLeast::Little).is_some());
        }
        assert!(total(&held) <= 64 * MIB + 100 * SHARE_BYTES_MIN);
    }

    #[test]
    fn what_is_given_back_wakes_those_who_wait() {
        let pool = Pool::new(4 * MIB);
        let share = pool.share();
        let mut held = all(&share);
        let mut waiting = std::pin::pin!(share.take(MIB, MIB, AtLeast::Little));
        assert!(waiting.as_mut().now_or_never().is_none());
        held.truncate(held.len() / 4);
        assert_eq!(waiting.as_mut().now_or_never().expect("there is room").bytes(), MIB);
    }

    #[test]
    fn a_grant_that_turns_out_too_small_overdraws_and_pays_back() {
        let pool = Pool::new(4 * MIB);
        let share = pool.share();
        let mut grant = share.try_take(1, 1024, AtLeast::Little).unwrap();
        grant.resize(10 * MIB);
        assert!(share.try_take(1, 1, AtLeast::Little).is_none());
        drop(grant);
        assert_eq!(share.try_take(1, 4 * MIB, AtLeast::Little).unwrap().bytes(), 4 * MIB);
    }

    #[test]
    fn who_has_nothing_gets_one_whole_of_what_it_needs() {
        let pool = Pool::new(4 * MIB);
        let _greedy: Vec<_> = (0..50).flat_map(|_| all(&pool.share())).collect();
        let share = pool.share();
        let whole = share.try_take(2 * MIB, 2 * MIB, AtLeast::OneWhole).unwrap();
        assert!(share.try_take(1, 1, AtLeast::OneWhole).is_none());
        assert!(pool.share().try_take(2 * MIB, 2 * MIB, AtLeast::Little).is_none());
        drop(whole);
    }

    #[test]
    fn one_that_comes_back_wakes_all_whom_it_suffices() {
        let pool = Pool::new(4 * MIB);
        let share = pool.share();
        let held = all(&share);
        let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(share.take(1024, 1024, AtLeast::Little))).collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        drop(held);
        let granted: Vec<_> = waiting.into_iter().map(|one| one.now_or_never().expect("there is room")).collect();
        assert_eq!(total(&granted), 10 * 1024);
    }
}
