//! Traces made of events that nobody recorded: lives that are known, events that make no sense, and
//! very many.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::{Duration, Instant};

use iolite_devices::trace::{Event, POINTS, Point, operation};
use iolite_devices_abi::trace::{ask, kind, purpose};
use proptest::prelude::*;

use super::assemble::assemble;
use super::clock::Scale;
use super::model::{About, Moment, NEVER, Trace};
use super::parts::Part;
use super::raw::{GuestEvent, Recording};
use super::{chrome, parts, read, report, summary, timeline};

#[path = "../../../tests/support/chrome.rs"]
pub mod rules;

/// The guest's clock is ahead of the host's by this.
pub const OFFSET: i64 = 1_000_000;

fn guest(at: u64, kind: u8, a: u16, b: u32) -> GuestEvent {
    let tsc = at + OFFSET as u64;
    GuestEvent {
        tsc,
        kind,
        a,
        b,
        ..GuestEvent::default()
    }
}

/// An event in a program's ring.
fn program(at: u64, ring: u8, kind: u8, (a, b): (u16, u32), (c, d): (u64, u64)) -> GuestEvent {
    GuestEvent {
        ring,
        c,
        d,
        ..guest(at, kind, a, b)
    }
}

fn host(at: u64, point: Point, head: u16, a: u64, b: u64) -> (u16, Event) {
    let event = Event {
        tsc: at,
        point,
        disk: 1,
        queue: 0,
        head,
        a,
        b,
    };
    (0, event)
}

/// `count` blocking reads of 4 KiB, one after the other, each 1000 ns long.
pub fn blocking_reads(count: u64) -> Recording {
    let mut recording = Recording {
        threads: vec!["vdb-worker-0".into()],
        disks: vec!["vda".into(), "vdb".into()],
        ..Recording::default()
    };
    let call = GuestEvent {
        c: u64::from_le_bytes(*b"pread\0\0\0"),
        ..guest(1, kind::CALL_NAME, 0, 5)
    };
    recording.guest.extend([call, guest(2, kind::RUN, 7, 0)]);
    for number in 0..count {
        let at = 1000 * number + 10;
        let head = (number % 64) as u16;
        recording.guest.extend([
            GuestEvent {
                c: 0x33,
                ..guest(at, kind::ENTER, ask::CALL, 5)
            },
            guest(at + 100, kind::ADD, head, 1 | u32::from(purpose::WAIT) << 8),
            guest(at + 110, kind::NOTIFY, 0, 1),
            guest(at + 130, kind::IDLE, 0, 0),
            guest(at + 700, kind::INTERRUPT, 0, 6),
            guest(at + 720, kind::HARVEST, head, 1),
            guest(at + 740, kind::WAKE, 7, 0),
            guest(at + 780, kind::RUN, 7, 0),
            guest(at + 850, kind::LEAVE, 0, 0),
        ]);
        let read = u64::from(operation::READ) << 56 | 4096;
        recording.host.extend([
            host(at + 150, Point::Notified, 0, 0, 0),
            host(at + 160, Point::Popped, head, 0, 0),
            host(at + 170, Point::Parsed, head, 4096 * number, read),
            host(at + 180, Point::Begun, head, 0, 0),
            host(at + 600, Point::Ended, head, 0, 0),
            host(at + 610, Point::Used, head, 0, 0),
            host(at + 620, Point::Interrupted, 0, 0, 0),
        ]);
    }
    recording
}

pub fn trace_of(recording: &Recording) -> Trace {
    let last = recording
        .host
        .iter()
        .last()
        .map_or(0, |(_, event)| event.tsc);
    let mut trace = assemble(recording, &Scale::nanoseconds(last + 2000), OFFSET);
    trace.about = About {
        iolite_trace: chrome::VERSION,
        disks: recording.disks.clone(),
        duration_ns: last + 2000,
        ..trace.about
    };
    trace
}

fn written(trace: &Trace) -> Vec<u8> {
    let mut file = Vec::new();
    chrome::write(&mut file, trace).unwrap();
    file
}

