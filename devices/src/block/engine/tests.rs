//! The engines on a list of requests: what is pulled when, by whom, and that nothing is lost.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::pool::Pool;
use super::{Engine, Turn};
use crate::block::backend::fault::{Effect, FaultBackend, Faults, Operation};
use crate::block::backend::memory::MemoryBackend;
use crate::block::backend::{Backend, Waits};
use crate::block::buffers::GuestBuffers;
use crate::block::request::{Completion, Kind, Outcome, Request};
use crate::block::source::{InFlight, Pulled, RequestSource};
use crate::doorbell::Doorbell;
use crate::throttle::{Budget, Throttle};

/// A source of reads, one sector each, that records what comes back.
#[derive(Default)]
pub(super) struct List {
    waiting: Mutex<VecDeque<Request>>,
    ended: Mutex<Vec<(u16, Outcome)>>,
    changed: Condvar,
}

impl List {
    pub(super) fn add(&self, tags: std::ops::Range<u16>) {
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

    pub(super) fn wait_for(&self, count: usize) -> Vec<(u16, Outcome)> {
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

pub(super) fn throttle() -> Throttle {
    Budget::default().share("test")
}

fn pool(workers: usize) -> (Pool, Arc<List>, Arc<Faults>) {
    let (list, faults) = (Arc::new(List::default()), Arc::new(Faults::default()));
    let disk = Arc::new(MemoryBackend::zeroed(1 << 20).unwrap());
    let backend = Arc::new(FaultBackend::new(disk, faults.clone()));
    let doorbell = Doorbell::new().unwrap();
    let pool = Pool::new(
        "test",
        workers,
        list.clone(),
        backend,
        throttle(),
        &doorbell,
    )
    .unwrap();
    (pool, list, faults)
}

#[test]
fn one_notification_is_enough_for_many_requests() {
    for workers in [1, 4, 16] {
        let (mut pool, list, _) = pool(workers);
        list.add(0..200);
        assert_eq!(pool.turn(), Turn::Elsewhere);
        let expected: Vec<_> = (0..200).map(|tag| (tag, Outcome::Done)).collect();
        assert_eq!(list.wait_for(200), expected, "{workers} workers");
    }
}

#[test]
fn no_wake_up_is_lost() {
    // One request at a time, each at the moment when the workers go to sleep.
    let (mut pool, list, _) = pool(4);
    for tag in 0..2000 {
        list.add(tag..tag + 1);
        assert_eq!(pool.turn(), Turn::Elsewhere);
        assert_eq!(
            list.wait_for(usize::from(tag) + 1).len(),
            usize::from(tag) + 1
        );
    }
}

#[test]
fn a_worker_survives_a_panicking_backend() {
    let (mut pool, list, faults) = pool(1);
    faults.fail(Operation::Read, 512..1024, Effect::Panic);
    list.add(0..3);
    assert_eq!(pool.turn(), Turn::Elsewhere);
    let expected = [(0, Outcome::Done), (1, Outcome::Failed), (2, Outcome::Done)];
    assert_eq!(list.wait_for(3), expected);
}

#[test]
fn the_end_finishes_what_was_pulled_and_pulls_no_more() {
    let (mut pool, list, faults) = pool(2);
    faults.hold();
    list.add(0..5);
    assert_eq!(pool.turn(), Turn::Elsewhere);
    let limit = Instant::now() + Duration::from_secs(10);
    while faults.held() < 2 && Instant::now() < limit {
        std::thread::yield_now();
    }
    let held = faults.held();
    let told_to_stop = pool.told_to_stop();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(pool));
        while !told_to_stop() {
            std::thread::yield_now();
        }
        faults.release();
    });
    assert_eq!(held, 2, "not every worker was woken");
    assert_eq!(list.wait_for(2), [(0, Outcome::Done), (1, Outcome::Done)]);
    assert_eq!(list.waiting.lock().unwrap().len(), 3);
}

/// A disk of which the even sectors are in a cache; the others wait until they are released.
struct HalfCached {
    released: Mutex<bool>,
    changed: Condvar,
}

