//! Holds completions back until they are due.
//!
//! A request is carried out at once; only its completion waits, here and not on a worker. So as
//! many requests are delayed beside each other as the ring holds, however few workers there are.
//! What waits is still in flight: a drain waits for it, for at most the latency.
//!
//! Completions leave in the order in which they are due, on a thread of their own.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::latency::Latency;
use crate::block::request::Completion;
use crate::block::source::{Pulled, RequestSource};
use crate::thread;
use crate::trace::{Point, Queue};

/// A source behind a delay, and the thread that ends it.
pub(super) struct Delay {
    held: Arc<Held>,
    /// None after the stop.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The source with the delay.
struct Held {
    /// The disk's, for log lines.
    name: String,
    trace: Queue,
    source: Arc<dyn RequestSource>,
    latency: Latency,
    seed: u64,
    state: Mutex<State>,
    /// Something is due earlier than anything before, or it is time to stop.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When the requests that are with the engine are due, by their number.
    started: HashMap<u64, Instant>,
    /// What waits, the earliest on top.
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// Nothing is held back any more.
    stopped: bool,
}

/// A completion that waits, ordered by when it is due.
#[derive(PartialEq, Eq)]
struct Waiting {
    due: Instant,
    completion: Completion,
}

impl Delay {
    /// A delay before `source`, with a thread called `{name}-delay`.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub(super) fn new(
        name: &str,
        source: Arc<dyn RequestSource>,
        latency: Latency,
        seed: u64,
    ) -> io::Result<Self> {
        let held = Arc::new(Held {
            name: name.to_owned(),
            trace: Queue::labelled(name),
            source,
            latency,
            seed,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let body = Arc::clone(&held);
        let thread = thread::spawn(format!("{name}-delay"), move || body.release_as_due())?;
        Ok(Delay {
            held,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What engines pull from.
    pub(super) fn source(&self) -> Arc<dyn RequestSource> {
        self.held.clone()
    }

    /// Lets go of everything at once, in order, and ends the thread. Idempotent.
    pub(super) fn stop(&self) {
        self.held.lock().stopped = true;
        self.held.changed.notify_all();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            log::error!("{}: the delay's thread panicked", self.held.name);
        }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of the delay's thread.
    fn release_as_due(&self) {
        thread::wake_on_time();
        let mut state = self.lock();
        loop {
            let next = state.waiting.peek().map(|Reverse(next)| next.due);
            let left = next.map(|due| due.saturating_duration_since(Instant::now()));
            state = match left {
                None if state.stopped => return,
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) if !left.is_zero() && !state.stopped => {
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => self.release_next(state),
            }
        }
    }

    /// Lets go of what is due first, without the lock.
    fn release_next<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let next = state.waiting.pop();
        drop(state);
        if let Some(Reverse(Waiting { completion, .. })) = next {
            log::debug!("{} #{} was delayed", self.name, completion.id);
            self.trace.event(Point::Released, completion.tag, 0, 0);
            self.source.complete(completion);
        }
        self.lock()
    }
}

impl RequestSource for Held {
    fn next(&self) -> Option<Pulled> {
        let pulled = self.source.next()?;
        let id = pulled.request.id;
        let due = Instant::now() + self.latency.of(self.seed, id);
        self.lock().started.insert(id, due);
        Some(pulled)
    }

    fn complete(&self, completion: Completion) {
        let mut state = self.lock();
        // Each was given out by `next`; anything else would be due now.
        let due = state.started.remove(&completion.id);
        let due = due.unwrap_or_else(Instant::now);
        if state.stopped {
            drop(state);
            return self.source.complete(completion);
        }
        let first = state.waiting.peek().map(|Reverse(first)| first.due);
        state.waiting.push(Reverse(Waiting { due, completion }));
        if first.is_none_or(|first| due < first) {
            self.changed.notify_one();
        }
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        // The number decides between those that are due together.
        (self.due, self.completion.id).cmp(&(other.due, other.completion.id))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