#[test]
fn clocks_that_do_not_agree_are_seen() {
    let recording = blocking_reads(50);
    assert_eq!(trace_of(&recording).disordered(), 0);
    // What the device does seems to be before the guest gives it the request, or after it has it back.
    for shift in [-200, 200] {
        let trace = assemble(&recording, &Scale::nanoseconds(100_000), OFFSET + shift);
        assert!(trace.disordered() >= 49, "{shift}: {}", trace.disordered());
    }
}

#[test]
fn a_guest_that_says_nothing_is_heard_by_its_notifications() {
    let recording = Recording {
        guest: Vec::new(),
        ..blocking_reads(3)
    };
    let trace = trace_of(&recording);
    for (number, request) in (0..).zip(&trace.requests) {
        let wanted = [150, 160].map(|at| Some(1000 * number + 10 + at));
        let seen = [Moment::Received, Moment::Popped].map(|moment| request.when(moment));
        assert_eq!(seen, wanted);
    }
}

#[test]
fn a_life_is_put_together_from_both_sides() {
    let trace = trace_of(&blocking_reads(3));
    assert_eq!(trace.requests.len(), 3);
    let request = &trace.requests[1];
    let moments = [
        0, 100, 110, 150, 160, 170, 180, 600, 610, 620, 700, 720, 740, 780, 850,
    ];
    let seen: Vec<u64> = request.at.into_iter().filter(|at| *at != NEVER).collect();
    assert_eq!(seen, moments.map(|at| 1010 + at));
    // It had no server.
    assert_eq!(request.when(Moment::Taken), None);
    assert_eq!((request.sector, request.bytes), (8, 4096));
    assert_eq!(trace.names.text(request.path), "blocking-read");
    assert!(request.waited_for && request.is_complete());
    assert_eq!(parts::whole(request), 850);
    let lane = |lane: Option<u16>| trace.lanes[usize::from(lane.unwrap())].name.as_str();
    assert_eq!(lane(request.asker), "thread 7");
    assert_eq!(lane(request.worker), "vdb-worker-0");
}

#[test]
fn what_is_written_keeps_the_rules_and_is_read_back() {
    let trace = trace_of(&blocking_reads(50));
    let file = written(&trace);
    let phases = rules::check(std::str::from_utf8(&file).unwrap()).unwrap();
    assert_eq!((phases["b"], phases["e"], phases["f"]), (50, 50, 50));
    let read = read::read_from(Cursor::new(&file), "t").unwrap();
    assert_eq!(read.requests.len(), 50);
    for (read, written) in read.requests.iter().zip(&trace.requests) {
        assert_eq!(read.at, written.at);
        assert_eq!(
            (read.key(), read.op, read.status),
            (written.key(), written.op, Some(0))
        );
    }
    let time = |trace: &Trace| {
        let mut time = BTreeMap::new();
        for slice in &trace.slices {
            let lane = &trace.lanes[usize::from(slice.lane)].name;
            let key = (lane.clone(), trace.names.text(slice.name).to_owned());
            *time.entry(key).or_insert(0) += slice.end - slice.start;
        }
        time
    };
    assert_eq!(time(&read), time(&trace));
}

#[test]
fn a_call_says_where_it_was_about() {
    let file = String::from_utf8(written(&trace_of(&blocking_reads(2)))).unwrap();
    let calls = file
        .lines()
        .filter(|line| line.contains("\"cat\":\"call\""));
    let calls: Vec<&str> = calls.collect();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call.contains("\"where\":\"0x33\"")));
}

