//! The trace file: Chrome's trace-event JSON, which Perfetto's UI opens, one event a line, with all
//! that our own views need in `args` (docs/tracing.md).
//!
//! ```text
//! M     who is on a lane         X      a slice
//! b e   a request in flight on its disk    s t f  the arrow from who asked to who did it to who was told
//! C     requests in flight on each disk
//! ```
//!
//! Perfetto's importer (`json_trace_parser_impl.cc`) knows threads by their tid, whatever process they
//! are of: each lane and each disk has one of its own.

use std::collections::HashSet;
use std::io::{self, Write};

use serde_json::{json, to_string};

use super::in_flight::{changes, flight};
use super::model::{Category, Group, MOMENT_NAMES, Moment, NEVER, Op, PROCESSOR, Request, Trace};

/// The process of the guest's lanes.
pub const GUEST: u32 = 1;
/// The process of the host's threads.
pub const HOST: u32 = 2;
/// The process of the first disk; the others follow. Each is a process of its own, for Perfetto puts
/// asynchronous slices of one name and one process on one track.
pub const DISKS: u32 = 3;

/// The version of this layout.
pub const VERSION: u32 = 2;

/// The tid of the first lane; the others follow, then the disks. That of a process is its pid.
pub const FIRST_TID: u32 = 1000;

/// How the first line begins: by this a file is known.
pub const MAGIC: &str = "{\"otherData\":{\"iolite_trace\":";

/// The process that a group of lanes is.
pub fn pid(group: Group) -> u32 {
    match group {
        Group::Guest => GUEST,
        Group::Host => HOST,
    }
}

/// Writes a trace.
///
/// # Errors
/// What writing says.
pub fn write(out: impl Write, trace: &Trace) -> io::Result<()> {
    let mut out = Lines { out, first: true };
    let about = to_string(&trace.about)?;
    write!(
        out.out,
        "{{\"otherData\":{about},\"displayTimeUnit\":\"ns\",\"traceEvents\":["
    )?;
    write_names(&mut out, trace)?;
    for slice in &trace.slices {
        let Some(lane) = trace.lanes.get(usize::from(slice.lane)) else {
            continue;
        };
        let (pid, tid) = (pid(lane.group), tid(slice.lane));
        let (ts, dur) = (us(slice.start), us(slice.end - slice.start));
        let name = to_string(trace.names.text(slice.name))?;
        let cat = to_string(&slice.category)?;
        let args = match slice.place {
            Some(place) => format!(",\"args\":{{\"where\":\"{place:#x}\"}}"),
            None => String::new(),
        };
        out.line(format_args!(
            "{{\"ph\":\"X\",\"pid\":{pid},\"tid\":{tid},\"ts\":{ts},\"dur\":{dur},\
             \"name\":{name},\"cat\":{cat}{args}}}"
        ))?;
    }
    write_requests(&mut out, trace)?;
    write_arrows(&mut out, trace)?;
    write_counters(&mut out, trace)?;
    writeln!(out.out, "\n]}}")?;
    out.out.flush()
}

fn tid(lane: u16) -> u32 {
    FIRST_TID + u32::from(lane)
}

/// A disk's process, and its only thread.
fn disk_place(disk: usize, trace: &Trace) -> (u32, u32) {
    let tid = FIRST_TID + (trace.lanes.len() + disk) as u32;
    (DISKS + disk as u32, tid)
}

/// Lines of an array.
struct Lines<W> {
    out: W,
    first: bool,
}

impl<W: Write> Lines<W> {
    fn line(&mut self, event: std::fmt::Arguments<'_>) -> io::Result<()> {
        let comma = if std::mem::take(&mut self.first) {
            ""
        } else {
            ","
        };
        write!(self.out, "{comma}\n{event}")
    }
}

