//! Events of this process for the VMM's trace (docs/tracing.md): written to a ring that the kernel
//! lends, without a system call. Where nothing is traced there is no ring, and an event is a load and
//! a branch.
#![allow(unsafe_code)]

use crate::lock::Lock;
use crate::syscall;
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use iolite_devices_abi::trace::{EVENT_BYTES, event_word, header, purpose};

pub use iolite_devices_abi::trace::kind;

/// Is there a ring?
static ON: AtomicBool = AtomicBool::new(false);
static RING: Lock<Option<Ring>> = Lock::new(None);

/// The ring of this process.
struct Ring {
    /// Header and events, as words.
    words: &'static [AtomicU64],
    /// How many events it holds, less one.
    mask: u64,
    /// How many have been written.
    written: u64,
}

const HEADER_WORDS: usize = header::BYTES as usize / 8;
const EVENT_WORDS: usize = EVENT_BYTES / 8;

/// Asks for a ring, if this process has none. Before it has one, events are lost.
pub fn begin() {
    let mut ring = RING.lock();
    if ring.is_none()
        && let Ok(address) = syscall::trace_ring()
    {
        *ring = Ring::at(address);
        ON.store(ring.is_some(), Ordering::Release);
    }
}

/// Is this process traced?
#[inline(always)]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Writes an event, if somebody records it. What `a` to `d` mean is said at each
/// [`kind`].
#[inline(always)]
pub fn event(kind: u8, a: u16, b: u32, c: u64, d: u64) {
    if is_on() {
        write(event_word(kind, a, b), c, d);
    }
}

/// The driver of disk `disk` has put a request for itself into the table of its first queue.
#[inline(always)]
pub fn add(head: u16, disk: u32) {
    event(kind::ADD, head, disk | u32::from(purpose::ASYNC) << 8, 0, 0);
}

/// The same, for request number `number` of the channel `channel`.
#[inline(always)]
pub fn add_for(head: u16, disk: u32, channel: u32, number: u64) {
    let b = disk | u32::from(purpose::SERVER) << 8;
    event(kind::ADD, head, b, channel.into(), number);
}

#[inline(never)]
fn write(word: u64, c: u64, d: u64) {
    // Two threads of a process take turns: the time stamps are in order.
    if let Some(ring) = RING.lock().as_mut() {
        // SAFETY: every x86-64 processor has the instruction; it only reads a counter.
        ring.write([unsafe { _rdtsc() }, word, c, d]);
    }
}

impl Ring {
    fn at(address: u64) -> Option<Ring> {
        let header = address as *const AtomicU64;
        // SAFETY: the kernel has mapped the header there, and the events that it speaks of after it,
        // for as long as the process lives; all access is atomic.
        let (words, capacity) = unsafe {
            let word = |offset: u64| &*header.add(offset as usize / 8);
            let capacity = u64::from(word(header::CAPACITY).load(Ordering::Relaxed) as u32);
            let words = HEADER_WORDS + capacity as usize * EVENT_WORDS;
            (core::slice::from_raw_parts(header, words), capacity)
        };
        let written = words[header::WRITTEN as usize / 8].load(Ordering::Relaxed);
        capacity.is_power_of_two().then_some(Ring {
            words,
            mask: capacity - 1,
            written,
        })
    }

    fn write(&mut self, event: [u64; EVENT_WORDS]) {
        let at = HEADER_WORDS + (self.written & self.mask) as usize * EVENT_WORDS;
        for (to, value) in self.words[at..].iter().zip(event) {
            to.store(value, Ordering::Relaxed);
        }
        self.written = self.written.wrapping_add(1);
        self.words[header::WRITTEN as usize / 8].store(self.written, Ordering::Release);
    }
}
