//! The picture of the lanes: for each kind of asker a window of the same length, with the threads
//! that ran in it, the processor, and the disk with what it had in flight.
//!
//! An empty place in a program's lane is a program that waits; an empty place in the disk's lane is
//! a disk that nobody asks.

use std::collections::{BTreeMap, HashMap};

use super::svg::{Anchor, Svg, marks, time};
use crate::trace::in_flight::flight;
use crate::trace::model::{Category, Group, Moment, PROCESSOR, Request, Slice, Trace};
use crate::trace::parts;

/// Width of the whole.
pub const WIDTH: f64 = 960.0;
const LABELS: f64 = 168.0;
const MARGIN: f64 = 16.0;
const LANE: f64 = 22.0;
const BAR: f64 = 14.0;
/// Height of the disk's lane, however many requests are in flight.
const DISK: f64 = 44.0;
/// How many threads are shown beside each other.
const MOST_THREADS: usize = 3;
/// How many panels.
const MOST_PANELS: usize = 6;
/// Fewer requests than these show no pattern.
const FEWEST_REQUESTS: usize = 8;
/// Askers that move less than this part of what the busiest moves are beside the point.
const LEAST_SHARE: u64 = 20;
/// How many typical lives of the slowest kind of request a window is long.
const TYPICAL_LIVES: f64 = 2.2;
/// A thread that runs for less than this part of the window is left out.
const HARDLY: u64 = 200;

/// Those who asked in the same way.
struct Panel<'a> {
    title: String,
    says: &'static str,
    /// The disk that most of its requests are for.
    disk: u8,
    requests: Vec<&'a Request>,
}

impl Panel<'_> {
    fn bytes(&self) -> u64 {
        let bytes = self.requests.iter().map(|r| u64::from(r.bytes));
        bytes.sum()
    }
}

/// What the picture says of a path.
const KNOWN: [(&str, &str, &str); 6] = [
    (
        "pread",
        "Blocking reads",
        "the program's lane is empty while the disk works",
    ),
    (
        "io_submit",
        "Asynchronous system calls",
        "one program, many requests in flight",
    ),
    (
        "page fault",
        "The pager",
        "the kernel reads ahead; who faults waits for one page",
    ),
    (
        "scan",
        "The kernel, synchronously",
        "as it reads when it mounts: one at a time",
    ),
    (
        "program's driver",
        "A block server",
        "a program drives the disk and keeps it busy for others",
    ),
    (
        "guest",
        "The guest",
        "it says nothing of itself: the host's half",
    ),
];

/// The picture, and its height; none for a trace with hardly a request.
pub fn picture(trace: &Trace) -> Option<(Svg, f64)> {
    let panels = panels(trace);
    let length = window_length(&panels)?;
    let mut svg = Svg::default();
    let mut y = 8.0;
    for panel in &panels {
        let start = window_start(panel, length)?;
        y = draw_panel(&mut svg, y, panel, (start, start + length), trace);
    }
    y = legend(&mut svg, y, length);
    Some((svg, y))
}

/// The askers with the most requests, in the order in which they came.
fn panels(trace: &Trace) -> Vec<Panel<'_>> {
    // A thread asks in its own way; what no thread asked for, belongs to its path.
    let mut groups: BTreeMap<(u16, u16), Vec<&Request>> = BTreeMap::new();
    let mut numbers: HashMap<&str, u16> = HashMap::new();
    for request in trace.requests.iter().filter(|r| flight(r).is_some()) {
        let key = match request.asker {
            Some(lane) => (lane, 0),
            None => {
                let next = numbers.len() as u16;
                let path = trace.names.text(request.path);
                (u16::MAX, *numbers.entry(path).or_insert(next))
            }
        };
        groups.entry(key).or_default().push(request);
    }
    let mut panels: Vec<Panel<'_>> = groups
        .into_values()
        .filter(|requests| requests.len() >= FEWEST_REQUESTS)
        .map(|requests| panel(requests, trace))
        .collect();
    panels.sort_by_key(|panel| std::cmp::Reverse(panel.bytes()));
    panels.truncate(MOST_PANELS);
    let most = panels.first().map_or(0, Panel::bytes);
    panels.retain(|panel| panel.bytes() >= most / LEAST_SHARE);
    panels.sort_by_key(|panel| panel.requests[0].span());
    panels
}

