//! Reading a trace file back (`chrome` says what is in it): line by line, so that a long trace takes
//! no more memory than it needs.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde::de::Error;

use super::chrome::{FIRST_TID, GUEST, HOST, MAGIC, VERSION};
use super::model::{
    About, Category, Group, Lane, MOMENT_NAMES, MOMENTS, NEVER, Op, Request, Slice, Trace,
};

/// Longer than any trace, in nanoseconds: a hundred days. What is later makes no sense.
const LONGEST: u64 = 1 << 53;
/// More disks than a machine can have.
const MOST_DISKS: usize = 256;
/// Longer than any line of a trace, in bytes.
const LONGEST_LINE: u64 = 1 << 24;
/// Longer than any name in a trace, in bytes. A view shows it for each request.
const LONGEST_NAME: usize = 256;

/// Why a trace cannot be read: one line each.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("trace {0} cannot be read: {1}")]
    Io(String, io::Error),
    /// Some other file.
    #[error("{0} is not a trace of iolite: make one with --trace")]
    Foreign(String),
    /// A trace of another version.
    #[error("trace {0} has version {1}, this iolite reads version {VERSION}: trace anew")]
    Version(String, u32),
    /// A line that makes no sense.
    #[error("trace {0} is damaged in line {1}: {2}")]
    Line(String, u64, String),
    /// Nothing to draw.
    #[error("trace {0} has too few requests for a picture: trace something that does I/O")]
    Empty(String),
    /// The file ends early.
    #[error("trace {0} is cut off: it lacks its last line")]
    CutOff(String),
}

/// Reads the trace in the file at `path`, or on stdin for `-`.
///
/// # Errors
/// [`ReadError`].
pub fn read(path: &Path) -> Result<Trace, ReadError> {
    if path == "-" {
        return read_from(io::stdin().lock(), "(stdin)");
    }
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| ReadError::Io(name.clone(), error))?;
    read_from(BufReader::with_capacity(1 << 20, file), &name)
}

/// Reads a trace; `name` is for messages.
///
/// # Errors
/// [`ReadError`].
pub fn read_from(mut input: impl BufRead, name: &str) -> Result<Trace, ReadError> {
    let mut trace = Trace::default();
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let mut read = |limit: u64, line: &mut Vec<u8>| {
            let read = io::Read::take(&mut input, limit).read_until(b'\n', line);
            read.map_err(|error| ReadError::Io(name.into(), error))
        };
        // A file without line ends is not ours, and need not be read to its end to know that.
        if number == 1 {
            read(MAGIC.len() as u64, &mut line)?;
            if line != MAGIC.as_bytes() {
                return Err(ReadError::Foreign(name.into()));
            }
        }
        if read(LONGEST_LINE, &mut line)? as u64 == LONGEST_LINE {
            let why = "longer than any line of a trace";
            return Err(ReadError::Line(name.into(), number, why.into()));
        }
        if line.is_empty() {
            return Err(ReadError::CutOff(name.into()));
        }
        let text = std::str::from_utf8(&line)
            .map_err(|error| ReadError::Line(name.into(), number, error.to_string()))?;
        let text = text.trim_end().trim_end_matches(',');
        if text == "]}" {
            // As they were written; who has changed the file may have changed that.
            let order = |slice: &Slice| (slice.start, u64::MAX - slice.end);
            trace.slices.sort_unstable_by_key(order);
            return Ok(trace);
        }
        let taken = if number == 1 {
            trace.about = about(text, name)?;
            Ok(())
        } else {
            take(text, &mut trace)
        };
        taken.map_err(|error| ReadError::Line(name.into(), number, error.to_string()))?;
    }
}

fn about(line: &str, name: &str) -> Result<About, ReadError> {
    #[derive(Deserialize)]
    struct First {
        #[serde(rename = "otherData")]
        about: About,
    }
    // The first line opens the array of events; closed, it is a whole value.
    let first: First = serde_json::from_str(&format!("{line}]}}"))
        .map_err(|error| ReadError::Line(name.into(), 1, error.to_string()))?;
    let about = &first.about;
    let counts = [
        about.duration_ns,
        about.guest_events,
        about.host_events,
        about.not_kept,
        about.disordered,
    ];
    if counts.into_iter().any(|count| count > LONGEST) || about.disks.len() > MOST_DISKS {
        let why = "numbers that make no sense";
        return Err(ReadError::Line(name.into(), 1, why.into()));
    }
    if about.disks.iter().any(|disk| disk.len() > LONGEST_NAME) {
        return Err(ReadError::Line(name.into(), 1, LONG_NAME.into()));
    }
    match about.iolite_trace {
        VERSION => Ok(first.about),
        other => Err(ReadError::Version(name.into(), other)),
    }
}

/// Takes what a line says into the trace. What is only for other viewers is passed over unread.
fn take(line: &str, trace: &mut Trace) -> Result<(), serde_json::Error> {
    match line.get(..9) {
        Some("{\"ph\":\"M\"") => take_name(line, trace),
        Some("{\"ph\":\"X\"") => take_slice(line, trace),
        Some("{\"ph\":\"b\"") => take_request(line, trace),
        _ => Ok(()),
    }
}