#[test]
fn files_that_are_no_traces_are_told_apart() {
    let whole = written(&trace_of(&blocking_reads(2)));
    let whole = String::from_utf8(whole).unwrap();
    let version = format!("\"iolite_trace\":{}", chrome::VERSION);
    let newer = whole.replacen(&version, "\"iolite_trace\":99", 1);
    let cut = &whole[..whole.len() - 3];
    let damaged = whole.replacen("\"popped\":", "\"popped\":x", 1);
    let late = whole.replacen("\"popped\":", "\"popped\":18446744073709551615,\"x\":", 1);
    let long = whole.replacen("\"dur\":", "\"dur\":1e300,\"x\":", 1);
    let unordered = whole.replacen("\"thread_name\"", "\"thread\"", 1);
    let absurd = whole.replacen(
        "\"host_events\":",
        "\"host_events\":18446744073709551615,\"x\":",
        1,
    );
    // As Perfetto's UI, Chrome and the Linux tools write them.
    let perfetto =
        r#"{"traceEvents":[{"ph":"X","pid":1,"tid":1,"ts":0,"dur":1,"name":"x"}],"metadata":{}}"#;
    let chrome = r#"[{"ph":"B","pid":1,"tid":1,"ts":0,"name":"x"}]"#;
    let cases = [
        (perfetto, "is not a trace"),
        (chrome, "is not a trace"),
        ("\u{7f}ELF\u{2}\u{1}\u{1}", "is not a trace"),
        (late.as_str(), "a time that no trace is long enough for"),
        (long.as_str(), "a time that no trace is long enough for"),
        (unordered.as_str(), "lanes out of order"),
        (absurd.as_str(), "numbers that make no sense"),
        ("", "is not a trace"),
        ("{\"traceEvents\":[]}", "is not a trace"),
        (newer.as_str(), "version 99"),
        (cut, "cut off"),
        (damaged.as_str(), "damaged in line"),
    ];
    for (text, wanted) in cases {
        let error = read::read_from(Cursor::new(text), "t.json").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(wanted) && error.contains("t.json"),
            "{error}"
        );
    }
}

/// A view shows some names for each request: long ones would make it as long as the square of the
/// file.
#[test]
fn long_names_and_endless_lines_are_refused() {
    let whole = String::from_utf8(written(&trace_of(&blocking_reads(2)))).unwrap();
    let long = "x".repeat(300);
    for name in ["thread 7", "blocking-read", "vdb", "pread", "waits"] {
        let file = whole.replace(&format!("\"{name}\""), &format!("\"{long}\""));
        assert_ne!(file, whole, "{name}");
        let error = read::read_from(Cursor::new(file), "t").unwrap_err();
        assert!(error.to_string().contains("longer than any"), "{error}");
    }
    for start in [chrome::MAGIC, &whole[..whole.len() - 3]] {
        let endless = std::io::repeat(b' ');
        let input = std::io::Read::chain(start.as_bytes(), endless);
        let input = std::io::BufReader::new(input);
        let error = read::read_from(input, "t").unwrap_err();
        assert!(
            error.to_string().contains("longer than any line"),
            "{error}"
        );
    }
}

/// However many requests a file says were in flight, a picture of them is made quickly and can be
/// seen.
#[test]
fn any_number_of_requests_in_flight_is_drawn() {
    let mut trace = trace_of(&blocking_reads(3));
    let request = trace.requests[0].clone();
    trace.requests = vec![request; 200_000];
    let picture = report::picture(&trace).unwrap();
    assert!(picture.contains("200000 in flight"));
    assert!(picture.len() < 1 << 20, "{}", picture.len());
    assert!(report::page(&trace).len() < 4 << 20);
}

#[test]
fn without_the_guests_half_there_is_the_hosts() {
    let mut recording = blocking_reads(4);
    recording.guest.clear();
    let trace = trace_of(&recording);
    assert_eq!(trace.requests.len(), 4);
    for request in &trace.requests {
        assert_eq!(trace.names.text(request.path), "guest");
        assert_eq!(request.when(Moment::Asked), None);
        assert_eq!(parts::parts(request)[parts::PARTS - 1], 0);
        assert!(request.is_complete());
    }
}

#[test]
fn of_a_driver_in_ring_3_the_kernel_sees_the_interrupts() {
    let mut recording = blocking_reads(4);
    let of_its_own = |kind| matches!(kind, kind::ADD | kind::NOTIFY | kind::HARVEST);
    recording.guest.retain(|event| !of_its_own(event.kind));
    let trace = trace_of(&recording);
    assert_eq!(trace.requests.len(), 4);
    for request in &trace.requests {
        assert_eq!(trace.names.text(request.path), "driver in ring 3");
        let since = |moment| Some(request.when(moment)? - request.when(Moment::Popped)?);
        let seen = [Moment::Interrupted, Moment::Woken, Moment::Running].map(since);
        assert_eq!(seen, [Some(540), Some(580), Some(620)]);
        assert_eq!(parts::parts(request)[parts::PARTS - 1], 0);
    }
}

