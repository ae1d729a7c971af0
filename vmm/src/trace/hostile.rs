//! Guests that fill their rings with lies: whatever they say, a trace is made of it in time and
//! memory that grow with the number of events, and no further than its bounds.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use iolite_devices_abi::trace::{ask, kind};

use super::assemble::assemble;
use super::assemble::bounds::{MOST_SLICES, MOST_THREADS, MOST_UNSEEN};
use super::clock::Scale;
use super::model::{Moment, Request, Trace};
use super::raw::{GuestEvent, Recording};
use super::tests::{OFFSET, blocking_reads, rules, trace_of as trace_of_both};
use super::{chrome, read, summary};

/// As many events as a session keeps.
const MOST_EVENTS: u64 = (64 << 20) / 32;

/// What a guest says as its event number n.
type Lie = fn(u64) -> GuestEvent;

fn event(n: u64, kind: u8, a: u64, b: u64) -> GuestEvent {
    GuestEvent {
        tsc: n,
        kind,
        a: a as u16,
        b: b as u32,
        c: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 0x4141_4141,
        d: n,
        ..GuestEvent::default()
    }
}

const LIES: [(&str, Lie); 10] = [
    ("new threads, each named and run", |n| match n % 2 {
        0 => event(n, kind::NAME, n / 2, n),
        _ => event(n, kind::RUN, n / 2, 0),
    }),
    ("one thread, named anew again and again", |n| match n % 2 {
        0 => event(n, kind::NAME, 7, n),
        _ => event(n, kind::RUN, 7, 0),
    }),
    ("new processes of one thread", |n| {
        event(n, kind::NAME, 7, n)
    }),
    ("new names of system calls", |n| {
        event(n, kind::CALL_NAME, 0, n)
    }),
    ("new system calls", |n| match n % 3 {
        0 => event(n, kind::RUN, n % 2, 0),
        1 => event(n, kind::ENTER, u64::from(ask::CALL), n),
        _ => event(n, kind::LEAVE, 0, 0),
    }),
    ("threads that take turns in calls", |n| match n {
        0..64 => event(n, kind::RUN, n / 2, 0),
        64..128 if n % 2 == 0 => event(n, kind::RUN, n / 2, 0),
        64..128 => event(n, kind::ENTER, u64::from(ask::FAULT), 0),
        _ => event(n, kind::RUN, n, 0),
    }),
    ("requests that no device sees", |n| {
        event(n, kind::ADD, n, n << 16)
    }),
    ("requests of one head", |n| event(n, kind::ADD, 3, 0)),
    ("writers of rings that are not there", |n| {
        event(n, kind::WRITER, 1, n)
    }),
    ("interrupts and wake-ups of all threads", |n| match n % 2 {
        0 => event(n, kind::INTERRUPT, 0, 5 + n % 19),
        _ => event(n, kind::WAKE, n / 2, 0),
    }),
];

fn lies(lie: Lie, count: u64) -> Recording {
    Recording {
        guest: (0..count).map(lie).collect(),
        disks: vec!["vda".into()],
        ..Recording::default()
    }
}

fn trace_of(recording: &Recording) -> Trace {
    let end = recording.guest.len() as u64 + 1;
    assemble(recording, &Scale::nanoseconds(end), 0)
}

/// How long a file would be.
#[derive(Default)]
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn file_bytes(trace: &Trace) -> u64 {
    let mut length = Length::default();
    chrome::write(&mut length, trace).unwrap();
    length.0
}

/// What a trace holds at most.
fn check_bounds(trace: &Trace) {
    assert!(trace.lanes.len() <= MOST_THREADS + 1);
    assert!(trace.slices.len() <= MOST_SLICES);
    assert!(trace.requests.len() <= MOST_UNSEEN);
    assert!(file_bytes(trace) < 200 << 20);
}

#[test]
fn no_lie_is_without_bounds() {
    let started = Instant::now();
    for (name, lie) in LIES {
        let trace = trace_of(&lies(lie, 200_000));
        check_bounds(&trace);
        // Some of it finds no room, which is said; all of what finds room is there.
        let lost = trace.about.lost().unwrap_or_default();
        let some = match name {
            "new system calls" | "threads that take turns in calls" => trace.slices.len(),
            "writers of rings that are not there" => 1,
            _ => trace.about.left_out as usize,
        };
        assert!(some > 0, "{name}: {lost}");
        assert_eq!(lost.contains("left out"), trace.about.left_out > 0);
        if trace.about.left_out > 0 {
            assert!(summary::render(&trace).contains("of the guest left out"));
        }
    }
    // What grows with the square of the events takes many minutes.
    assert!(started.elapsed() < Duration::from_secs(120));
}

#[test]
fn a_recording_full_of_slices_has_bounds() {
    let new_calls = LIES.iter().find(|lie| lie.0 == "new system calls");
    let trace = trace_of(&lies(new_calls.unwrap().1, MOST_EVENTS));
    check_bounds(&trace);
    assert_eq!(trace.slices.len(), MOST_SLICES);
    assert!(trace.about.left_out > 0);
}

/// Each request of an honest guest is nine events of its own and 56 bytes of the host's.
#[test]
fn nothing_is_left_out_of_a_full_recording_of_an_honest_guest() {
    let trace = trace_of_both(&blocking_reads((64 << 20) / (9 * 32 + 56)));
    assert_eq!(trace.about.lost(), None);
    assert!(trace.requests.iter().all(Request::is_complete));
}

#[test]
fn a_trace_of_lies_keeps_the_rules_and_what_the_device_did_is_kept() {
    for (name, lie) in LIES {
        let mut recording = blocking_reads(500);
        let honest = recording.guest.len();
        recording.guest.extend((0..25_000).map(|n| GuestEvent {
            tsc: lie(n).tsc * 10 + OFFSET as u64,
            ..lie(n)
        }));
        recording.guest.rotate_left(honest);
        let trace = trace_of_both(&recording);
        let mut file = Vec::new();
        chrome::write(&mut file, &trace).unwrap();
        let phases = rules::check(std::str::from_utf8(&file).unwrap());
        let phases = phases.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(phases["b"] >= 500, "{name}");
        let served = trace.requests.iter();
        let served = served.filter(|r| r.when(Moment::Used).is_some());
        assert_eq!(served.count(), 500, "{name}");
        let read = read::read_from(io::Cursor::new(&file), "t").unwrap();
        assert_eq!(read.about.left_out, trace.about.left_out);
    }
}