fn panel<'a>(mut requests: Vec<&'a Request>, trace: &'a Trace) -> Panel<'a> {
    let mut disks: HashMap<u8, usize> = HashMap::new();
    let mut paths: HashMap<&str, usize> = HashMap::new();
    for request in &requests {
        *disks.entry(request.disk).or_default() += 1;
    }
    let disk = disks.iter().max_by_key(|(_, count)| **count);
    let disk = disk.map_or(0, |(disk, _)| *disk);
    requests.retain(|request| request.disk == disk);
    requests.sort_by_key(|request| request.span());
    for request in &requests {
        *paths.entry(trace.names.text(request.path)).or_default() += 1;
    }
    let mut paths: Vec<(&str, usize)> = paths.into_iter().collect();
    paths.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let known = KNOWN
        .iter()
        .find(|(name, ..)| paths.iter().any(|(path, _)| path == name));
    let names: Vec<&str> = paths.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    match known {
        Some((_, title, says)) => Panel {
            title: format!("{title}: {names}"),
            says,
            disk,
            requests,
        },
        None => Panel {
            title: names,
            says: "",
            disk,
            requests,
        },
    }
}

/// A few lives of the panel whose requests live longest, the same for all panels: only then can they
/// be compared.
fn window_length(panels: &[Panel<'_>]) -> Option<u64> {
    let typical = |panel: &Panel<'_>| {
        let mut lives: Vec<u64> = panel.requests.iter().map(|r| parts::whole(r)).collect();
        lives.sort_unstable();
        lives[lives.len() / 2]
    };
    let longest = panels.iter().map(typical).max()?;
    Some(((longest.max(1) as f64) * TYPICAL_LIVES) as u64)
}

/// In the middle of what the panel's requests did.
fn window_start(panel: &Panel<'_>, length: u64) -> Option<u64> {
    let (middle, _) = panel.requests.get(panel.requests.len() / 2)?.span()?;
    Some(middle.saturating_sub(length / 16))
}

fn draw_panel(
    svg: &mut Svg,
    top: f64,
    panel: &Panel<'_>,
    window: (u64, u64),
    trace: &Trace,
) -> f64 {
    let x = |at: u64| {
        let share = at.saturating_sub(window.0) as f64 / (window.1 - window.0) as f64;
        LABELS + share.min(1.0) * (WIDTH - LABELS - MARGIN)
    };
    let mut y = top + 18.0;
    svg.text((MARGIN, y), Anchor::Start, "head", &panel.title);
    svg.text((WIDTH - MARGIN, y), Anchor::End, "note", panel.says);
    y += 10.0;
    let inside = in_window(&trace.slices, window);
    for lane in threads(&inside, window, trace) {
        let name = &trace.lanes[usize::from(lane)].name;
        draw_label(svg, y, name.split(',').next().unwrap_or(name), "");
        svg.line(
            (LABELS, y + LANE / 2.0),
            (WIDTH - MARGIN, y + LANE / 2.0),
            "rest",
        );
        for slice in inside.iter().filter(|slice| slice.lane == lane) {
            let (from, to) = (x(slice.start.max(window.0)), x(slice.end.min(window.1)));
            let class = match slice.category {
                Category::Program => "program",
                Category::Call | Category::Kernel => "kernel",
                // Who waits is not there: the lane is wiped where a call contains a wait.
                Category::Wait => "away",
                _ => continue,
            };
            let title = title(slice, trace);
            let width = (to - from).max(if class == "away" { 0.0 } else { 0.6 });
            svg.rect((from, y + 4.0), (width, BAR), class, &title);
            if class == "away" {
                let middle = y + LANE / 2.0;
                svg.line((from, middle), (to, middle), "rest");
            }
        }
        y += LANE;
    }
    y = draw_disk(svg, y, panel, window, trace, &x);
    y + 10.0
}

fn draw_label(svg: &mut Svg, y: f64, text: &str, more: &str) {
    svg.text(
        (LABELS - 10.0, y + LANE / 2.0 + 4.0),
        Anchor::End,
        "label",
        &short(text, 22),
    );
    if !more.is_empty() {
        svg.text(
            (LABELS - 10.0, y + LANE / 2.0 + 18.0),
            Anchor::End,
            "small",
            more,
        );
    }
}

fn short(text: &str, most: usize) -> String {
    match text.chars().count() {
        count if count > most => text.chars().take(most - 1).chain(['…']).collect(),
        _ => text.to_owned(),
    }
}

/// What overlaps the window, in order.
fn in_window(slices: &[Slice], window: (u64, u64)) -> Vec<&Slice> {
    let until = slices.partition_point(|slice| slice.start < window.1);
    slices[..until]
        .iter()
        .filter(|slice| slice.end > window.0)
        .collect()
}