fn write_names<W: Write>(out: &mut Lines<W>, trace: &Trace) -> io::Result<()> {
    let mut meta = |pid: u32, tid: u32, what: &str, args: serde_json::Value| {
        out.line(format_args!(
            "{{\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid},\"name\":\"{what}\",\"args\":{args}}}"
        ))
    };
    // What is missing is to be seen in every viewer.
    let guest = match trace.about.lost() {
        Some(lost) => format!("guest; events: {lost}"),
        None => "guest".into(),
    };
    let mut processes = vec![(GUEST, guest), (HOST, "iolite".into())];
    for (disk, name) in (DISKS..).zip(&trace.about.disks) {
        processes.push((disk, format!("disk {name}")));
    }
    for (pid, name) in processes {
        meta(pid, pid, "process_name", json!({"name": name}))?;
        meta(pid, pid, "process_sort_index", json!({"sort_index": pid}))?;
    }
    for (index, lane) in (0..).zip(&trace.lanes) {
        let (pid, tid) = (pid(lane.group), tid(index));
        let args = json!({"name": lane.name, "number": lane.tid});
        meta(pid, tid, "thread_name", args)?;
        let place = if lane.tid == PROCESSOR { 0 } else { lane.tid };
        meta(pid, tid, "thread_sort_index", json!({"sort_index": place}))?;
    }
    for (disk, name) in trace.about.disks.iter().enumerate() {
        let (pid, tid) = disk_place(disk, trace);
        meta(pid, tid, "thread_name", json!({"name": name}))?;
    }
    Ok(())
}

fn write_requests<W: Write>(out: &mut Lines<W>, trace: &Trace) -> io::Result<()> {
    for (id, request) in (1..).zip(&trace.requests) {
        let Some((start, end)) = flight(request).or(request.span()) else {
            continue;
        };
        let (pid, tid) = disk_place(request.disk.into(), trace);
        let name = to_string(&title(request))?;
        let args = args(request, trace)?;
        out.line(format_args!(
            "{{\"ph\":\"b\",\"pid\":{pid},\"tid\":{tid},\"ts\":{},\"id\":{id},\
             \"cat\":\"request\",\"name\":{name},\"args\":{args}}}",
            us(start)
        ))?;
        out.line(format_args!(
            "{{\"ph\":\"e\",\"pid\":{pid},\"tid\":{tid},\"ts\":{},\"id\":{id},\
             \"cat\":\"request\",\"name\":{name}}}",
            us(end)
        ))?;
    }
    Ok(())
}

/// All that is known of a request.
fn args(request: &Request, trace: &Trace) -> io::Result<String> {
    let mut text = format!(
        "{{\"disk\":{},\"queue\":{},\"head\":{},\"path\":{},\"op\":{},\"sector\":{},\"bytes\":{},\"waits\":{}",
        request.disk,
        request.queue,
        request.head,
        to_string(trace.names.text(request.path))?,
        to_string(&request.op)?,
        request.sector,
        request.bytes,
        request.waited_for,
    );
    if let Some(status) = request.status {
        text.push_str(&format!(",\"status\":{status}"));
    }
    let lanes = [
        ("asker", request.asker),
        ("server", request.server),
        ("device", request.device),
        ("worker", request.worker),
    ];
    for (key, lane) in lanes {
        if let Some(lane) = lane {
            text.push_str(&format!(",\"{key}\":{}", tid(lane)));
        }
    }
    let mut comma = ",\"at\":{";
    for (name, at) in MOMENT_NAMES.iter().zip(request.at) {
        if at != NEVER {
            text.push_str(&format!("{comma}\"{name}\":{at}"));
            comma = ",";
        }
    }
    text.push_str("}}");
    Ok(text)
}

fn title(request: &Request) -> String {
    let op = super::assemble::op_name(request.op);
    match request.op {
        Op::Read | Op::Write if !request.bytes.is_multiple_of(1024) => {
            format!("{op} {} bytes", request.bytes)
        }
        Op::Read | Op::Write => format!("{op} {} KiB", request.bytes / 1024),
        _ => op.into(),
    }
}

