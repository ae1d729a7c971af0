//! Events, packed: most take one word of 64 bits, those that say more than where and when take three. A
//! busy disk has millions of them in a second, and most of what watching costs is the memory that they
//! go through. So that they need not be looked at on the way, words of one thread are copied as they
//! are.
//!
//! ```text
//! an event   point 0..4 | long 4 | pair 5 | queue 6..10 | disk 10..16 | head 16..26 | time 26..64
//!            if it is long, two more words: a, b
//!            if it is a pair, one more word: how many ticks earlier the point with the number before
//!            was, of the same request
//! a mark     15 in place of a point | once 4 | thread 16..32
//!            and one more word: the time that the times of the events after it are near to; if it is
//!            for once, of the next one only
//! ```
//!
//! An event has the lower 38 bits of its time, the rest is that of the mark: a minute and a half at 2.6
//! GHz is told apart. Who records an event puts a mark of its own before it if its time is farther from
//! the last collection than a quarter of that.
#![allow(unsafe_code)]

use super::{Event, POINTS, Point};

/// In place of a point.
const MARK: u64 = 15;
/// There are words for `a` and `b`.
const LONG: u64 = 1 << 4;
/// A mark of the next event only.
const ONCE: u64 = LONG;
/// There is a word for the point before.
const PAIR: u64 = 1 << 5;
const QUEUE: Bits = Bits { at: 6, bits: 4 };
const DISK: Bits = Bits { at: 10, bits: 6 };
const HEAD: Bits = Bits { at: 16, bits: 10 };
const THREAD: Bits = Bits { at: 16, bits: 16 };
const TIME: Bits = Bits { at: 26, bits: 38 };
/// How far from its mark an event may be, in ticks, when it is recorded.
const NEAR: u64 = 1 << (TIME.bits - 2);

/// A page of memory in bytes.
const PAGE: usize = 4096;

/// The most words that an event takes, with a mark before it.
pub(super) const MOST_WORDS: usize = 6;

/// Some of the bits of a word.
struct Bits {
    at: u32,
    bits: u32,
}

impl Bits {
    const fn most(&self) -> u64 {
        (1 << self.bits) - 1
    }

    fn of(&self, word: u64) -> u64 {
        word >> self.at & self.most()
    }

    /// `value`, cut to the bits, in their place.
    const fn put(&self, value: u64) -> u64 {
        (value & self.most()) << self.at
    }
}

/// The first word of an event, but for its time and what follows: what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct About(u64);

impl About {
    /// Queue `queue` of disk number `disk`, or of none that has a number.
    pub(super) const fn queue(disk: u8, queue: u8) -> About {
        let disk = match disk as u64 {
            disk if disk < DISK.most() => disk,
            _ => DISK.most(),
        };
        About(DISK.put(disk) | QUEUE.put(queue as u64))
    }

    /// That the request with this head has reached this point there.
    #[inline(always)]
    pub(super) const fn reached(self, point: Point, head: u16) -> About {
        About(self.0 | point as u64 | HEAD.put(head as u64))
    }
}

/// An event as its thread sees it.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) about: About,
    pub(super) tsc: u64,
    /// `a` and `b` of [`Event`].
    pub(super) more: [u64; 2],
    /// When the point with the number before was reached, if that is said along with it.
    pub(super) before: Option<u64>,
}

/// Gives the words for an event of thread number `thread`, behind a mark of the time `mark`, to `put`.
#[inline(always)]
pub(super) fn pack(seen: Seen, thread: u16, mark: u64, mut put: impl FnMut(u64)) {
    let Seen {
        about,
        tsc,
        more,
        before,
    } = seen;
    if tsc.abs_diff(mark) >= NEAR {
        let [mark, time] = self::mark(thread, tsc);
        [mark | ONCE, time].into_iter().for_each(&mut put);
    }
    let long = more != [0; 2];
    put(about.0
        | if long { LONG } else { 0 }
        | if before.is_some() { PAIR } else { 0 }
        | TIME.put(tsc));
    if long {
        more.into_iter().for_each(&mut put);
    }
    if let Some(before) = before {
        put(tsc.wrapping_sub(before));
    }
}

fn mark(thread: u16, time: u64) -> [u64; 2] {
    [MARK | THREAD.put(thread.into()), time]
}

/// The time of an event whose word this is, behind a mark of the time `mark`.
fn time(word: u64, mark: u64) -> u64 {
    let earliest = mark.wrapping_sub(1 << (TIME.bits - 1));
    earliest.wrapping_add(TIME.of(word).wrapping_sub(earliest) & TIME.most())
}

/// Where an event is in a log, and which thread's it is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    word: u32,
    /// It is the one before in a pair.
    before: bool,
    /// The thread's number.
    pub thread: u16,
}

