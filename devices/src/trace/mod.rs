//! What happens to requests on the host, event by event, for whoever wants to watch.
//!
//! Off, as it nearly always is, an event costs a relaxed load and a branch. On, each thread writes
//! to a ring of its own, without a lock and without a system call; one collector ([`drain`]) empties
//! the rings into an [`EventLog`] every few milliseconds. What finds its ring full is counted, not
//! waited for. Time is the time stamp counter: the guest's is the same one, moved by an offset.
//!
//! A request is named by its disk, its queue and its head, as in the guest's half (docs/tracing.md).

#![allow(unsafe_code)]

mod log;
mod ring;

pub use crate::ticks::now;
pub use log::{EventLog, Place};

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{About, Seen};
use ring::Ring;

/// What has happened. `a` and `b` of an [`Event`] are 0 where nothing is said of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Point {
    /// The queue's thread has received an available buffer notification.
    Notified,
    /// A head was popped.
    Popped,
    /// The chain was parsed: `a` is the first byte on the disk, `b` the number of bytes, and in the
    /// highest byte an [`operation`].
    Parsed,
    /// The backend begins.
    Begun,
    /// The backend has ended.
    Ended,
    /// A completion that was held back is due.
    Released,
    /// The chain is about to be put into the used ring: `a` is the status byte, if there is one.
    Used,
    /// The driver is about to be interrupted for all that was used.
    Interrupted,
    /// The driver does not want an interrupt for what was used.
    Suppressed,
    /// The vCPU enters the guest.
    Entered,
    /// The vCPU has left the guest: `a` is an [`exit`] reason, `b` the address or port.
    Exited,
}

/// Every one of them, in order.
pub const POINTS: [Point; 11] = [
    Point::Notified,
    Point::Popped,
    Point::Parsed,
    Point::Begun,
    Point::Ended,
    Point::Released,
    Point::Used,
    Point::Interrupted,
    Point::Suppressed,
    Point::Entered,
    Point::Exited,
];

/// What a request does, in [`Point::Parsed`].
pub mod operation {
    /// A read.
    pub const READ: u8 = 0;
    /// A write.
    pub const WRITE: u8 = 1;
    /// A flush.
    pub const FLUSH: u8 = 2;
    /// A range is discarded or zeroed.
    pub const DISCARD: u8 = 3;
    /// Anything else.
    pub const OTHER: u8 = 4;
}

/// Why the vCPU has left the guest, in [`Point::Exited`].
pub mod exit {
    /// Anything else.
    pub const OTHER: u64 = 0;
    /// A port was read.
    pub const PORT_IN: u64 = 1;
    /// A port was written.
    pub const PORT_OUT: u64 = 2;
    /// Device memory was read.
    pub const MMIO_READ: u64 = 3;
    /// Device memory was written.
    pub const MMIO_WRITE: u64 = 4;
    /// A signal.
    pub const SIGNAL: u64 = 5;
}

/// One event as it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The host's time stamp counter.
    pub tsc: u64,
    /// What has happened.
    pub point: Point,
    /// Which disk, by the order of [`Queue::of`].
    pub disk: u8,
    /// Which of its queues.
    pub queue: u8,
    /// The head index of the request.
    pub head: u16,
    /// See [`Point`].
    pub a: u64,
    /// See [`Point`].
    pub b: u64,
}

/// A queue of a disk, as events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue(About);

impl Queue {
    /// For events that concern no disk.
    pub const NONE: Queue = Queue(About::queue(u8::MAX, 0));

    /// Queue `number` of the disk with this name. The first name is disk 0, and so on; the same
    /// name, the same disk.
    pub fn of(disk: &str, number: u8) -> Queue {
        let mut names = lock(&NAMES);
        let known = names.iter().position(|known| known == disk);
        let index = known.unwrap_or_else(|| {
            names.push(disk.to_owned());
            names.len() - 1
        });
        u8::try_from(index).map_or(Queue::NONE, |disk| Queue(About::queue(disk, number)))
    }

    /// The queue that log lines call `label`: a disk's name, or `vda.1` where there are several.
    pub fn labelled(label: &str) -> Queue {
        let several = label.rsplit_once('.');
        let numbered = several.and_then(|(disk, number)| Some((disk, number.parse().ok()?)));
        let (disk, number) = numbered.unwrap_or((label, 0));
        Self::of(disk, number)
    }

    /// Records an event about the request with this head, if somebody watches.
    #[inline(always)]
    pub fn event(self, point: Point, head: u16, a: u64, b: u64) {
        if let Some(now) = now_if_on() {
            record(self.0.reached(point, head), now, [a, b], None);
        }
    }

    /// Records an event of an earlier time, if somebody watches. No event of the same thread may
    /// come between.
    #[inline(always)]
    pub fn event_at(self, tsc: u64, point: Point, head: u16, a: u64, b: u64) {
        if is_on() {
            record(self.0.reached(point, head), tsc, [a, b], None);
        }
    }

    /// Records an event, and that the [point](POINTS) before it was reached at `times[0]`, if somebody
    /// watches. No event of the same thread may come between.
    #[inline(always)]
    pub fn pair(self, times: [u64; 2], point: Point, head: u16, a: u64, b: u64) {
        if is_on() {
            let [before, tsc] = times;
            record(self.0.reached(point, head), tsc, [a, b], Some(before));
        }
    }

