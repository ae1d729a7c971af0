//! The guest's ring of events (`iolite_devices_abi::trace`), as its reader: it lies in a window of
//! guest memory of its own, where the guest overwrites the oldest events without asking.

use std::sync::atomic::{Ordering, fence};

use iolite_devices_abi::trace::{
    EVENT_BYTES, TRACE_BASE, TRACE_BYTES, TRACE_EVENTS, TRACE_WORD, header,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::raw::GuestEvent;

/// How the command line names the window.
pub fn word() -> String {
    format!("{TRACE_WORD}={TRACE_BYTES}@{TRACE_BASE:#x}")
}

/// Fills in the header, before the guest's first instruction.
///
/// # Errors
/// If the memory has no such window.
pub fn prepare(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let at = |offset| GuestAddress(TRACE_BASE + offset);
    memory.write_obj(header::MAGIC_VALUE, at(header::MAGIC))?;
    memory.write_obj(header::VERSION_VALUE, at(header::VERSION))?;
    memory.write_obj(TRACE_EVENTS, at(header::CAPACITY))?;
    memory.write_obj(0u64, at(header::WRITTEN))
}

/// What has been read of a ring.
#[derive(Debug, Default)]
pub struct Reader {
    read: u64,
    /// How many events were overwritten before they were read.
    pub lost: u64,
}

impl Reader {
    /// Hands every event that is new to `take`, in order.
    pub fn drain(&mut self, memory: &GuestMemoryMmap, mut take: impl FnMut(GuestEvent)) {
        let end = written(memory);
        // A guest that turns back has begun anew, or makes fun of us.
        self.read = self.read.min(end);
        self.skip_to(end.saturating_sub(u64::from(TRACE_EVENTS)));
        let mut copied = Vec::with_capacity((end - self.read) as usize);
        for number in self.read..end {
            let place = number % u64::from(TRACE_EVENTS) * EVENT_BYTES as u64;
            let mut bytes = [0; EVENT_BYTES];
            let at = GuestAddress(TRACE_BASE + header::BYTES + place);
            if memory.read_slice(&mut bytes, at).is_ok() {
                copied.push((number, bytes));
            }
        }
        // What the guest has written meanwhile, and the event that it may be writing now, lie over
        // the oldest of what was copied.
        fence(Ordering::Acquire);
        let now = written(memory).saturating_add(1);
        let oldest = now.saturating_sub(u64::from(TRACE_EVENTS));
        self.skip_to(oldest.min(end));
        for (number, bytes) in copied {
            if number >= self.read
                && let Some(event) = GuestEvent::parse(&bytes)
            {
                take(event);
            }
        }
        self.read = end;
    }

    fn skip_to(&mut self, oldest: u64) {
        let lost = oldest.saturating_sub(self.read);
        self.lost = self.lost.saturating_add(lost);
        self.read = self.read.max(oldest);
    }
}

fn written(memory: &GuestMemoryMmap) -> u64 {
    let at = GuestAddress(TRACE_BASE + header::WRITTEN);
    memory.load(at, Ordering::Acquire).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use iolite_devices_abi::trace::{event_word, kind};

    /// A guest's half in a few lines.
    fn write(memory: &GuestMemoryMmap, number: u64) {
        let capacity = u64::from(TRACE_EVENTS);
        let place = TRACE_BASE + header::BYTES + number % capacity * EVENT_BYTES as u64;
        let words = [number, event_word(kind::RUN, number as u16, 7), 8, 9];
        for (i, word) in (0..).zip(words) {
            memory.write_obj(word, GuestAddress(place + 8 * i)).unwrap();
        }
        let written = GuestAddress(TRACE_BASE + header::WRITTEN);
        memory.write_obj(number + 1, written).unwrap();
    }

    #[test]
    fn what_is_overwritten_is_counted_and_the_rest_comes_in_order() {
        let memory = memory::create(memory::MIN_BYTES).unwrap();
        let memory = memory::with_trace_window(memory).unwrap();
        prepare(&memory).unwrap();
        let (mut reader, mut events) = (Reader::default(), Vec::new());
        let mut next = 0;
        for count in [0, 3, 0, u64::from(TRACE_EVENTS) + 10] {
            for _ in 0..count {
                write(&memory, next);
                next += 1;
            }
            reader.drain(&memory, |event| events.push(event));
        }
        // Ten were overwritten, and where the eleventh lies the guest may be writing.
        assert_eq!(reader.lost, 11);
        let numbers: Vec<u64> = events.iter().map(|event| event.tsc).collect();
        let wanted: Vec<u64> = (0..3).chain(14..next).collect();
        assert_eq!(numbers, wanted);
        let first = GuestEvent {
            tsc: 0,
            kind: kind::RUN,
            a: 0,
            b: 7,
            c: 8,
            d: 9,
        };
        assert_eq!(events[0], first);
    }

    #[test]
    fn a_guest_that_writes_nonsense_gives_no_events() {
        let memory = memory::create(memory::MIN_BYTES).unwrap();
        let memory = memory::with_trace_window(memory).unwrap();
        let mut reader = Reader::default();
        let written = GuestAddress(TRACE_BASE + header::WRITTEN);
        for count in [u64::MAX, 0, u64::MAX / 2, 5] {
            memory.write_obj(count, written).unwrap();
            reader.drain(&memory, |event| panic!("{event:?}"));
        }
    }
}
