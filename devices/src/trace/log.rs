//! Events, packed: two words for one that says nothing more, four for one that does. A busy disk has
//! millions of them in a second, and most of what watching costs is the memory that they go through.
//!
//! ```text
//! word 0   time stamp
//! word 1   point 0..8 | disk 8..16 | head 16..32 | queue 32..40 | long 40 | thread 48..64
//! words 2 and 3, if it is long: a and b
//! ```

use super::{Event, POINTS};

/// There are words for `a` and `b`.
const LONG: u64 = 1 << 40;
const THREAD_SHIFT: u32 = 48;

/// Events of several threads.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    words: Vec<u64>,
    events: usize,
}

impl EventLog {
    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Forgets all of them, and keeps the memory.
    pub fn clear(&mut self) {
        self.words.clear();
        self.events = 0;
    }

    /// Adds an event of thread number `thread`.
    pub fn push(&mut self, thread: u16, event: Event) {
        let [tsc, what, a, b] = pack(event);
        self.push_words(thread, tsc, what, [a, b]);
    }

    /// Adds the first events of `other`, at most `most`. Returns how many there were.
    pub fn append(&mut self, other: &EventLog, most: usize) -> usize {
        if other.events <= most {
            self.words.extend_from_slice(&other.words);
            self.events += other.events;
            return other.events;
        }
        self.extend(other.iter().take(most));
        most
    }

    /// The events in their order, each with the number of its thread.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Event)> + '_ {
        self.places().map(|place| self.at(place))
    }

    /// Where the events are, for [`at`](EventLog::at).
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let place = next;
            next += words_of(*self.words.get(place + 1)?);
            Some(place)
        })
    }

    /// The event at one of [`places`](EventLog::places), with the number of its thread.
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, place: usize) -> (u16, Event) {
        let what = self.words[place + 1];
        let more = match words_of(what) {
            4 => [self.words[place + 2], self.words[place + 3]],
            _ => [0; 2],
        };
        (
            (what >> THREAD_SHIFT) as u16,
            unpack(self.words[place], what, more),
        )
    }

    /// Adds an event as [`pack`] makes it.
    pub(super) fn push_words(&mut self, thread: u16, tsc: u64, what: u64, more: [u64; 2]) {
        let what = what | u64::from(thread) << THREAD_SHIFT;
        self.words.extend([tsc, what]);
        if words_of(what) == 4 {
            self.words.extend(more);
        }
        self.events += 1;
    }
}

impl Extend<(u16, Event)> for EventLog {
    fn extend<T: IntoIterator<Item = (u16, Event)>>(&mut self, events: T) {
        for (thread, event) in events {
            self.push(thread, event);
        }
    }
}

impl FromIterator<(u16, Event)> for EventLog {
    fn from_iter<T: IntoIterator<Item = (u16, Event)>>(events: T) -> Self {
        let mut log = EventLog::default();
        log.extend(events);
        log
    }
}

/// An event as words, of which those count that [`words_of`] says; the thread is left open.
pub(super) fn pack(event: Event) -> [u64; 4] {
    let Event { a, b, .. } = event;
    let what = event.point as u64
        | u64::from(event.disk) << 8
        | u64::from(event.head) << 16
        | u64::from(event.queue) << 32;
    let long = if a | b == 0 { 0 } else { LONG };
    [event.tsc, what | long, a, b]
}

/// How many words an event has whose second word is `what`.
pub(super) fn words_of(what: u64) -> usize {
    if what & LONG == 0 { 2 } else { 4 }
}

fn unpack(tsc: u64, what: u64, [a, b]: [u64; 2]) -> Event {
    Event {
        tsc,
        // `pack` wrote the number of a point.
        point: POINTS[what as usize % 256 % POINTS.len()],
        disk: (what >> 8) as u8,
        queue: (what >> 32) as u8,
        head: (what >> 16) as u16,
        a,
        b,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Point;
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = (u16, Event)> {
        let word = || prop_oneof![Just(0), any::<u64>()];
        let point = prop::sample::select(POINTS.to_vec());
        (any::<(u16, u64, u8, u8, u16)>(), point, word(), word()).prop_map(
            |((thread, tsc, disk, queue, head), point, a, b)| {
                let event = Event {
                    tsc,
                    point,
                    disk,
                    queue,
                    head,
                    a,
                    b,
                };
                (thread, event)
            },
        )
    }

    proptest! {
        #[test]
        fn events_come_back_as_they_were(
            events in prop::collection::vec(any_event(), 0..20),
            most in 0usize..25,
        ) {
            let log: EventLog = events.iter().copied().collect();
            prop_assert_eq!(log.len(), events.len());
            prop_assert!(log.iter().eq(events.iter().copied()));
            let mut first = EventLog::default();
            prop_assert_eq!(first.append(&log, most), most.min(events.len()));
            prop_assert!(first.iter().eq(events.iter().copied().take(most)));
        }
    }

    #[test]
    fn what_says_nothing_more_is_short() {
        let mut log = EventLog::default();
        let event = unpack(5, Point::Begun as u64, [0; 2]);
        log.push(1, event);
        assert_eq!(log.words.len(), 2);
        log.push(1, Event { b: 1, ..event });
        assert_eq!(log.words.len(), 6);
        log.clear();
        assert!(log.is_empty() && log.iter().next().is_none());
    }
}