/// From who asked for a request, to the server if there is one, to the thread that did it, to who was
/// told: the interrupt handler and the thread that waited, or the client. An arrow needs a slice at each
/// of its ends.
fn write_arrows<W: Write>(out: &mut Lines<W>, trace: &Trace) -> io::Result<()> {
    let backends = trace.slices.iter();
    let backends = backends.filter(|slice| slice.category == Category::Backend);
    let done: HashSet<(u16, u64)> = backends.map(|slice| (slice.lane, slice.start)).collect();
    let processor = trace.lanes.iter().position(|l| l.tid == PROCESSOR);
    let processor = processor.map(|lane| lane as u16);
    for (id, request) in (1..).zip(&trace.requests) {
        for (phase, place, at) in arrow(request, processor, &done).unwrap_or_default() {
            let (pid, tid) = place;
            let bind = if phase == "f" { ",\"bp\":\"e\"" } else { "" };
            out.line(format_args!(
                "{{\"ph\":\"{phase}\",\"pid\":{pid},\"tid\":{tid},\"ts\":{},\"id\":{id},\
                 \"cat\":\"flow\",\"name\":\"request\"{bind}}}",
                us(at)
            ))?;
        }
    }
    Ok(())
}

/// Phase, process and thread, time.
type ArrowEnd = (&'static str, (u32, u32), u64);

/// The ends of a request's arrow, in order; none if one of them was not seen. Interrupts are handled on
/// the lane `processor`; slices of the backend begin at `done`.
fn arrow(
    request: &Request,
    processor: Option<u16>,
    done: &HashSet<(u16, u64)>,
) -> Option<Vec<ArrowEnd>> {
    let guest = |lane: u16| (GUEST, tid(lane));
    let host = |lane: u16| (HOST, tid(lane));
    let (asked, begun) = (request.when(Moment::Asked)?, request.when(Moment::Begun)?);
    let (asker, worker) = (request.asker?, request.worker?);
    if !done.contains(&(worker, begun)) {
        return None;
    }
    let added = request.when(Moment::Added)?;
    match request.server {
        Some(server) => Some(vec![
            ("s", guest(asker), asked),
            ("t", guest(server), added),
            ("t", host(worker), begun),
            ("f", guest(asker), request.when(Moment::Collected)?),
        ]),
        None => {
            request.when(Moment::Interrupted)?;
            let harvested = (guest(processor?), request.when(Moment::Harvested)?);
            let mut ends = vec![("s", guest(asker), added), ("t", host(worker), begun)];
            match request.when(Moment::Running) {
                Some(running) => ends.extend([
                    ("t", harvested.0, harvested.1),
                    ("f", guest(asker), running),
                ]),
                None => ends.push(("f", harvested.0, harvested.1)),
            }
            Some(ends)
        }
    }
}

/// Requests in flight, from the driver's adding (or the device's popping) to the used ring.
fn write_counters<W: Write>(out: &mut Lines<W>, trace: &Trace) -> io::Result<()> {
    for ((pid, name), changes) in (DISKS..).zip(&trace.about.disks).zip(changes(trace)) {
        let name = to_string(&format!("{name} in flight"))?;
        let mut count = 0i64;
        for (at, change) in changes {
            count += change;
            out.line(format_args!(
                "{{\"ph\":\"C\",\"pid\":{pid},\"tid\":{pid},\"ts\":{},\"name\":{name},\
                 \"args\":{{\"requests\":{count}}}}}",
                us(at)
            ))?;
        }
    }
    Ok(())
}

/// Microseconds, to the nanosecond and a fifth: whether an importer rounds the product with 1000 or
/// cuts it off, as Perfetto's does, it arrives at the nanosecond meant, and what ends where the next
/// begins does not overlap it.
fn us(ns: u64) -> Microseconds {
    Microseconds(ns)
}

struct Microseconds(u64);

impl std::fmt::Display for Microseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}2", self.0 / 1000, self.0 % 1000)
    }
}
