//! A few threads that do the blocking writes and syncs of all partitions.
//!
//! A partition that has something to write takes one place in the queue, whatever it has to write; so the queue is
//! bounded by the number of partitions, an idle partition costs nothing, and none is starved by a busy one.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    lookout::Lookout,
    sync::{
        AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, elapsed,
        thread::{self, JoinHandle},
    },
};

/// How long a thread with nothing to do stays awake, giving its core to whoever wants it, if the last turn came that soon.
/// To wake one that sleeps takes an interrupt of another core: on a virtual machine 15 µs of its waker and 30 to 40 until it
/// runs. Staying awake took a lone publish from 310 µs to 210, and the median from end to end at 5,000/s from 500 to 350.
/// A caller that publishes one record after the other comes back in less than this.
pub(super) const AWAKE_MAX: Duration = Duration::from_micros(200);

/// No thread of the pool has this number.
const NOBODY: usize = usize::MAX;

/// Work of one partition, to be done on a thread that may block.
pub(super) trait Turn: Send {
    /// Does one group of work; returns itself if there is more.
    fn run(self: Box<Self>) -> Option<Box<dyn Turn>>;
}

/// The threads. Dropping it finishes what is queued and joins them.
pub(super) struct IoPool {
    shared: Arc<Shared>,
}

/// Where turns are queued.
#[derive(Clone)]
pub(super) struct IoQueue(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// One for each thread.
    wake: Vec<Condvar>,
    /// The one thread that has nothing to do and has not gone to sleep, until it is called. It changes under the queue's lock;
    /// the thread itself looks at it without.
    awake: AtomicUsize,
    lookout: Lookout,
}

struct Queue {
    turns: VecDeque<Box<dyn Turn>>,
    /// Threads with nothing to do. The last to rest is the first to work: its stack and its core are still warm, which is
    /// worth some 10 µs of 210 to a lone publish.
    idle: Vec<usize>,
    /// Since when the last thread to run out of turns has had none.
    dry_since: Instant,
    /// Whether the last turn came within [`AWAKE_MAX`] of that. A broker with little to do sleeps.
    turns_come_soon: bool,
    /// Those that were needed so far: a broker with little to do has few of them.
    threads: Vec<JoinHandle<()>>,
    threads_max: usize,
    stopping: bool,
}

impl IoPool {
    /// Starts one thread, and up to `threads_max` when they are needed.
    ///
    /// # Errors
    /// If the system refuses the first thread.
    pub(super) fn start(threads_max: usize) -> io::Result<Self> {
        let queue = Queue {
            turns: VecDeque::new(),
            idle: Vec::new(),
            dry_since: Instant::now(),
            turns_come_soon: false,
            threads: Vec::new(),
            threads_max,
            stopping: false,
        };
        let wake = (0..threads_max).map(|_| Condvar::new()).collect();
        let (queue, awake) = (Mutex::new(queue), AtomicUsize::new(NOBODY));
        let shared = Arc::new(Shared { queue, wake, awake, lookout: Lookout::default() });
        shared.start_thread(&mut shared.queue.lock())?;
        Ok(Self { shared })
    }