    /// What the time is for something that follows `point` of the request with this head, if somebody
    /// watches. If that was the last event of this thread, it is the same time: to look at the counter
    /// takes longer than everything else about an event.
    #[inline(always)]
    pub fn time_after(self, point: Point, head: u16) -> Option<u64> {
        is_on().then(|| match LAST.get() {
            (last, tsc) if last == self.0.reached(point, head) => tsc,
            _ => now(),
        })
    }
}

/// Does somebody watch?
#[inline(always)]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The time stamp counter, if somebody watches.
#[inline(always)]
pub fn now_if_on() -> Option<u64> {
    is_on().then(now)
}

#[inline(never)]
fn record(about: About, tsc: u64, more: [u64; 2], before: Option<u64>) {
    LAST.set((about, tsc));
    let ring = RING.get().unwrap_or_else(register);
    let seen = Seen {
        about,
        tsc,
        more,
        before,
    };
    // SAFETY: it is this thread's.
    unsafe { ring.push(seen) };
}

/// Makes the calling thread's ring.
#[cold]
fn register() -> &'static Ring {
    let mut rings = lock(&RINGS);
    // There are far fewer threads.
    let number = u16::try_from(rings.len()).unwrap_or(u16::MAX);
    let ring = Box::leak(Box::new(Ring::of_this_thread(number)));
    rings.push(ring);
    RING.set(Some(ring));
    ring
}

static ON: AtomicBool = AtomicBool::new(false);
static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// The ring of each thread that has recorded something. They stay when the threads have ended: what is
/// in them is still to be collected.
static RINGS: Mutex<Vec<&Ring>> = Mutex::new(Vec::new());

thread_local! {
    static RING: Cell<Option<&'static Ring>> = const { Cell::new(None) };
    /// This thread's last event, and when it was.
    static LAST: Cell<(About, u64)> = const { Cell::new((Queue::NONE.0, 0)) };
}

/// Starts to watch.
pub fn start() {
    ON.store(true, Ordering::Relaxed);
}

/// Stops to watch. What is in the rings can still be drained.
pub fn stop() {
    ON.store(false, Ordering::Relaxed);
}

/// The names of all disks, by their numbers.
pub fn disks() -> Vec<String> {
    lock(&NAMES).clone()
}

/// The threads that have recorded something, in the order of their first event. Numbers stay.
pub fn threads() -> Vec<String> {
    lock(&RINGS)
        .iter()
        .map(|ring| ring.name().to_owned())
        .collect()
}

/// How many events found their ring full.
pub fn lost() -> u64 {
    let rings = lock(&RINGS);
    rings.iter().map(|ring| ring.lost()).sum()
}

/// Moves everything recorded so far to the end of `log`, one thread after the other, each in order.
pub fn drain(log: &mut EventLog) {
    for ring in lock(&RINGS).iter() {
        // SAFETY: this is the only place, and the lock is held.
        unsafe { ring.drain(log) };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn events_come_back_in_order_and_none_twice() {
        // The only test of this process that watches.
        let disk = Queue::of("trace-test", 3);
        disk.event(Point::Popped, 1, 0, 0);
        start();
        let worker = thread::Builder::new().name("trace-worker".into());
        let worker = worker.spawn(move || {
            disk.event(Point::Parsed, 7, 4096, 512);
            assert_ne!(
                disk.time_after(Point::Parsed, 6),
                disk.time_after(Point::Parsed, 7)
            );
            let time = disk.time_after(Point::Parsed, 7).unwrap();
            disk.event_at(time, Point::Used, 7, 1, 0);
            assert_ne!(disk.time_after(Point::Parsed, 7), Some(time));
        });
        worker.unwrap().join().unwrap();
        for _ in 0..ring::SHORT_EVENTS + 3 {
            disk.event(Point::Begun, 9, 0, 0);
        }
        stop();
        disk.event(Point::Popped, 1, 0, 0);
        let mut log = EventLog::default();
        let mut collect = || {
            drain(&mut log);
            let number = disks().iter().position(|name| name == "trace-test");
            let ours = log
                .iter()
                .filter(|(_, event)| Some(usize::from(event.disk)) == number);
            ours.collect::<Vec<_>>()
        };
        let (first, second) = (collect(), collect());
        assert_eq!(first.len() as u64, ring::SHORT_EVENTS + 2);
        assert_eq!(first, second);
        assert_eq!(lost(), 3);
        let worker = threads().iter().position(|name| name == "trace-worker");
        let of_worker: Vec<_> = first
            .iter()
            .filter(|(thread, _)| Some(usize::from(*thread)) == worker)
            .collect();
        let [(_, parsed), (_, used)] = of_worker[..] else {
            panic!("{of_worker:?}")
        };
        assert_eq!(
            (parsed.point, parsed.head, parsed.a, parsed.b),
            (Point::Parsed, 7, 4096, 512)
        );
        assert_eq!((used.point, used.queue, used.a), (Point::Used, 3, 1));
        assert_eq!(used.tsc, parsed.tsc);
        assert_eq!(Queue::of("trace-test", 3), disk);
    }
}