/// One read of client (process 2, thread 7, ring 1) by its server (process 3, thread 8, ring 2), which
/// drives disk 1.
fn served_read() -> Recording {
    let mut recording = blocking_reads(1);
    let name = |thread, process| guest(1, kind::NAME, thread, process);
    let server = 1 | u32::from(purpose::SERVER) << 8;
    recording.guest = vec![
        name(7, 2),
        name(8, 3),
        guest(2, kind::WRITER, 2, 1),
        guest(2, kind::WRITER, 3, 2),
        guest(3, kind::LEND, 3, 1),
        guest(4, kind::RUN, 7, 0),
        guest(4, kind::LEAVE, 0, 0),
        program(10, 1, kind::SEND, (0, 5), (0, 0)),
        guest(20, kind::ENTER, ask::CALL, 9),
        guest(40, kind::RUN, 8, 0),
        guest(45, kind::LEAVE, 0, 0),
        program(50, 2, kind::RECEIVE, (0, 5), (0, 0)),
        program(60, 2, kind::ADD, (0, server), (5, 0)),
        program(70, 2, kind::NOTIFY, (0, 1), (0, 0)),
        guest(100, kind::IDLE, 0, 0),
        guest(700, kind::INTERRUPT, 0, 6),
        guest(720, kind::WAKE, 8, 0),
        guest(740, kind::RUN, 8, 0),
        guest(745, kind::LEAVE, 0, 0),
        program(750, 2, kind::HARVEST, (0, 1), (0, 0)),
        program(760, 2, kind::ANSWER, (0, 1), (5, 0)),
        guest(770, kind::ENTER, ask::CALL, 9),
        guest(780, kind::WAKE, 7, 0),
        guest(800, kind::RUN, 7, 0),
        guest(810, kind::LEAVE, 0, 0),
        program(820, 1, kind::COLLECT, (0, 5), (0, 0)),
    ];
    recording
}

#[test]
fn a_servers_request_is_followed_from_its_client_and_back() {
    let trace = trace_of(&served_read());
    let [request] = trace.requests.as_slice() else {
        panic!("{:?}", trace.requests);
    };
    assert_eq!(trace.names.text(request.path), "block-server");
    let lane = |lane: Option<u16>| trace.lanes[usize::from(lane.unwrap())].name.as_str();
    assert_eq!(lane(request.asker), "process 2, thread 7");
    assert_eq!(lane(request.server), "process 3, thread 8");
    let seen: Vec<u64> = request.at.into_iter().filter(|at| *at != NEVER).collect();
    let moments = [
        10, 50, 60, 70, 160, 170, 180, 190, 610, 620, 630, 700, 750, 760, 780, 800, 820,
    ];
    assert_eq!(seen, moments);
    let parts = parts::parts(request);
    let part = |part: Part| parts[part as usize];
    assert_eq!(part(Part::ToServer), 40);
    assert_eq!(part(Part::ToClient), 10 + 20 + 20);
    assert_eq!((part(Part::Run), part(Part::Unaccounted)), (20, 0));
    assert_eq!(parts.iter().sum::<u64>(), parts::whole(request));
    let file = written(&trace);
    let phases = rules::check(std::str::from_utf8(&file).unwrap()).unwrap();
    assert_eq!((phases["s"], phases["t"], phases["f"]), (1, 2, 1));
    let read = read::read_from(Cursor::new(&file), "t").unwrap();
    assert_eq!(read.requests[0].at, request.at);
    assert_eq!(read.requests[0].server, request.server);
}

