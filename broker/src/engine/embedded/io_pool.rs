//! A few threads that do the blocking writes and syncs of all partitions.
//!
//! A partition that has something to write takes one place in the queue, whatever it has to write; so the queue is
//! bounded by the number of partitions, an idle partition costs nothing, and none is starved by a busy one.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Work of one partition, to be done on a thread that may block.
pub(super) trait Turn: Send {
    /// Does one group of work; returns itself if there is more.
    fn run(self: Box<Self>) -> Option<Box<dyn Turn>>;
}

/// The threads. Dropping it finishes what is queued and joins them.
pub(super) struct IoPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Where turns are queued.
#[derive(Clone)]
pub(super) struct IoQueue(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// One for each thread.
    wake: Vec<Condvar>,
}

struct Queue {
    turns: VecDeque<Box<dyn Turn>>,
    /// Threads with nothing to do. The last to rest is the first to work: its stack and its core are still warm, which is
    /// worth some 10 µs of 210 to a lone publish.
    idle: Vec<usize>,
    stopping: bool,
}

impl IoPool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { turns: VecDeque::new(), idle: Vec::new(), stopping: false }),
            wake: (0..threads).map(|_| Condvar::new()).collect(),
        });
        let threads = (0..threads)
            .map(|i| {
                let shared = Arc::clone(&shared);
                thread::Builder::new().name(format!("aqueduct-io-{i}")).spawn(move || shared.work(i))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { shared, threads })
    }

    pub(super) fn queue(&self) -> IoQueue {
        IoQueue(Arc::clone(&self.shared))
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        self.shared.queue.lock().stopping = true;
        for wake in &self.shared.wake {
            wake.notify_one();
        }
        for thread in self.threads.drain(..) {
            // A worker survives panics of its turns, so there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

impl IoQueue {
    pub(super) fn push(&self, turn: Box<dyn Turn>) {
        self.0.push(turn);
    }
}

impl Shared {
    /// Queues a turn. Once the pool stops, a new one is dropped: nobody would come to run it.
    fn push(&self, turn: Box<dyn Turn>) {
        let queue = self.queue.lock();
        if queue.stopping {
            drop(queue);
            drop(turn);
            return;
        }
        self.add(queue, turn);
    }

    /// Queues a turn that has more to do, behind the others.
    fn push_back(&self, turn: Box<dyn Turn>) {
        self.add(self.queue.lock(), turn);
    }

    fn add(&self, mut queue: MutexGuard<'_, Queue>, turn: Box<dyn Turn>) {
        queue.turns.push_back(turn);
        let woken = queue.idle.pop();
        drop(queue);
        if let Some(thread) = woken {
            self.wake[thread].notify_one();
        }
    }

    fn work(&self, thread: usize) {
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
}
