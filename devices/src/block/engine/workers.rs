//! Worker threads, for what may have to wait for the disk; each has at most one request at a time.
//!
//! They get their requests in one of two ways. The queue's thread [hands them over](Workers::hand_over),
//! as long as there is room: as many requests may wait for a worker as there are workers, and when
//! they have taken half of them the doorbell rings. Or it [has them look](Workers::look) for
//! themselves: one that pulled a request and saw that there are more wakes one that sleeps, and that
//! one does the same; so as many run as there is work for, and nothing is pulled that nobody is ready
//! to start.
//!
//! A wake-up cannot be lost: it is a state, not an event. A worker sleeps only when nothing was
//! handed over, and nobody is to look at the source.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::executor::{Executor, Place};
use crate::block::request::Request;
use crate::block::source::{InFlight, RequestSource};
use crate::doorbell::Doorbell;
use crate::thread;

/// The workers of one queue. When they are dropped they finish what they have and what was handed
/// over, and end.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    source: Arc<dyn RequestSource>,
    executor: Arc<Executor>,
    /// Wakes the queue's thread.
    doorbell: Doorbell,
    bench: Mutex<Bench>,
    changed: Condvar,
    /// How many were handed over and are not started yet: written under the lock, read without.
    handed_over: AtomicUsize,
    /// How many of these there may be.
    room: usize,
}

/// Where workers sit while they have nothing to do.
#[derive(Default)]
struct Bench {
    /// What the queue's thread handed over and nobody has started yet.
    handed_over: VecDeque<Request>,
    /// The queue's thread waits for room.
    full: bool,
    /// Somebody is to look at the source.
    look: bool,
    /// How many workers sleep.
    asleep: usize,
    /// Everybody is to go home.
    stopped: bool,
}

/// What a worker is woken for.
enum Task {
    Serve(Request),
    Look,
    GoHome,
}

impl Workers {
    /// Starts `count` threads called `{name}-worker-0` and so on. `doorbell` is what the queue's
    /// thread waits for.
    ///
    /// # Errors
    /// If the system refuses a thread; those already started are ended.
    pub(super) fn start(
        name: &str,
        count: usize,
        source: Arc<dyn RequestSource>,
        executor: Arc<Executor>,
        doorbell: &Doorbell,
    ) -> io::Result<Self> {
        let mut workers = Workers {
            shared: Arc::new(Shared {
                source,
                executor,
                doorbell: doorbell.clone(),
                bench: Mutex::default(),
                changed: Condvar::new(),
                handed_over: AtomicUsize::new(0),
                room: count,
            }),
            threads: Vec::with_capacity(count),
        };
        for number in 0..count {
            let shared = Arc::clone(&workers.shared);
            let name = format!("{name}-worker-{number}");
            let worker = thread::spawn(name, move || shared.work(number))?;
            workers.threads.push(worker);
        }
        Ok(workers)
    }

    /// Somebody is to look at the source.
    pub(super) fn look(&self) {
        self.shared.look();
    }

    /// Leaves a request to a worker. There may be no room: this is for requests that were pulled
    /// when there was some.
    pub(super) fn hand_over(&self, request: InFlight<'_>) {
        let shared = &self.shared;
        let mut bench = shared.lock();
        bench.handed_over.push_back(request.hand_over());
        let waiting = bench.handed_over.len();
        shared.handed_over.store(waiting, Ordering::Relaxed);
        if bench.asleep > 0 {
            shared.changed.notify_one();
        }
    }

    /// Whether there is no room; then the doorbell will ring.
    pub(super) fn is_full(&self) -> bool {
        let shared = &self.shared;
        let full = || shared.handed_over.load(Ordering::Relaxed) >= shared.room;
        full() && {
            let mut bench = shared.lock();
            bench.full = full();
            bench.full
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches every panic of a backend; one of its own has been reported.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn look(&self) {
        let mut bench = self.lock();
        bench.look = true;
        if bench.asleep > 0 {
            self.changed.notify_one();
        }
    }

    /// The life of worker `number`.
    fn work(&self, number: usize) {
        loop {
            match self.next_task() {
                Task::Serve(request) => {
                    let request = InFlight::resume(&*self.source, request);
                    self.executor.finish(request, Place::Worker(number));
                }
                Task::Look => self.pull(number),
                Task::GoHome => return,
            }
        }
    }

    /// Pulls until there is nothing to pull.
    fn pull(&self, number: usize) {
        while let Some((request, more)) = InFlight::pull(&*self.source) {
            if more {
                self.look();
            }
            self.executor.finish(request, Place::Worker(number));
            if self.lock().stopped {
                return;
            }
        }
    }

    /// Sleeps until there is something to do.
    fn next_task(&self) -> Task {
        let mut bench = self.lock();
        loop {
            if let Some(request) = bench.handed_over.pop_front() {
                self.make_room(&mut bench);
                return Task::Serve(request);
            }
            if bench.stopped {
                return Task::GoHome;
            }
            if std::mem::take(&mut bench.look) {
                return Task::Look;
            }
            bench.asleep += 1;
            bench = self
                .changed
                .wait(bench)
                .unwrap_or_else(PoisonError::into_inner);
            bench.asleep -= 1;
        }
    }

    /// One that was handed over is taken.
    fn make_room(&self, bench: &mut Bench) {
        let left = bench.handed_over.len();
        self.handed_over.store(left, Ordering::Relaxed);
        if left <= self.room / 2 && std::mem::take(&mut bench.full) {
            self.doorbell.ring();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Bench> {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Workers {
    /// Whether they were told to go home.
    pub(super) fn told_to_stop(&self) -> impl Fn() -> bool + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.lock().stopped
    }
}
