//! A pool of worker threads, each with at most one request in flight.
//!
//! Workers pull. Nobody hands them anything: a notification, or a worker that pulled a request and
//! saw that there are more, wakes one that sleeps; that one does the same. So as many workers run
//! as there is work for, and there is no queue besides the source.
//!
//! A wake-up cannot be lost: it is a flag, not an event. A worker sleeps only after the source had
//! nothing and the flag was down.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Engine, execute};
use crate::block::backend::Backend;
use crate::block::request::Outcome;
use crate::block::source::{InFlight, RequestSource};
use crate::thread;
use crate::throttle::Throttle;

/// The worker-thread engine.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    /// The disk's name, for log lines.
    name: String,
    source: Arc<dyn RequestSource>,
    backend: Arc<dyn Backend>,
    bell: Mutex<Bell>,
    rung: Condvar,
    /// For failures that the guest can repeat as often as it likes.
    failures: Throttle,
}

#[derive(Default)]
struct Bell {
    /// Somebody is to look at the source.
    ringing: bool,
    /// How many workers sleep.
    asleep: usize,
    /// Everybody is to go home.
    stopped: bool,
}

impl Pool {
    /// Starts `workers` threads called `{name}-worker-0` and so on.
    ///
    /// # Errors
    /// If the system refuses a thread; those already started are ended.
    pub fn new(
        name: &str,
        workers: usize,
        source: Arc<dyn RequestSource>,
        backend: Arc<dyn Backend>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            source,
            backend,
            bell: Mutex::default(),
            rung: Condvar::new(),
            failures: Throttle::default(),
        });
        let pool = Pool {
            shared,
            workers: Mutex::default(),
        };
        for number in 0..workers {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::spawn(format!("{name}-worker-{number}"), move || {
                shared.work(number)
            })?;
            pool.lock_workers().push(worker);
        }
        Ok(pool)
    }

    fn lock_workers(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Pool {
    fn notify(&self) {
        self.shared.ring();
    }

    fn stop(&self) {
        self.shared.lock().stopped = true;
        self.shared.rung.notify_all();
        for worker in self.lock_workers().drain(..) {
            // A worker catches every panic of a backend; one of its own has been reported.
            let _ = worker.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let mut bell = self.lock();
        bell.ringing = true;
        if bell.asleep > 0 {
            self.rung.notify_one();
        }
    }

    /// The life of worker `number`.
    fn work(&self, number: usize) {
        while self.wait() {
            while let Some((request, more)) = InFlight::pull(&*self.source) {
                if more {
                    self.ring();
                }
                self.serve(number, request);
                if self.lock().stopped {
                    return;
                }
            }
        }
    }

    /// Sleeps until the bell rings; false when it is time to go home.
    fn wait(&self) -> bool {
        let mut bell = self.lock();
        while !bell.ringing && !bell.stopped {
            bell.asleep += 1;
            bell = self.rung.wait(bell).unwrap_or_else(PoisonError::into_inner);
            bell.asleep -= 1;
        }
        bell.ringing = false;
        !bell.stopped
    }

    fn serve(&self, number: usize, in_flight: InFlight<'_>) {
        let id = in_flight.request().id;
        let name = &self.name;
        log::debug!("{name} #{id} started on worker {number}");
        let start = log::log_enabled!(log::Level::Debug).then(Instant::now);
        let outcome = self.execute(&in_flight);
        if let Some(start) = start {
            log::debug!(
                "{name} #{id} finished: {outcome:?}, {} us",
                start.elapsed().as_micros()
            );
        }
        in_flight.finish(outcome);
    }

    fn execute(&self, in_flight: &InFlight<'_>) -> Outcome {
        let request = in_flight.request();
        // Unwind safety: the request is only read, and a backend that panicked is the same to us
        // as one that returned an error half-way: it has to keep its own promises to later calls.
        let result = catch_unwind(AssertUnwindSafe(|| execute(&*self.backend, request)));
        let (name, id, kind, offset) = (&self.name, request.id, request.kind, request.offset);
        match result {
            Ok(Ok(())) => return Outcome::Done,
            Ok(Err(error)) => self.failures.warn(format_args!(
                "{name} #{id}: {kind:?} of {} bytes at {offset} failed: {error}",
                request.buffers.len()
            )),
            Err(_) => self.failures.warn(format_args!(
                "{name} #{id}: the backend panicked in {kind:?} at {offset} (please report this bug)"
            )),
        }
        Outcome::Failed
    }
}