fn take_name(line: &str, trace: &mut Trace) -> Result<(), serde_json::Error> {
    #[derive(Deserialize)]
    struct Meta<'a> {
        pid: u32,
        tid: u32,
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(borrow)]
        args: Args<'a>,
    }
    #[derive(Deserialize)]
    struct Args<'a> {
        #[serde(borrow)]
        name: Option<Cow<'a, str>>,
        number: Option<u32>,
    }
    let meta: Meta<'_> = serde_json::from_str(line)?;
    let Some(group) = group(meta.pid).filter(|_| meta.name == "thread_name") else {
        return Ok(());
    };
    if meta.tid as usize != FIRST_TID as usize + trace.lanes.len() {
        return Err(Error::custom("lanes out of order"));
    }
    let number = meta.args.number;
    let tid = number.ok_or_else(|| Error::custom("a lane without a number"))?;
    let name = meta.args.name.unwrap_or_default();
    let name = checked(&name)?.to_owned();
    trace.lanes.push(Lane { group, tid, name });
    Ok(())
}

fn take_slice(line: &str, trace: &mut Trace) -> Result<(), serde_json::Error> {
    #[derive(Deserialize)]
    struct Complete<'a> {
        pid: u32,
        tid: u32,
        ts: f64,
        dur: f64,
        #[serde(borrow)]
        name: Cow<'a, str>,
        cat: Category,
    }
    let slice: Complete<'_> = serde_json::from_str(line)?;
    if let Some(lane) = group(slice.pid).and_then(|group| lane(trace, group, slice.tid)) {
        let (start, length) = (ns(slice.ts)?, ns(slice.dur)?);
        trace.slices.push(Slice {
            lane,
            category: slice.cat,
            name: trace.names.of(checked(&slice.name)?),
            start,
            end: start + length,
            place: None,
        });
    }
    Ok(())
}

fn take_request(line: &str, trace: &mut Trace) -> Result<(), serde_json::Error> {
    #[derive(Deserialize)]
    struct Begin<'a> {
        #[serde(borrow)]
        args: Args<'a>,
    }
    #[derive(Deserialize)]
    struct Args<'a> {
        disk: u8,
        queue: u8,
        head: u16,
        #[serde(borrow)]
        path: Cow<'a, str>,
        op: Op,
        sector: u64,
        bytes: u32,
        waits: bool,
        status: Option<u8>,
        asker: Option<u32>,
        server: Option<u32>,
        device: Option<u32>,
        worker: Option<u32>,
        at: At,
    }
    let Begin { args } = serde_json::from_str(line)?;
    let lane = |group, tid: Option<u32>| tid.and_then(|tid| lane(trace, group, tid));
    let request = Request {
        disk: args.disk,
        queue: args.queue,
        head: args.head,
        op: args.op,
        path: Default::default(),
        waited_for: args.waits,
        sector: args.sector,
        bytes: args.bytes,
        status: args.status,
        asker: lane(Group::Guest, args.asker),
        server: lane(Group::Guest, args.server),
        device: lane(Group::Host, args.device),
        worker: lane(Group::Host, args.worker),
        at: args.at.0,
    };
    let path = trace.names.of(checked(&args.path)?);
    trace.requests.push(Request { path, ..request });
    Ok(())
}

/// The moments by their names.
struct At([u64; MOMENTS]);

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = At;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("moments of a request")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<At, M::Error> {
                let mut at = [NEVER; MOMENTS];
                while let Some((name, ns)) = map.next_entry::<&str, u64>()? {
                    if ns > LONGEST {
                        return Err(Error::custom(BEYOND));
                    }
                    if let Some(moment) = MOMENT_NAMES.iter().position(|known| *known == name) {
                        at[moment] = ns;
                    }
                }
                Ok(At(at))
            }
        }
        input.deserialize_map(Visitor)
    }
}

fn group(pid: u32) -> Option<Group> {
    match pid {
        GUEST => Some(Group::Guest),
        HOST => Some(Group::Host),
        // A disk.
        _ => None,
    }
}

/// The lane with this tid in the file, if it is of this group.
fn lane(trace: &Trace, group: Group, tid: u32) -> Option<u16> {
    let index = u16::try_from(tid.checked_sub(FIRST_TID)?).ok()?;
    let lane = trace.lanes.get(usize::from(index))?;
    (lane.group == group).then_some(index)
}

/// Nanoseconds of a file's microseconds.
fn ns(us: f64) -> Result<u64, serde_json::Error> {
    let ns = (us * 1000.0).round();
    if (0.0..=LONGEST as f64).contains(&ns) {
        Ok(ns as u64)
    } else {
        Err(Error::custom(BEYOND))
    }
}

/// A name, unless it is too long.
fn checked(name: &str) -> Result<&str, serde_json::Error> {
    match name.len() <= LONGEST_NAME {
        true => Ok(name),
        false => Err(Error::custom(LONG_NAME)),
    }
}

const LONG_NAME: &str = "a name that is longer than any in a trace";
const BEYOND: &str = "a time that no trace is long enough for";