/// A program that is not the client nor the server says that it is, and that it drives the disk.
#[test]
fn what_a_program_says_counts_for_itself_alone() {
    let honest = trace_of(&served_read());
    let mut recording = served_read();
    let lies = [
        (30, kind::RECEIVE, (0, 5), (0, 0)),
        (35, kind::ADD, (0, 1), (5, 0)),
        (55, kind::HARVEST, (0, 1), (0, 0)),
        (755, kind::HARVEST, (0, 1), (0, 0)),
        (805, kind::COLLECT, (0, 5), (0, 0)),
    ];
    let ring = 3;
    recording.guest.push(guest(2, kind::WRITER, 4, ring.into()));
    for (at, kind, a, b) in lies {
        recording.guest.push(program(at, ring, kind, a, b));
    }
    recording.guest.sort_by_key(|event| event.tsc);
    assert_eq!(trace_of(&recording).requests, honest.requests);
    // Nor does it help to run.
    let liar = guest(1, kind::NAME, 9, 4);
    let back = [
        (28, 9),
        (36, 8),
        (52, 9),
        (58, 8),
        (752, 9),
        (758, 8),
        (803, 9),
        (807, 7),
    ];
    recording.guest.push(liar);
    let runs = back.map(|(at, thread)| guest(at, kind::RUN, thread, 0));
    recording.guest.extend(runs);
    recording.guest.sort_by_key(|event| event.tsc);
    let mut lied = trace_of(&recording).requests;
    lied[0].at[Moment::Running as usize] = 800;
    assert_eq!(lied[0].at, honest.requests[0].at);
}

#[test]
fn what_was_lost_is_unaccounted_for() {
    let mut recording = blocking_reads(10);
    recording.guest.retain(|event| event.kind != kind::HARVEST);
    let trace = trace_of(&recording);
    assert!(!trace.requests.iter().any(|request| request.is_complete()));
    let mut recording = blocking_reads(10);
    let on_the_way = |point| matches!(point, Point::Popped | Point::Parsed | Point::Begun);
    let host = recording.host.iter();
    recording.host = host.filter(|(_, event)| !on_the_way(event.point)).collect();
    let text = summary::render(&trace_of(&recording));
    let row = text.lines().find(|line| line.contains("unaccounted"));
    assert!(row.is_some_and(|row| !row.contains(" 0%")), "{text}");
}

/// A trace of a million events loads, summarises and renders quickly, in little memory.
#[test]
fn a_million_events_are_no_burden() {
    let recording = blocking_reads(1_000_000 / 16);
    let started = Instant::now();
    let file = written(&trace_of(&recording));
    drop(recording);
    let trace = read::read_from(Cursor::new(&file), "t").unwrap();
    assert!(summary::render(&trace).contains("62500"));
    assert!(report::page(&trace).len() > 10_000);
    timeline::requests(std::io::sink(), &trace).unwrap();
    // The target is 10 s for an optimised build on an idle machine.
    assert!(started.elapsed() < Duration::from_secs(60));
}

/// Whoever looks at a trace that lacks events is told so, in whatever view.
#[test]
fn every_view_says_what_is_lost() {
    let mut trace = trace_of(&blocking_reads(20));
    let said = |trace: &Trace| {
        let mut texts = vec![summary::render(trace), report::page(trace)];
        texts.push(report::picture(trace).unwrap());
        let [mut lines, mut moments] = [Vec::new(), Vec::new()];
        timeline::requests(&mut lines, trace).unwrap();
        timeline::moments(&mut moments, trace).unwrap();
        texts.extend([lines, moments].map(|text| String::from_utf8(text).unwrap()));
        texts.push(String::from_utf8(written(trace)).unwrap());
        let lost = texts
            .iter()
            .filter(|text| text.contains("4711 lost in the guest"));
        (lost.count(), texts.len())
    };
    assert_eq!(said(&trace).0, 0);
    trace.about.guest_lost = 4711;
    let (count, all) = said(&trace);
    assert_eq!(count, all);
}

fn any_guest_event() -> impl Strategy<Value = GuestEvent> {
    let fields = (
        0u64..5000,
        0u8..kind::LAST + 2,
        0u16..6,
        0u32..0x0006_0004,
        any::<u64>(),
        0u8..3,
    );
    fields.prop_map(|(at, kind, a, b, c, ring)| GuestEvent {
        ring,
        c,
        d: c,
        ..guest(at, kind, a, b)
    })
}