impl HalfCached {
    fn new() -> Arc<Self> {
        Arc::new(HalfCached {
            released: Mutex::new(false),
            changed: Condvar::new(),
        })
    }

    fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Backend for HalfCached {
    fn capacity(&self) -> u64 {
        1 << 20
    }

    fn read_only(&self) -> bool {
        true
    }

    fn waits(&self) -> Waits {
        Waits::Sometimes
    }

    fn read_now(&self, offset: u64, _buffers: &GuestBuffers) -> bool {
        (offset / 512).is_multiple_of(2)
    }

    fn read(&self, offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
        assert!(!self.read_now(offset, _buffers), "a worker was bothered");
        let mut released = self.released.lock().unwrap();
        while !*released {
            released = self.changed.wait(released).unwrap();
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
        unreachable!("only reads are sent")
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        unreachable!("only reads are sent")
    }

    fn flush(&self) -> io::Result<()> {
        unreachable!("only reads are sent")
    }
}

#[test]
fn hits_overtake_misses() {
    let (list, disk) = (Arc::new(List::default()), HalfCached::new());
    let doorbell = Doorbell::new().unwrap();
    let mut pool = Pool::new("test", 4, list.clone(), disk.clone(), throttle(), &doorbell).unwrap();
    list.add(0..4);
    let turns = [pool.turn(), pool.turn()];
    let hits = list.ended.lock().unwrap().clone();
    disk.release();
    assert_eq!(turns, [Turn::Busy, Turn::Idle]);
    assert_eq!(hits, [(0, Outcome::Done), (2, Outcome::Done)]);
    assert_eq!(list.wait_for(4).len(), 4);
}

#[test]
fn pulling_stops_while_the_workers_have_enough() {
    let (list, disk) = (Arc::new(List::default()), HalfCached::new());
    let doorbell = Doorbell::new().unwrap();
    let mut pool = Pool::new("test", 2, list.clone(), disk.clone(), throttle(), &doorbell).unwrap();
    // All of them miss.
    for n in 0..20 {
        list.add(2 * n + 1..2 * n + 2);
    }
    let limit = Instant::now() + Duration::from_secs(10);
    // Two are with the workers and two wait for them, when the workers have started.
    while list.waiting.lock().unwrap().len() > 16 && Instant::now() < limit {
        pool.turn();
    }
    let (turn, left) = (pool.turn(), list.waiting.lock().unwrap().len());
    while doorbell.has_rung() {}
    disk.release();
    assert_eq!((turn, left), (Turn::Elsewhere, 16));
    while list.ended.lock().unwrap().len() < 20 && Instant::now() < limit {
        // As the queue's thread does: it sleeps until the doorbell rings.
        if pool.turn() == Turn::Elsewhere {
            while !doorbell.has_rung() && Instant::now() < limit {
                std::thread::yield_now();
            }
        }
    }
    assert_eq!(list.wait_for(20).len(), 20);
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
    let doorbell = Doorbell::new().unwrap();
    let mut pool = Pool::new("vdx", 1, list.clone(), probe.clone(), throttle(), &doorbell).unwrap();
    list.add(0..1);
    assert_eq!(pool.turn(), Turn::Elsewhere);
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

#[test]
fn only_files_that_always_wait_suit_io_uring() {
    use super::Kind;
    use crate::block::backend::file::FileBackend;

    let suiting = |backend: &dyn Backend| Kind::suiting(backend, 16);
    let memory = MemoryBackend::zeroed(4096).unwrap();
    assert_eq!(suiting(&memory), Kind::Pool);
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let buffered = FileBackend::open(file.path(), true).unwrap();
    assert_eq!(suiting(&buffered), Kind::Pool);
    // Not every file system has direct I/O, and not every host io_uring.
    if let Ok(direct) = FileBackend::open_direct(file.path(), true) {
        let possible = super::uring::is_possible(16);
        let wanted = if possible { Kind::Uring } else { Kind::Pool };
        assert_eq!(suiting(&direct), wanted);
        let waits = FaultBackend::new(Arc::new(direct), Arc::default());
        assert_eq!(suiting(&waits), Kind::Pool, "nothing to pass to the kernel");
    }
}
