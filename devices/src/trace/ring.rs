//! The events of one thread on their way to the collector: the thread writes, the collector reads.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::Event;
use super::log::{EventLog, pack, words_of};

/// How many words a thread can be ahead of the collector.
const RING_WORDS: u64 = 1 << 17;
/// The same in events of two words.
#[cfg(test)]
pub(super) const SHORT_EVENTS: u64 = RING_WORDS / 2;

/// A ring of events. Both ends count words since the beginning.
pub(super) struct Ring {
    name: String,
    words: Box<[AtomicU64]>,
    written: AtomicU64,
    read: AtomicU64,
    lost: AtomicU64,
}

impl Ring {
    /// An empty one, called as the thread.
    pub(super) fn of_this_thread() -> Ring {
        Ring {
            name: thread::current().name().unwrap_or("thread").to_owned(),
            words: zeroed(RING_WORDS as usize),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
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

    /// Adds an event; only for the ring's own thread.
    pub(super) fn push(&self, event: Event) {
        let words = pack(event);
        let count = words_of(words[1]);
        let at = self.written.load(Ordering::Relaxed);
        let end = at + count as u64;
        if end - self.read.load(Ordering::Acquire) > RING_WORDS {
            let lost = self.lost.load(Ordering::Relaxed);
            return self.lost.store(lost + 1, Ordering::Relaxed);
        }
        for (number, word) in (at..).zip(&words[..count]) {
            self.word(number).store(*word, Ordering::Relaxed);
        }
        self.written.store(end, Ordering::Release);
    }

    /// Moves all events to the end of `log`, as those of thread number `thread`; only for one
    /// collector at a time.
    pub(super) fn drain(&self, thread: u16, log: &mut EventLog) {
        let end = self.written.load(Ordering::Acquire);
        let mut at = self.read.load(Ordering::Relaxed);
        while at < end {
            let word = |number| self.word(at + number).load(Ordering::Relaxed);
            let what = word(1);
            let count = words_of(what);
            let more = if count == 4 {
                [word(2), word(3)]
            } else {
                [0; 2]
            };
            log.push_words(thread, word(0), what, more);
            at += count as u64;
        }
        self.read.store(end, Ordering::Release);
    }

    fn word(&self, number: u64) -> &AtomicU64 {
        &self.words[(number % RING_WORDS) as usize]
    }
}

/// Memory that costs nothing until it is used.
fn zeroed(words: usize) -> Box<[AtomicU64]> {
    let words = Box::into_raw(vec![0u64; words].into_boxed_slice());
    // SAFETY: an AtomicU64 has the size, alignment and bits of a u64, and nobody else has the box.
    unsafe { Box::from_raw(words as *mut [AtomicU64]) }
}