fn any_host_event() -> impl Strategy<Value = (u16, Event)> {
    let fields = (
        0u64..5000,
        prop::sample::select(&POINTS),
        0u16..6,
        any::<u64>(),
        0u16..3,
    );
    fields.prop_map(|(at, point, head, a, thread)| (thread, host(at, point, head, a, a).1))
}

/// Numbers that are at a border.
const ODD: [&str; 9] = [
    "0",
    "1",
    "255",
    "256",
    "65536",
    "4294967295",
    "9007199254740992",
    "18446744073709551615",
    "0.0000001",
];

/// Every view of a trace.
fn all_views(trace: &Trace) -> usize {
    let mut text = Vec::new();
    timeline::requests(&mut text, trace).unwrap();
    timeline::moments(&mut text, trace).unwrap();
    let picture = report::picture(trace).unwrap_or_default();
    text.len() + summary::render(trace).len() + report::page(trace).len() + picture.len()
}

proptest! {
    /// A file of ours that somebody has damaged is refused, or has views; it is never the end of the
    /// program.
    #[test]
    fn any_damage_is_survived(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        digits in prop::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 0..40),
    ) {
        let mut file = written(&trace_of(&blocking_reads(5)));
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let places: Vec<usize> = (0..file.len()).filter(|at| file[*at].is_ascii_digit()).collect();
        for (at, digit) in digits {
            file[*at.get(&places)] = digit;
        }
        if let Ok(trace) = read::read_from(Cursor::new(&file), "t") {
            prop_assert!(all_views(&trace) > 0);
        }
    }

    /// The same of one whose numbers and lines somebody has changed: what is made of it is not much
    /// longer than the file.
    #[test]
    fn any_other_numbers_and_lines_are_survived(
        numbers in prop::collection::vec((any::<prop::sample::Index>(), 0..ODD.len()), 0..6),
        lines in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 0..6),
    ) {
        let file = written(&trace_of(&served_read()));
        let mut file = String::from_utf8(file).unwrap();
        for (at, odd) in numbers {
            let is_digit = |c: char| c.is_ascii_digit() || c == '.';
            let starts: Vec<usize> = file.match_indices(':').map(|(at, _)| at + 1).collect();
            let rest = &file[*at.get(&starts)..];
            let place = file.len() - rest.len();
            let digits = rest.len() - rest.trim_start_matches(is_digit).len();
            if digits > 0 {
                file.replace_range(place..place + digits, ODD[odd]);
            }
        }
        let mut all: Vec<&str> = file.lines().collect();
        for [from, to] in lines {
            let line = *from.get(&all);
            all.insert(to.index(all.len()), line);
        }
        let file = all.join("\n");
        if let Ok(trace) = read::read_from(Cursor::new(&file), "t") {
            let bytes = all_views(&trace);
            prop_assert!(bytes > 0 && bytes < 400_000 + 100 * file.len(), "{bytes} bytes");
        }
    }

    /// A guest writes what it likes, and events get lost: there is a trace all the same, and it
    /// keeps the rules.
    #[test]
    fn any_events_make_a_trace(
        mut guest in prop::collection::vec(any_guest_event(), 0..200),
        mut host in prop::collection::vec(any_host_event(), 0..200),
    ) {
        guest.sort_by_key(|event| event.tsc);
        host.sort_by_key(|(_, event)| event.tsc);
        let threads = ["vcpu", "vdb-queue"].map(String::from).to_vec();
        let disks = ["vda", "vdb"].map(String::from).to_vec();
        let trace = trace_of(&Recording { guest, host: host.into_iter().collect(), threads, disks });
        let file = written(&trace);
        rules::check(std::str::from_utf8(&file).unwrap()).map_err(TestCaseError::fail)?;
        let read = read::read_from(Cursor::new(&file), "t").unwrap();
        prop_assert_eq!(read.requests.len(), trace.requests.iter().filter(|r| r.span().is_some()).count());
        prop_assert!(all_views(&read) > 0);
    }
}
