//! The guest's rings of events (`iolite_devices_abi::trace`), as their reader: they lie in a window of
//! guest memory of its own, where their writers overwrite the oldest events without asking.

use std::sync::atomic::{Ordering, fence};

use iolite_devices_abi::trace::{
    EVENT_BYTES, PROGRAM_EVENTS, PROGRAM_RINGS, TRACE_BASE, TRACE_BYTES, TRACE_EVENTS, TRACE_WORD,
    header, ring_at,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::raw::GuestEvent;

/// How the command line names the window.
pub fn word() -> String {
    format!("{TRACE_WORD}={TRACE_BYTES}@{TRACE_BASE:#x}")
}

/// Fills in the headers, before the guest's first instruction.
///
/// # Errors
/// If the memory has no such window.
pub fn prepare(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    for number in 0..=PROGRAM_RINGS {
        let ring = Ring::new(number);
        let at = |offset| GuestAddress(ring.base + offset);
        memory.write_obj(header::MAGIC_VALUE, at(header::MAGIC))?;
        memory.write_obj(header::VERSION_VALUE, at(header::VERSION))?;
        memory.write_obj(ring.events, at(header::CAPACITY))?;
        memory.write_obj(0u64, at(header::WRITTEN))?;
    }
    Ok(())
}

/// What has been read of all rings.
#[derive(Debug)]
pub struct Reader {
    rings: Vec<Ring>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            rings: (0..=PROGRAM_RINGS).map(Ring::new).collect(),
        }
    }
}

impl Reader {
    /// Hands every event that is new to `take`, ring by ring, in order within each.
    pub fn drain(&mut self, memory: &GuestMemoryMmap, mut take: impl FnMut(GuestEvent)) {
        for ring in &mut self.rings {
            ring.drain(memory, &mut take);
        }
    }

    /// How many events were overwritten before they were read.
    pub fn lost(&self) -> u64 {
        let lost = self.rings.iter().map(|ring| ring.lost);
        lost.fold(0, u64::saturating_add)
    }
}

/// What has been read of a ring.
#[derive(Debug)]
struct Ring {
    number: u8,
    base: u64,
    events: u32,
    read: u64,
    lost: u64,
}

impl Ring {
    fn new(number: usize) -> Ring {
        Ring {
            number: number as u8,
            base: TRACE_BASE + ring_at(number),
            events: match number {
                0 => TRACE_EVENTS,
                _ => PROGRAM_EVENTS,
            },
            read: 0,
            lost: 0,
        }
    }

    fn drain(&mut self, memory: &GuestMemoryMmap, take: &mut impl FnMut(GuestEvent)) {
        let capacity = u64::from(self.events);
        let end = self.written(memory);
        // A writer that turns back has begun anew, or makes fun of us.
        self.read = self.read.min(end);
        self.skip_to(end.saturating_sub(capacity));
        let mut copied = Vec::with_capacity((end - self.read) as usize);
        for number in self.read..end {
            let place = number % capacity * EVENT_BYTES as u64;
            let mut bytes = [0; EVENT_BYTES];
            let at = GuestAddress(self.base + header::BYTES + place);
            if memory.read_slice(&mut bytes, at).is_ok() {
                copied.push((number, bytes));
            }
        }
        // What has been written meanwhile, and the event that is perhaps being written now, lie over
        // the oldest of what was copied.
        fence(Ordering::Acquire);
        let now = self.written(memory).saturating_add(1);
        self.skip_to(now.saturating_sub(capacity).min(end));
        for (number, bytes) in copied {
            if number >= self.read
                && let Some(event) = GuestEvent::parse(&bytes, self.number)
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

    fn written(&self, memory: &GuestMemoryMmap) -> u64 {
        let at = GuestAddress(self.base + header::WRITTEN);
        memory.load(at, Ordering::Acquire).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use iolite_devices_abi::trace::{event_word, kind};

    fn memory() -> GuestMemoryMmap {
        let memory = memory::create(memory::MIN_BYTES).unwrap();
        memory::with_trace_window(memory).unwrap()
    }

    /// A writer in a few lines.
    fn write(memory: &GuestMemoryMmap, ring: usize, number: u64) {
        let Ring { base, events, .. } = Ring::new(ring);
        let place = base + header::BYTES + number % u64::from(events) * EVENT_BYTES as u64;
        let words = [number, event_word(kind::RUN, number as u16, 7), 8, 9];
        for (i, word) in (0..).zip(words) {
            memory.write_obj(word, GuestAddress(place + 8 * i)).unwrap();
        }
        let written = GuestAddress(base + header::WRITTEN);
        memory.write_obj(number + 1, written).unwrap();
    }

    #[test]
    fn what_is_overwritten_is_counted_and_the_rest_comes_in_order() {
        for ring in [0, 1, PROGRAM_RINGS] {
            let memory = memory();
            prepare(&memory).unwrap();
            let (mut reader, mut events) = (Reader::default(), Vec::new());
            let mut next = 0;
            let capacity = u64::from(Ring::new(ring).events);
            for count in [0, 3, 0, capacity + 10] {
                for _ in 0..count {
                    write(&memory, ring, next);
                    next += 1;
                }
                reader.drain(&memory, |event| events.push(event));
            }
            // Ten were overwritten, and where the eleventh lies the guest may be writing.
            assert_eq!(reader.lost(), 11);
            let numbers: Vec<u64> = events.iter().map(|event| event.tsc).collect();
            let wanted: Vec<u64> = (0..3).chain(14..next).collect();
            assert_eq!(numbers, wanted);
            let first = GuestEvent {
                tsc: 0,
                kind: kind::RUN,
                ring: ring as u8,
                a: 0,
                b: 7,
                c: 8,
                d: 9,
            };
            assert_eq!(events[0], first);
        }
    }

    #[test]
    fn a_guest_that_writes_nonsense_gives_no_events() {
        let memory = memory();
        let mut reader = Reader::default();
        for ring in 0..=PROGRAM_RINGS {
            let written = GuestAddress(Ring::new(ring).base + header::WRITTEN);
            for count in [u64::MAX, 0, u64::MAX / 2, 5] {
                memory.write_obj(count, written).unwrap();
                reader.drain(&memory, |event| panic!("{event:?}"));
            }
        }
    }
}
