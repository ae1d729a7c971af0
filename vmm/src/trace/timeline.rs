//! `iolite trace timeline`: requests as lines, in the manner of biosnoop, or each of their moments,
//! in the manner of blkparse.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, Write};

use super::model::{MOMENT_NAMES, Moment, NEVER, Name, Op, Request, Trace};
use super::parts;

/// One line for each request, in the order in which they were asked for.
///
/// # Errors
/// What writing says.
pub fn requests(mut out: impl Write, trace: &Trace) -> io::Result<()> {
    write_lost(&mut out, trace)?;
    let (comm, path) = (comm_width(trace), path_width(trace));
    writeln!(
        out,
        "{:<12} {:>7} {:<comm$} {:<path$} {:<6} {:<1} {:>10} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "TIME(s)",
        "ID",
        "COMM",
        "PATH",
        "DISK",
        "T",
        "SECTOR",
        "BYTES",
        "QUE(us)",
        "SVC(us)",
        "WAKE(us)",
        "LAT(us)"
    )?;
    for (id, request, start) in in_order(trace) {
        writeln!(
            out,
            "{:<12.6} {:>7} {:<comm$} {:<path$} {:<6} {:<1} {:>10} {:>7} {:>9} {:>9} {:>9} {:>9.1}{}",
            start as f64 / 1e9,
            id,
            asker(request, trace),
            trace.names.text(request.path),
            disk(request, trace),
            letter(request.op),
            request.sector,
            request.bytes,
            between(request, first(request), Moment::Begun),
            between(request, Moment::Begun, Moment::Ended),
            between(request, Moment::Ended, last(request)),
            parts::whole(request) as f64 / 1e3,
            remark(request),
        )?;
    }
    Ok(())
}

/// As wide as the longest name of an asker.
fn comm_width(trace: &Trace) -> usize {
    let askers: BTreeSet<u16> = trace.requests.iter().filter_map(|r| r.asker).collect();
    let lanes = askers
        .into_iter()
        .filter_map(|lane| trace.lanes.get(usize::from(lane)));
    lanes.map(|lane| lane.name.len()).max().unwrap_or(0).max(8)
}

fn path_width(trace: &Trace) -> usize {
    let paths: BTreeSet<Name> = trace.requests.iter().map(|r| r.path).collect();
    let names = paths.into_iter().map(|path| trace.names.text(path).len());
    names.max().unwrap_or(0).max(4)
}

/// One line for each moment of each request.
///
/// # Errors
/// What writing says.
pub fn moments(mut out: impl Write, trace: &Trace) -> io::Result<()> {
    write_lost(&mut out, trace)?;
    let mut moments: Vec<(u64, u8, u64)> = Vec::new();
    for (id, request) in (1..).zip(&trace.requests) {
        let seen = request.at.iter().enumerate();
        let seen = seen.filter(|(_, at)| **at != NEVER);
        moments.extend(seen.map(|(moment, at)| (*at, moment as u8, id)));
    }
    moments.sort_unstable();
    for (at, moment, id) in moments {
        let request = &trace.requests[id as usize - 1];
        writeln!(
            out,
            "{:<6} {:>14.9} {:>7} {:<11} {} {:>10} + {:<4} [{}]",
            disk(request, trace),
            at as f64 / 1e9,
            id,
            MOMENT_NAMES[usize::from(moment)],
            letter(request.op),
            request.sector,
            request.bytes / 512,
            who(request, moment, trace),
        )?;
    }
    Ok(())
}

/// A line of its own, if there is something to say.
fn write_lost(out: &mut impl Write, trace: &Trace) -> io::Result<()> {
    match trace.about.lost() {
        Some(lost) => writeln!(out, "# events: {lost}"),
        None => Ok(()),
    }
}

fn in_order(trace: &Trace) -> Vec<(u64, &Request, u64)> {
    let requests = (1..).zip(&trace.requests);
    let mut requests: Vec<_> = requests
        .filter_map(|(id, request)| Some((id, request, request.span()?.0)))
        .collect();
    requests.sort_by_key(|(id, _, start)| (*start, *id));
    requests
}

fn first(request: &Request) -> Moment {
    match () {
        () if request.when(Moment::Asked).is_some() => Moment::Asked,
        () if request.when(Moment::Added).is_some() => Moment::Added,
        () => Moment::Popped,
    }
}

fn last(request: &Request) -> Moment {
    let last = [
        Moment::Returned,
        Moment::Collected,
        Moment::Running,
        Moment::Harvested,
    ];
    let seen = last.into_iter().find(|m| request.when(*m).is_some());
    seen.unwrap_or(Moment::Used)
}

fn between(request: &Request, start: Moment, end: Moment) -> String {
    match (request.when(start), request.when(end)) {
        (Some(start), Some(end)) => format!("{:.1}", end.saturating_sub(start) as f64 / 1e3),
        _ => "-".into(),
    }
}

/// Who makes a moment happen: the thread that asks, or the one that does it, or the processor.
fn who<'a>(request: &Request, moment: u8, trace: &'a Trace) -> &'a str {
    let lane = |lane: Option<u16>| {
        let lane = lane.and_then(|lane| trace.lanes.get(usize::from(lane)));
        lane.map_or("-", |lane| lane.name.as_str())
    };
    const DRIVER: [Moment; 5] = [
        Moment::Taken,
        Moment::Added,
        Moment::Notified,
        Moment::Harvested,
        Moment::Answered,
    ];
    let of_driver = DRIVER.iter().any(|m| *m as u8 == moment);
    match moment {
        _ if of_driver && request.server.is_some() => lane(request.server),
        m if m <= Moment::Notified as u8 => lane(request.asker),
        m if m <= Moment::Parsed as u8 => lane(request.device),
        m if m <= Moment::Signalled as u8 => lane(request.worker.or(request.device)),
        m if m >= Moment::Running as u8 => lane(request.asker),
        _ => "processor",
    }
}

fn asker<'a>(request: &Request, trace: &'a Trace) -> &'a str {
    who(request, 0, trace)
}

/// The disk's name, and the queue's number where it is not the first one.
fn disk<'a>(request: &Request, trace: &'a Trace) -> Cow<'a, str> {
    let disk = trace.about.disks.get(usize::from(request.disk));
    let disk = disk.map_or("?", String::as_str);
    match request.queue {
        0 => disk.into(),
        queue => format!("{disk}.{queue}").into(),
    }
}

fn letter(op: Op) -> char {
    match op {
        Op::Read => 'R',
        Op::Write => 'W',
        Op::Flush => 'F',
        Op::Discard => 'D',
        Op::Other => 'O',
    }
}

fn remark(request: &Request) -> &'static str {
    match request.status {
        _ if !request.is_complete() => "  not completed",
        Some(0) | None => "",
        Some(1) => "  I/O error",
        Some(_) => "  refused",
    }
}
