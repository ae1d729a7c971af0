//! A pool of worker threads for what may have to wait for the disk, each with at most one request in
//! flight.
//!
//! Where the backend can be tried without waiting, the queue's thread is the only one that pulls: it
//! serves at once what can be served at once, and hands the rest to the workers. It stops pulling
//! while as many requests wait for a worker as there are workers, and goes on when they have taken
//! half of them.
//!
//! Where it cannot, workers pull for themselves: a doorbell, or a worker that pulled a request and
//! saw that there are more, wakes one that sleeps; that one does the same. So as many workers run as
//! there is work for, and nothing is pulled that nobody is ready to start.
//!
//! A wake-up cannot be lost: it is a state, not an event. A worker sleeps only when nothing was
//! handed over, and nobody is to look at the source.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use vmm_sys_util::eventfd::EventFd;

use super::executor::Executor;
use super::{Engine, MAX_TURN, Turn};
use crate::block::backend::Backend;
use crate::block::request::{Outcome, Request};
use crate::block::source::{InFlight, RequestSource};
use crate::thread;

/// The worker-thread engine.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The queue's thread tries what can be done at once.
    tries: bool,
}

struct Shared {
    source: Arc<dyn RequestSource>,
    executor: Executor,
    /// Wakes the queue's thread.
    doorbell: EventFd,
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

impl Pool {
    /// Starts `workers` threads called `{name}-worker-0` and so on. `doorbell` is what the queue's
    /// thread waits for.
    ///
    /// # Errors
    /// If the system refuses a thread; those already started are ended.
    pub fn new(
        name: &str,
        workers: usize,
        source: Arc<dyn RequestSource>,
        backend: Arc<dyn Backend>,
        doorbell: &EventFd,
    ) -> io::Result<Self> {
        let executor = Executor::new(name, backend);
        let mut pool = Pool {
            tries: executor.can_try(),
            shared: Arc::new(Shared {
                source,
                executor,
                doorbell: doorbell.try_clone()?,
                bench: Mutex::default(),
                changed: Condvar::new(),
                handed_over: AtomicUsize::new(0),
                room: workers,
            }),
            workers: Vec::with_capacity(workers),
        };
        for number in 0..workers {
            let shared = Arc::clone(&pool.shared);
            let name = format!("{name}-worker-{number}");
            let worker = thread::spawn(name, move || shared.work(number))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }
}

impl Engine for Pool {
    fn turn(&mut self) -> Turn {
        if !self.tries {
            self.shared.look();
            return Turn::Elsewhere;
        }
        if self.shared.is_full() {
            return Turn::Elsewhere;
        }
        let source = &*self.shared.source;
        let Some((mut request, _)) = InFlight::pull(source) else {
            return Turn::Idle;
        };
        for _ in 1..MAX_TURN {
            let next = match self.shared.try_now(&request) {
                Some(outcome) => request.finish_and_pull(outcome),
                None => {
                    self.shared.hand_over(request);
                    if self.shared.is_full() {
                        return Turn::Busy;
                    }
                    InFlight::pull(source).map(|(next, _)| next)
                }
            };
            match next {
                Some(next) => request = next,
                None => return Turn::Busy,
            }
        }
        match self.shared.try_now(&request) {
            Some(outcome) => request.finish(outcome),
            None => self.shared.hand_over(request),
        }
        Turn::Busy
    }
}

/// Workers finish what they have and what was handed over, and go home.
impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a backend; one of its own has been reported.
            let _ = worker.join();
        }
    }
}

/// On the queue's thread.
impl Shared {
    /// Somebody is to look at the source.
    fn look(&self) {
        let mut bench = self.lock();
        bench.look = true;
        if bench.asleep > 0 {
            self.changed.notify_one();
        }
    }

    /// Whether no more can be handed over; then the doorbell will ring.
    fn is_full(&self) -> bool {
        let full = || self.handed_over.load(Ordering::Relaxed) >= self.room;
        full() && {
            let mut bench = self.lock();
            bench.full = full();
            bench.full
        }
    }

    /// Carries a request out, if it need not wait.
    #[inline]
    fn try_now(&self, request: &InFlight<'_>) -> Option<Outcome> {
        let (name, id) = (self.executor.name(), request.request().id);
        let outcome = self.executor.try_now(request.request())?;
        log::debug!("{name} #{id} started on the queue's thread");
        log::debug!("{name} #{id} finished: {outcome:?}, at once");
        Some(outcome)
    }

    fn hand_over(&self, in_flight: InFlight<'_>) {
        let mut bench = self.lock();
        bench.handed_over.push_back(in_flight.hand_over());
        self.handed_over
            .store(bench.handed_over.len(), Ordering::Relaxed);
        if bench.asleep > 0 {
            self.changed.notify_one();
        }
    }
}

/// On a worker.
impl Shared {
    /// The life of worker `number`.
    fn work(&self, number: usize) {
        loop {
            match self.next_task() {
                Task::Serve(request) => {
                    self.serve(number, InFlight::resume(&*self.source, request));
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
            self.serve(number, request);
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
            // It cannot fail: the counter is far from full.
            let _ = self.doorbell.write(1);
        }
    }

    fn serve(&self, number: usize, in_flight: InFlight<'_>) {
        let (name, id) = (self.executor.name(), in_flight.request().id);
        log::debug!("{name} #{id} started on worker {number}");
        let start = log::log_enabled!(log::Level::Debug).then(Instant::now);
        let outcome = self.executor.run(in_flight.request());
        if let Some(start) = start {
            let us = start.elapsed().as_micros();
            log::debug!("{name} #{id} finished: {outcome:?}, {us} us");
        }
        in_flight.finish(outcome);
    }

    fn lock(&self) -> MutexGuard<'_, Bench> {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