/// The guest's threads that did something in the window, the busiest first.
fn threads(inside: &[&Slice], window: (u64, u64), trace: &Trace) -> Vec<u16> {
    let mut busy: BTreeMap<u16, i64> = BTreeMap::new();
    for slice in inside {
        let lane = &trace.lanes[usize::from(slice.lane)];
        if lane.group == Group::Guest && lane.tid != PROCESSOR {
            let time = slice.end.min(window.1) - slice.start.max(window.0);
            let sign = if slice.category == Category::Wait {
                -1
            } else {
                1
            };
            *busy.entry(slice.lane).or_default() += sign * time as i64;
        }
    }
    let least = ((window.1 - window.0) / HARDLY) as i64;
    let mut busy: Vec<(u16, i64)> = busy.into_iter().filter(|(_, t)| *t > least).collect();
    busy.sort_by_key(|(lane, time)| (std::cmp::Reverse(*time), *lane));
    busy.truncate(MOST_THREADS);
    busy.sort();
    busy.into_iter().map(|(lane, _)| lane).collect()
}

fn title(slice: &Slice, trace: &Trace) -> String {
    let name = trace.names.text(slice.name);
    format!("{name}, {}", time((slice.end - slice.start) as f64))
}

/// Requests in flight as bars, each in a row that is free.
fn draw_disk(
    svg: &mut Svg,
    y: f64,
    panel: &Panel<'_>,
    window: (u64, u64),
    trace: &Trace,
    x: &dyn Fn(u64) -> f64,
) -> f64 {
    let requests = trace.requests.iter().filter(|r| r.disk == panel.disk);
    let mut flights: Vec<(u64, u64, &Request)> = requests
        .filter_map(|request| flight(request).map(|(start, end)| (start, end, request)))
        .filter(|(start, end, _)| *start < window.1 && *end > window.0)
        .collect();
    flights.sort_by_key(|(start, end, _)| (*start, *end));
    let mut rows: Vec<u64> = Vec::new();
    let placed: Vec<(usize, _)> = flights
        .into_iter()
        .map(|flight| {
            let row = rows.iter().position(|free| *free <= flight.0);
            let row = row.unwrap_or_else(|| {
                rows.push(0);
                rows.len() - 1
            });
            rows[row] = flight.1;
            (row, flight)
        })
        .collect();
    let count = rows.len().max(1);
    let disk = trace.about.disks.get(usize::from(panel.disk));
    let label = format!("disk {}", disk.map_or("?", String::as_str));
    draw_label(svg, y + 6.0, &label, &format!("{count} in flight"));
    svg.rect(
        (LABELS, y + 2.0),
        (WIDTH - LABELS - MARGIN, DISK),
        "trough",
        "",
    );
    let pitch = (DISK - 4.0) / count as f64;
    let height = if pitch > 3.0 {
        (pitch - 1.0).min(BAR)
    } else {
        pitch * 0.8
    };
    let above = (DISK - pitch * count as f64) / 2.0;
    for (row, (start, end, request)) in placed {
        let top = y + 2.0 + above + pitch * row as f64 + (pitch - height) / 2.0;
        let (from, to) = (x(start.max(window.0)), x(end.min(window.1)));
        let class = match trace.names.text(request.path) {
            "read-ahead" => "ahead",
            _ if !request.waited_for || request.asker.is_none() => "async",
            _ => "sync",
        };
        svg.rect(
            (from, top),
            ((to - from).max(0.8), height),
            class,
            &describe(request, trace),
        );
        // Where the device works on it, in contrast to the ring.
        if let (Some(begun), Some(ended)) =
            (request.when(Moment::Begun), request.when(Moment::Ended))
            && height > 3.0
        {
            let (from, to) = (
                x(begun.clamp(window.0, window.1)),
                x(ended.clamp(window.0, window.1)),
            );
            svg.rect((from, top), (to - from, height), "served", "");
        }
    }
    y + DISK + 6.0
}

fn describe(request: &Request, trace: &Trace) -> String {
    format!(
        "{}: {} of {} bytes at sector {}, {}",
        trace.names.text(request.path),
        crate::trace::assemble::op_name(request.op),
        request.bytes,
        request.sector,
        time(parts::whole(request) as f64)
    )
}

fn legend(svg: &mut Svg, top: f64, length: u64) -> f64 {
    let width = WIDTH - LABELS - MARGIN;
    let bottom = top + 4.0;
    svg.line((LABELS, bottom), (LABELS + width, bottom), "axis");
    for mark in marks(length as f64) {
        let x = LABELS + mark / length as f64 * width;
        svg.line((x, bottom), (x, bottom + 5.0), "axis");
        svg.text((x, bottom + 18.0), Anchor::Middle, "small", &time(mark));
    }
    let entries = [
        ("program", "program runs"),
        ("kernel", "kernel runs for it"),
        ("sync", "request that a thread waits for"),
        ("async", "request that nobody waits for"),
        ("ahead", "read-ahead"),
    ];
    let mut x = LABELS;
    let y = bottom + 34.0;
    for (class, text) in entries {
        svg.rect((x, y), (12.0, 12.0), class, "");
        svg.text((x + 17.0, y + 10.0), Anchor::Start, "small", text);
        x += 34.0 + 6.0 * text.chars().count() as f64;
    }
    y + 26.0
}
