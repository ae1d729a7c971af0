//! Lets no more requests through than a rate allows, and no more bytes.
//!
//! What may not begin yet is not pulled: it stays in the ring, the driver's, and a reset need not
//! wait for it. When the next request may begin, a thread says so to whoever pulls.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::rate::{Bucket, Rate};
use crate::block::request::{Completion, Request};
use crate::block::source::{Pulled, RequestSource, Step, StepSource};
use crate::doorbell::Doorbell;
use crate::lines::Lines;
use crate::thread;

/// How much a disk may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests, of any kind.
    pub requests: Option<Rate>,
    /// Bytes that are read and written.
    pub bytes: Option<Rate>,
}

impl Limits {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        self.requests.is_none() && self.bytes.is_none()
    }
}

/// A source with limits, and the thread that ends its pauses.
pub(super) struct Limit {
    limited: Arc<Limited>,
    thread: Option<JoinHandle<()>>,
}

/// The source with the limits.
struct Limited {
    source: Arc<dyn StepSource>,
    /// The disk's: those of all its queues.
    buckets: Arc<Mutex<Buckets>>,
    state: Mutex<State>,
    /// There is a pause, or it is time to stop.
    changed: Condvar,
}

/// What a disk may still do.
pub(super) struct Buckets {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

#[derive(Default)]
struct State {
    /// Somebody was sent away, and is to be told then.
    pause_until: Option<Instant>,
    stopped: bool,
}

impl Limit {
    /// Limits `source` to what is in `buckets`. A thread called `{name}-limit` rings `doorbell` when a
    /// pause has ended.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub(super) fn new(
        name: &str,
        source: Arc<dyn StepSource>,
        buckets: Arc<Mutex<Buckets>>,
        doorbell: &Doorbell,
    ) -> io::Result<Self> {
        let limited = Arc::new(Limited {
            source,
            buckets,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (body, doorbell) = (Arc::clone(&limited), doorbell.clone());
        let thread = thread::spawn(format!("{name}-limit"), move || body.end_pauses(&doorbell))?;
        Ok(Limit {
            limited,
            thread: Some(thread),
        })
    }

    /// What engines pull from.
    pub(super) fn source(&self) -> Arc<dyn RequestSource> {
        self.limited.clone()
    }

    /// Whether there is nothing to pull until a pause has ended, whatever the ring holds.
    pub(super) fn pauses(&self) -> bool {
        self.limited.lock().pause_until.is_some()
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.limited.lock().stopped = true;
        self.limited.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a limit's thread panicked");
        }
    }
}

impl Limited {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of the limit's thread.
    fn end_pauses(&self, doorbell: &Doorbell) {
        thread::wake_on_time();
        let mut state = self.lock();
        while !state.stopped {
            let left = state
                .pause_until
                .map(|until| until.saturating_duration_since(Instant::now()));
            state = match left {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) if !left.is_zero() => {
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    state.pause_until = None;
                    doorbell.ring();
                    state
                }
            };
        }
    }
}

impl Buckets {
    /// Full ones for these limits.
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now));
        Buckets {
            requests: bucket(limits.requests),
            bytes: bucket(limits.bytes),
        }
    }

    /// When the next request may begin, if not now.
    fn empty_until(&self, now: Instant) -> Option<Instant> {
        let buckets = [&self.requests, &self.bytes].into_iter().flatten();
        buckets.filter_map(|bucket| bucket.empty_until(now)).max()
    }

    fn take(&mut self, request: &Request, now: Instant) {
        if let Some(bucket) = &mut self.requests {
            bucket.take(1, now);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(request.buffers.len(), now);
        }
    }
}

impl RequestSource for Limited {
    fn next(&self) -> Option<Pulled> {
        loop {
            // Written when the buckets' lock is released: other queues want it too.
            let mut lines = Lines::default();
            match self.step(&mut lines) {
                Step::Empty => return None,
                Step::Answered => {}
                Step::Pulled(pulled) => return Some(pulled),
            }
        }
    }

    fn complete(&self, completion: Completion) {
        self.source.complete(completion);
    }
}

impl Limited {
    /// One head, if another request may begin.
    fn step(&self, lines: &mut Lines) -> Step {
        // Locked until the request is known: of two who pull, one may have to wait for what the
        // other takes.
        let buckets = self.buckets.lock();
        let mut buckets = buckets.unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(until) = buckets.empty_until(now) {
            let mut state = self.lock();
            if state.pause_until.replace(until) != Some(until) {
                self.changed.notify_one();
            }
            return Step::Empty;
        }
        let step = self.source.step(lines);
        if let Step::Pulled(pulled) = &step {
            buckets.take(&pulled.request, now);
        }
        step
    }
}
