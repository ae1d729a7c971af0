//! The events of one thread on their way to the collector: the thread writes, the collector reads.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::log::{EventLog, MOST_WORDS, Seen, pack};
use super::now;

/// How many words a thread can be ahead of the collector.
const RING_WORDS: usize = 1 << 17;
/// The same in events of one word.
#[cfg(test)]
pub(super) const SHORT_EVENTS: u64 = (RING_WORDS - MOST_WORDS) as u64 + 1;

/// A ring of events. Both ends count words since the beginning.
pub(super) struct Ring {
    name: String,
    /// The thread's number.
    thread: u16,
    /// Those from `read` to `written` are the collector's, the others the thread's.
    words: Box<[UnsafeCell<u64>; RING_WORDS]>,
    written: AtomicU64,
    read: AtomicU64,
    /// When the last collection began: the mark of what comes now.
    collected: AtomicU64,
    lost: AtomicU64,
}

// SAFETY: the words are shared as `words` says: the thread hands over by a store to `written`, the
// collector by one to `read`, both with Release, and each looks at the other's with Acquire.
unsafe impl Send for Ring {}
// SAFETY: as above. That there is one of each is up to the callers of `push` and `drain`.
unsafe impl Sync for Ring {}

impl Ring {
    /// An empty one for the calling thread, whose number is `thread`.
    pub(super) fn of_this_thread(thread: u16) -> Ring {
        Ring {
            name: thread::current().name().unwrap_or("thread").to_owned(),
            thread,
            words: zeroed(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            collected: AtomicU64::new(now()),
            lost: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many events found no room.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Adds an event.
    ///
    /// # Safety
    /// For the ring's own thread only.
    #[inline]
    pub(super) unsafe fn push(&self, seen: Seen) {
        let mark = self.collected.load(Ordering::Relaxed);
        let mut at = self.written.load(Ordering::Relaxed);
        if at + MOST_WORDS as u64 - self.read.load(Ordering::Acquire) > RING_WORDS as u64 {
            let lost = self.lost.load(Ordering::Relaxed);
            let events = 1 + u64::from(seen.before.is_some());
            return self.lost.store(lost + events, Ordering::Relaxed);
        }
        pack(seen, self.thread, mark, |word| {
            let place = &self.words[at as usize % RING_WORDS];
            // SAFETY: not the collector's yet, and we are the only other one.
            unsafe { *place.get() = word };
            at += 1;
        });
        self.written.store(at, Ordering::Release);
    }

    /// Moves all events to the end of `log`.
    ///
    /// # Safety
    /// For one collector at a time.
    pub(super) unsafe fn drain(&self, log: &mut EventLog) {
        // Before the events are taken: those that are not taken are later, or hardly earlier.
        let now = now();
        let end = self.written.load(Ordering::Acquire);
        let begin = self.read.load(Ordering::Relaxed);
        if begin != end {
            let at = begin as usize % RING_WORDS;
            let count = (end - begin) as usize;
            let first = count.min(RING_WORDS - at);
            // SAFETY: the thread has handed these words over, and does not touch them before `read` says
            // that they are its own again. An UnsafeCell<u64> is a u64 in memory.
            let pieces = unsafe {
                let start = self.words.as_ptr().cast::<u64>();
                [
                    std::slice::from_raw_parts(start.add(at), first),
                    std::slice::from_raw_parts(start, count - first),
                ]
            };
            log.extend_from_words(self.thread, self.collected.load(Ordering::Relaxed), pieces);
            self.read.store(end, Ordering::Release);
        }
        self.collected.store(now, Ordering::Relaxed);
    }
}

/// Memory that costs nothing until it is used.
fn zeroed() -> Box<[UnsafeCell<u64>; RING_WORDS]> {
    let words = Box::into_raw(vec![0u64; RING_WORDS].into_boxed_slice());
    // SAFETY: an UnsafeCell<u64> has the size, alignment and bits of a u64, there are as many, and nobody
    // else has the box.
    unsafe { Box::from_raw(words.cast()) }
}
