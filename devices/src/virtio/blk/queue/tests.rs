//! A queue without threads: what they do is done here, in the order that a test wants. For all that is
//! between the moment when a worker looks whether there is a turn and the moment when the queue's
//! thread looks what the worker left to it, there is no other way to meet it reliably.

use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use iolite_devices_abi::blk::{RequestHeader, SECTOR_SIZE, T_IN};
use iolite_devices_abi::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor};

use super::*;
use crate::block::backend::null::NullBackend;
use crate::block::request::{Outcome, Request};
use crate::interrupt::Interrupt;
use crate::virtio::blk::BlockConfig;
use crate::virtio::device::QueueLayout;

const LAYOUT: QueueLayout = QueueLayout {
    size: 8,
    desc_table: GuestAddress(0x1000),
    avail_ring: GuestAddress(0x2000),
    used_ring: GuestAddress(0x3000),
};
const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x4100;
const DATA: u64 = 0x5000;

/// A queue, its driver, and its interrupt line.
pub(in super::super) struct Bench {
    pub(in super::super) queue: Arc<RequestQueue>,
    memory: Arc<GuestMemoryMmap>,
    edges: Arc<Edges>,
    sent: u16,
}

#[derive(Default)]
struct Edges(AtomicU64);

impl Interrupt for Edges {
    fn trigger(&self) -> std::io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Bench {
    /// A live queue whose driver wants every interrupt.
    pub(in super::super) fn live() -> Self {
        let bench = Self::cold();
        bench.activate();
        bench
    }

    fn cold() -> Self {
        let ranges = [(GuestAddress(0), 0x6000)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        let (edges, config) = (Arc::new(Edges::default()), BlockConfig::new("vdq"));
        let notifier = Notifier::new("vdq", edges.clone(), &config.budget);
        let disk = Disk::new(&config, &NullBackend::new(64 * SECTOR_SIZE));
        let queue = RequestQueue::new(
            "vdq".into(),
            Doorbell::new().unwrap(),
            Arc::new(disk),
            Arc::new(notifier),
            &config.budget,
        );
        let bench = Bench {
            queue: Arc::new(queue),
            memory,
            edges,
            sent: 0,
        };
        bench.write_chains();
        bench
    }

    fn activate(&self) {
        let mut lines = Lines::default();
        let start = QueueStart::fresh(LAYOUT, &self.memory);
        self.queue.activate(start, 0, &mut lines);
    }

    /// Two chains, at heads 0 and 3: each a read of one sector.
    fn write_chains(&self) {
        let header = RequestHeader {
            request_type: T_IN,
            reserved: 0,
            sector: 1,
        };
        let write = |bytes: &[u8], at| self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        write(&header.to_le_bytes(), HEADER);
        for first in [0u16, 3] {
            let chain = [
                (HEADER, 16, DESC_F_NEXT, first + 1),
                (DATA, 512, DESC_F_NEXT | DESC_F_WRITE, first + 2),
                (STATUS, 1, DESC_F_WRITE, 0),
            ];
            for (index, (addr, len, flags, next)) in (u64::from(first)..).zip(chain) {
                let descriptor = Descriptor {
                    addr,
                    len,
                    flags,
                    next,
                };
                let at = LAYOUT.desc_table.0 + 16 * index;
                write(&descriptor.to_le_bytes(), at);
            }
        }
    }

    /// Makes `head` available.
    pub(in super::super) fn send(&mut self, head: u16) {
        let avail = LAYOUT.avail_ring.0;
        let slot = GuestAddress(avail + 4 + 2 * u64::from(self.sent % LAYOUT.size));
        self.memory.write_obj(head, slot).unwrap();
        self.sent += 1;
        self.set_avail_idx(self.sent);
    }

    fn set_avail_idx(&self, index: u16) {
        let at = GuestAddress(LAYOUT.avail_ring.0 + 2);
        self.memory.store(index, at, Ordering::Release).unwrap();
    }

    pub(in super::super) fn edges(&self) -> u64 {
        self.edges.0.load(Ordering::SeqCst)
    }
}

impl RequestQueue {
    pub(in super::super) fn end(&self, request: &Request) {
        self.complete(Completion {
            id: request.id,
            tag: request.tag,
            outcome: Outcome::Done,
        });
    }

    /// A worker ends `request`: it has seen the turn that there is, and what it leaves to the queue's
    /// thread comes after that one has looked.
    pub(in super::super) fn end_unseen(&self, request: &Request) {
        assert!(self.in_turn.load(Ordering::Relaxed));
        self.end(request);
        self.undecided.store(false, Ordering::Relaxed);
    }
}

#[test]
fn the_end_of_a_turn_decides_for_all_of_it() {
    let mut bench = Bench::live();
    bench.send(0);
    bench.send(3);
    bench.queue.begin_turn();
    for _ in 0..2 {
        let request = bench.queue.next().unwrap().request;
        bench.queue.end(&request);
        assert_eq!(bench.edges(), 0, "in the middle of a turn");
    }
    bench.queue.end_turn();
    assert_eq!(bench.edges(), 1);
    bench.queue.decide_now();
    assert!(!bench.queue.rest());
    assert_eq!(bench.edges(), 1, "an interrupt for nothing");
}

#[test]
fn what_the_end_of_a_turn_does_not_see_is_decided_on_before_the_sleep() {
    let mut bench = Bench::live();
    bench.send(0);
    bench.queue.begin_turn();
    let request = bench.queue.next().unwrap().request;
    bench.queue.end_unseen(&request);
    bench.queue.end_turn();
    assert_eq!(bench.edges(), 0);
    assert!(!bench.queue.rest());
    assert_eq!(bench.edges(), 1, "an interrupt is lost");
}

/// A thread that is awake sees a ring and an open gate together: otherwise it may take a ring that holds
/// something for one that was stopped, and sleep with notifications off.
#[test]
fn a_live_ring_has_an_open_gate() {
    let bench = Bench::cold();
    let [active, over, wrong] = [const { AtomicBool::new(false) }; 3];
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let state = bench.queue.state.lock();
                let live = active.load(Ordering::SeqCst) && state.active.is_some();
                let open = bench.queue.gate.is_open();
                // Not, if it is being closed by now.
                if live && !open && active.load(Ordering::SeqCst) {
                    wrong.store(true, Ordering::SeqCst);
                }
            }
        });
        while start.elapsed() < Duration::from_millis(500) {
            active.store(true, Ordering::SeqCst);
            bench.activate();
            active.store(false, Ordering::SeqCst);
            assert!(bench.queue.deactivate(Duration::ZERO));
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(!wrong.load(Ordering::SeqCst));
}
