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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::time::Duration;

    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use crate::block::backend::fault::{Effect, FaultBackend, Faults, Operation};
    use crate::block::backend::memory::MemoryBackend;
    use crate::block::buffers::GuestBuffers;
    use crate::block::request::{Completion, Kind, Request};
    use crate::block::source::Pulled;

    /// A source of reads, one sector each, that records what comes back.
    #[derive(Default)]
    struct List {
        waiting: Mutex<VecDeque<Request>>,
        ended: Mutex<Vec<(u16, Outcome)>>,
        changed: Condvar,
    }

    impl List {
        fn add(&self, tags: std::ops::Range<u16>) {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
            let memory = Arc::new(memory);
            for tag in tags {
                let mut buffers = GuestBuffers::new(Arc::clone(&memory));
                buffers.push(GuestAddress(0), 512).unwrap();
                let (id, offset) = (tag.into(), 512 * u64::from(tag));
                let request = Request {
                    id,
                    tag,
                    kind: Kind::Read,
                    offset,
                    buffers,
                    ranges: Vec::new(),
                };
                self.waiting.lock().unwrap().push_back(request);
            }
        }

        fn wait_for(&self, count: usize) -> Vec<(u16, Outcome)> {
            let ended = self.ended.lock().unwrap();
            let limit = Duration::from_secs(10);
            let (ended, _) = self
                .changed
                .wait_timeout_while(ended, limit, |ended| ended.len() < count)
                .unwrap();
            let mut ended = ended.clone();
            ended.sort_unstable_by_key(|&(tag, _)| tag);
            ended
        }
    }

    impl RequestSource for List {
        fn next(&self) -> Option<Pulled> {
            let mut waiting = self.waiting.lock().unwrap();
            let request = waiting.pop_front()?;
            Some(Pulled {
                request,
                more: !waiting.is_empty(),
            })
        }

        fn complete(&self, completion: Completion) {
            self.ended
                .lock()
                .unwrap()
                .push((completion.tag, completion.outcome));
            self.changed.notify_all();
        }
    }

    fn pool(workers: usize) -> (Pool, Arc<List>, Arc<Faults>) {
        let (list, faults) = (Arc::new(List::default()), Arc::new(Faults::default()));
        let disk = Arc::new(MemoryBackend::zeroed(1 << 20).unwrap());
        let backend = Arc::new(FaultBackend::new(disk, faults.clone()));
        let pool = Pool::new("test", workers, list.clone(), backend).unwrap();
        (pool, list, faults)
    }

    #[test]
    fn one_notification_is_enough_for_many_requests() {
        for workers in [1, 4, 16] {
            let (pool, list, _) = pool(workers);
            list.add(0..200);
            pool.notify();
            let expected: Vec<_> = (0..200).map(|tag| (tag, Outcome::Done)).collect();
            assert_eq!(list.wait_for(200), expected, "{workers} workers");
        }
    }

    #[test]
    fn no_wake_up_is_lost() {
        // One request at a time, each at the moment when the workers go to sleep.
        let (pool, list, _) = pool(4);
        for tag in 0..2000 {
            list.add(tag..tag + 1);
            pool.notify();
            assert_eq!(
                list.wait_for(usize::from(tag) + 1).len(),
                usize::from(tag) + 1
            );
        }
    }

    #[test]
    fn a_worker_survives_a_panicking_backend() {
        let (pool, list, faults) = pool(1);
        faults.fail(Operation::Read, 512..1024, Effect::Panic);
        list.add(0..3);
        pool.notify();
        let expected = [(0, Outcome::Done), (1, Outcome::Failed), (2, Outcome::Done)];
        assert_eq!(list.wait_for(3), expected);
    }

    #[test]
    fn stopping_finishes_what_was_pulled_and_pulls_no_more() {
        let (pool, list, faults) = pool(2);
        faults.hold();
        list.add(0..5);
        pool.notify();
        let limit = Instant::now() + Duration::from_secs(10);
        while faults.held() < 2 && Instant::now() < limit {
            std::thread::yield_now();
        }
        let held = faults.held();
        std::thread::scope(|scope| {
            let stopping = scope.spawn(|| pool.stop());
            while !pool.shared.lock().stopped {
                std::thread::yield_now();
            }
            faults.release();
            stopping.join().unwrap();
        });
        assert_eq!(held, 2, "not every worker was woken");
        assert_eq!(list.wait_for(2), [(0, Outcome::Done), (1, Outcome::Done)]);
        pool.notify();
        pool.stop();
        assert_eq!(list.waiting.lock().unwrap().len(), 3);
    }

    #[test]
    fn a_request_that_is_dropped_fails() {
        let list = List::default();
        list.add(0..1);
        let (in_flight, more) = InFlight::pull(&list).unwrap();
        assert!(!more);
        drop(in_flight);
        assert_eq!(list.wait_for(1), [(0, Outcome::Failed)]);
    }

    #[test]
    fn workers_are_named_and_receive_no_signals() {
        struct Probe(Mutex<Option<(String, u64)>>);
        impl Backend for Probe {
            fn capacity(&self) -> u64 {
                1 << 20
            }
            fn read_only(&self) -> bool {
                true
            }
            fn read(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                let field = |name| {
                    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                    line.split_whitespace().nth(1).unwrap().to_owned()
                };
                let blocked = u64::from_str_radix(&field("SigBlk:"), 16).unwrap();
                *self.0.lock().unwrap() = Some((field("Name:"), blocked));
                Ok(())
            }
            fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
                Ok(())
            }

            fn write(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
                Ok(())
            }
            fn flush(&self) -> io::Result<()> {
                Ok(())
            }
        }
        let (list, probe) = (Arc::new(List::default()), Arc::new(Probe(Mutex::new(None))));
        let pool = Pool::new("vdx", 1, list.clone(), probe.clone()).unwrap();
        list.add(0..1);
        pool.notify();
        list.wait_for(1);
        let (name, blocked) = probe.0.lock().unwrap().take().unwrap();
        assert_eq!(name, "vdx-worker-0");
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1] {
            assert_ne!(
                blocked & 1 << (signal - 1),
                0,
                "signal {signal} is not blocked"
            );
        }
    }
}