impl Place {
    /// A number that is greater for what comes later in the log.
    pub fn order(self) -> u64 {
        u64::from(self.word) << 1 | u64::from(!self.before)
    }
}

/// Events of several threads.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    words: Vec<u64>,
}

impl EventLog {
    /// Without events, and with room for `bytes` bytes of them, whose memory is there from the start: to
    /// get it while events come would take longer than all the rest. With less or none if the system has
    /// no more.
    pub fn with_room(bytes: usize) -> Self {
        let mut words: Vec<u64> = Vec::new();
        let _ = words.try_reserve_exact(bytes / size_of::<u64>());
        let room = words.capacity() * size_of::<u64>();
        let start = words.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(PAGE).min(room);
        let whole_pages = (room - skip) / PAGE * PAGE;
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_POPULATE_WRITE] {
            // SAFETY: whole pages of the vector's own, or none; neither advice changes what is in them.
            // Either may be refused, then the memory comes later, or in smaller pages.
            unsafe { libc::madvise(start.add(skip).cast(), whole_pages, advice) };
        }
        EventLog { words }
    }

    /// How many bytes the events take.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Forgets all of them, and keeps the memory.
    pub fn clear(&mut self) {
        self.words.clear();
    }

    /// Gives back the memory that is not in use.
    pub fn shrink(&mut self) {
        self.words.shrink_to_fit();
    }

    /// Adds an event of thread number `thread`.
    pub fn push(&mut self, thread: u16, event: Event) {
        self.words.extend(mark(thread, event.tsc));
        pack(event.seen(), thread, event.tsc, |word| {
            self.words.push(word)
        });
    }

    /// Adds the events of `other`.
    pub fn append(&mut self, other: &EventLog) {
        self.words.extend_from_slice(&other.words);
    }

    /// The events in their order, each with the number of its thread.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Event)> + '_ {
        self.places()
            .map(|(tsc, place)| (place.thread, self.at(tsc, place)))
    }

    /// When the events were and where they are, for [`at`](EventLog::at).
    pub fn places(&self) -> impl Iterator<Item = (u64, Place)> + '_ {
        let (mut next, mut thread, mut near, mut once) = (0, 0, 0, None);
        // The second one of a pair.
        let mut second = None;
        std::iter::from_fn(move || {
            if let Some(second) = second.take() {
                return Some(second);
            }
            loop {
                let (at, first) = (next, *self.words.get(next)?);
                next += words_of(first);
                if is_mark(first) {
                    thread = THREAD.of(first) as u16;
                    let time = *self.words.get(at + 1)?;
                    match first & ONCE {
                        0 => near = time,
                        _ => once = Some(time),
                    }
                    continue;
                }
                let place = |before| Place {
                    // Nobody keeps 32 GiB of events.
                    word: at as u32,
                    before,
                    thread,
                };
                let event = (time(first, once.take().unwrap_or(near)), place(false));
                if first & PAIR == 0 {
                    return Some(event);
                }
                second = Some(event);
                let ticks = *self.words.get(next - 1)?;
                return Some((event.0.wrapping_sub(ticks), place(true)));
            }
        })
    }

    /// The event at one of [`places`](EventLog::places).
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn at(&self, tsc: u64, place: Place) -> Event {
        let words = &self.words[place.word as usize..];
        let first = words[0];
        let [a, b] = match first & LONG {
            0 => [0; 2],
            _ => [words[1], words[2]],
        };
        // `pack` wrote the number of a point.
        let point = |number: usize| POINTS[number % POINTS.len()];
        let number = (first & 0xf) as usize;
        let disk = match DISK.of(first) {
            disk if disk == DISK.most() => u8::MAX,
            disk => disk as u8,
        };
        let event = Event {
            tsc,
            point: point(number),
            disk,
            queue: QUEUE.of(first) as u8,
            head: HEAD.of(first) as u16,
            a,
            b,
        };
        match place.before {
            false => event,
            true => Event {
                point: point(number.wrapping_sub(1)),
                a: 0,
                b: 0,
                ..event
            },
        }
    }

    /// Adds words of thread number `thread` as [`pack`] made them behind a mark of the time `time`.
    pub(super) fn extend_from_words(&mut self, thread: u16, time: u64, words: [&[u64]; 2]) {
        self.words.extend(mark(thread, time));
        for words in words {
            self.words.extend_from_slice(words);
        }
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

fn is_mark(first: u64) -> bool {
    first & 0xf == MARK
}

impl Event {
    fn seen(&self) -> Seen {
        Seen {
            about: About::queue(self.disk, self.queue).reached(self.point, self.head),
            tsc: self.tsc,
            more: [self.a, self.b],
            before: None,
        }
    }
}

/// How many words there are from a first one to the next.
fn words_of(first: u64) -> usize {
    if is_mark(first) {
        return 2;
    }
    let [long, pair] = [LONG, PAIR].map(|flag| usize::from(first & flag != 0));
    1 + 2 * long + pair
}

/// The numbers of points are less than that of a mark.
const _: () = assert!(POINTS.len() as u64 <= MARK && Point::Notified as u64 == 0);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any event at one of these times.
    fn event_at(times: impl Strategy<Value = u64>) -> impl Strategy<Value = Event> {
        let word = || prop_oneof![Just(0), any::<u64>()];
        let disk = prop_oneof![0..63u8, Just(u8::MAX)];
        let point = prop::sample::select(POINTS.to_vec());
        (times, point, disk, 0..16u8, 0..1024u16, word(), word()).prop_map(
            |(tsc, point, disk, queue, head, a, b)| Event {
                tsc,
                point,
                disk,
                queue,
                head,
                a,
                b,
            },
        )
    }

    fn any_event() -> impl Strategy<Value = (u16, Event)> {
        (any::<u16>(), event_at(any::<u64>()))
    }

    proptest! {
        #[test]
        fn events_come_back_as_they_were(
            events in prop::collection::vec(any_event(), 0..20),
            more in prop::collection::vec(any_event(), 0..20),
        ) {
            let mut log: EventLog = events.iter().copied().collect();
            prop_assert!(log.iter().eq(events.iter().copied()));
            log.append(&more.iter().copied().collect());
            prop_assert!(log.iter().eq(events.iter().chain(&more).copied()));
        }

        #[test]
        fn events_come_back_from_between_two_collections(
            collection in prop_oneof![0..10u64, any::<u64>()],
            near in prop::collection::vec(event_at(0..NEAR), 0..10),
            far in prop::collection::vec(event_at(any::<u64>()), 0..10),
            cut in any::<prop::sample::Index>(),
        ) {
            let before = near.iter().map(|event| Event {
                tsc: collection.wrapping_sub(event.tsc),
                ..*event
            });
            let after = near.iter().map(|event| Event {
                tsc: collection.wrapping_add(event.tsc),
                ..*event
            });
            let mut events: Vec<Event> = before.chain(after).chain(far.iter().copied()).collect();
            // Near ones after far ones, too.
            events.extend_from_within(..near.len());
            let mut words = Vec::new();
            for event in &events {
                pack(event.seen(), 7, collection, |word| words.push(word));
            }
            // Once round the end of a ring.
            let (first, second) = words.split_at(cut.index(words.len() + 1));
            let mut log = EventLog::default();
            log.extend_from_words(7, collection, [first, second]);
            let wanted: Vec<_> = events.into_iter().map(|event| (7, event)).collect();
            prop_assert_eq!(log.iter().collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn what_says_nothing_more_is_one_word() {
        let event = Event {
            tsc: 5,
            point: Point::Begun,
            disk: 1,
            queue: 2,
            head: 3,
            a: 0,
            b: 0,
        };
        let words = |event: Event, before, mark| {
            let mut words = 0;
            let seen = Seen {
                before,
                ..event.seen()
            };
            pack(seen, 0, mark, |_| words += 1);
            words
        };
        assert_eq!(words(event, None, 4), 1);
        assert_eq!(words(Event { b: 1, ..event }, None, 6), 3);
        assert_eq!(words(event, Some(4), 5), 2);
        assert_eq!(words(event, None, 5 + NEAR), 3);
        assert_eq!(
            words(Event { a: 1, ..event }, Some(4), u64::MAX),
            MOST_WORDS
        );
    }

    #[test]
    fn a_pair_is_two_events() {
        let event = Event {
            tsc: 105,
            point: Point::Parsed,
            disk: 1,
            queue: 2,
            head: 3,
            a: 4,
            b: 5,
        };
        let before = Event {
            tsc: 100,
            point: Point::Popped,
            a: 0,
            b: 0,
            ..event
        };
        let mut words = Vec::new();
        let pair = Seen {
            before: Some(100),
            ..event.seen()
        };
        pack(pair, 9, 90, |word| words.push(word));
        let mut log = EventLog::default();
        log.extend_from_words(9, 90, [&words, &words]);
        let both = [(9, before), (9, event)];
        assert!(log.iter().eq(both.into_iter().chain(both)));
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let mut log = EventLog::with_room(1 << 20);
        assert!(log.is_empty() && log.bytes() == 0);
        log.extend_from_words(1, 2, [&[3], &[]]);
        assert_eq!((log.bytes(), log.iter().count()), (24, 1));
        log.clear();
        assert!(log.is_empty() && log.iter().next().is_none());
    }
}