    pub(super) fn queue(&self) -> IoQueue {
        IoQueue(Arc::clone(&self.shared))
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        let threads = {
            let mut queue = self.shared.queue.lock();
            queue.stopping = true;
            self.shared.awake.store(NOBODY, Ordering::Relaxed);
            std::mem::take(&mut queue.threads)
        };
        for wake in &self.shared.wake {
            wake.notify_one();
        }
        for thread in threads {
            // A worker survives panics of its turns, so there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

impl IoQueue {
    pub(super) fn push(&self, turn: Box<dyn Turn>) {
        self.0.push(turn);
    }

    /// For those who wait for what these threads do.
    pub(super) fn lookout(&self) -> &Lookout {
        &self.0.lookout
    }
}

impl Shared {
    /// Queues a turn. Once the pool stops, a new one is dropped: nobody would come to run it.
    fn push(self: &Arc<Self>, turn: Box<dyn Turn>) {
        let queue = self.queue.lock();
        if queue.stopping {
            drop(queue);
            drop(turn);
            return;
        }
        self.add(queue, turn);
    }

    /// Queues a turn that has more to do, behind the others.
    fn push_back(self: &Arc<Self>, turn: Box<dyn Turn>) {
        self.add(self.queue.lock(), turn);
    }

    fn add(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, turn: Box<dyn Turn>) {
        queue.turns.push_back(turn);
        queue.turns_come_soon = elapsed(queue.dry_since) < AWAKE_MAX;
        if self.awake.swap(NOBODY, Ordering::Relaxed) != NOBODY {
            // Called: it looks into the queue before it does anything else.
            return;
        }
        let woken = queue.idle.pop();
        if woken.is_none()
            && queue.threads.len() < queue.threads_max
            && !queue.stopping
            && let Err(error) = self.start_thread(&mut queue)
        {
            // One more would only be faster: those that there are do the work.
            queue.threads_max = queue.threads.len();
            tracing::warn!(threads = queue.threads_max, "no more threads that write can be started: {error}");
        }
        drop(queue);
        if let Some(thread) = woken {
            self.wake[thread].notify_one();
        }
    }

    fn start_thread(self: &Arc<Self>, queue: &mut Queue) -> io::Result<()> {
        let (shared, number) = (Arc::clone(self), queue.threads.len());
        let thread = thread::Builder::new().name(format!("aqueduct-io-{number}"));
        queue.threads.push(thread.spawn(move || shared.work(number))?);
        Ok(())
    }

    fn work(self: &Arc<Self>, thread: usize) {
        while let Some(turn) = self.next(thread) {
            let mut turn = Some(turn);
            while let Some(current) = turn.take() {
                // A panic drops the partition's writer, whose waiters then learn that the outcome is unknown; the
                // other partitions go on.
                let more = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| current.run())).unwrap_or(None);
                match more {
                    Some(more) if self.others_wait() => self.push_back(more),
                    more => turn = more,
                }
            }
        }
    }

    fn others_wait(&self) -> bool {
        !self.queue.lock().turns.is_empty()
    }

    /// The next turn; `None` once the pool stops and nothing is left.
    fn next(&self, thread: usize) -> Option<Box<dyn Turn>> {
        let mut queue = self.queue.lock();
        if queue.turns.is_empty() && !queue.stopping {
            let since = Instant::now();
            queue.dry_since = since;
            if queue.turns_come_soon && self.awake.load(Ordering::Relaxed) == NOBODY {
                self.awake.store(thread, Ordering::Relaxed);
                drop(queue);
                queue = self.stay_awake(thread, since);
            }
        }
        loop {
            if let Some(turn) = queue.turns.pop_front() {
                return Some(turn);
            }
            if queue.stopping {
                return None;
            }
            queue.idle.push(thread);
            self.wake[thread].wait(&mut queue);
            // Woken by the end of the pool, or by nothing, it is still among them.
            queue.idle.retain(|idle| *idle != thread);
        }
    }

    /// Until somebody calls, or for [`AWAKE_MAX`].
    fn stay_awake(&self, thread: usize, since: Instant) -> MutexGuard<'_, Queue> {
        let is_awake = || self.awake.load(Ordering::Relaxed) == thread;
        while is_awake() && elapsed(since) < AWAKE_MAX {
            thread::yield_now();
        }
        let queue = self.queue.lock();
        if is_awake() {
            self.awake.store(NOBODY, Ordering::Relaxed);
        }
        queue
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    /// Waits for the others, and says so.
    struct Meets(Arc<Barrier>, mpsc::Sender<()>);

    impl Turn for Meets {
        fn run(self: Box<Self>) -> Option<Box<dyn Turn>> {
            self.0.wait();
            self.1.send(()).expect("the test listens");
            None
        }
    }

    fn meet(pool: &IoPool, turns: usize) {
        let (barrier, (said, heard)) = (Arc::new(Barrier::new(turns)), mpsc::channel());
        for _ in 0..turns {
            pool.queue().push(Box::new(Meets(Arc::clone(&barrier), said.clone())));
        }
        drop(said);
        assert_eq!(heard.iter().count(), turns);
    }

    #[test]
    fn threads_are_started_for_turns_that_run_at_once_and_serve_the_next_ones() {
        let pool = IoPool::start(4).expect("threads");
        assert_eq!(pool.shared.queue.lock().threads.len(), 1);
        meet(&pool, 4);
        assert_eq!(pool.shared.queue.lock().threads.len(), 4);
        for _ in 0..100 {
            meet(&pool, 4);
        }
        assert_eq!(pool.shared.queue.lock().threads.len(), 4, "no more than that");
    }

    #[test]
    fn what_is_queued_when_the_pool_ends_is_done() {
        let pool = IoPool::start(2).expect("threads");
        let (said, heard) = mpsc::channel();
        for _ in 0..100 {
            pool.queue().push(Box::new(Meets(Arc::new(Barrier::new(1)), said.clone())));
        }
        drop((pool, said));
        assert_eq!(heard.iter().count(), 100);
    }
}
