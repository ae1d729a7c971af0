//! The picture of the lanes: for each kind of asker a window of the same length, with the threads
//! that ran in it, the interrupts that the kernel handled, and the disk with what it had in flight.
//!
//! An empty place in a program's lane is a program that waits; an empty place in the disk's lane is
//! a disk that nobody asks.

use std::collections::BTreeMap;

use super::layout::{Layout, MARGIN};
use super::panels::{Panel, panels, window_length, window_start};
use super::svg::{Anchor, Svg, marks, round_time, small_width, time};
use crate::trace::in_flight::{flight, rows};
use crate::trace::model::{Category, Group, Moment, PROCESSOR, Request, Slice, Trace};
use crate::trace::parts;

const LANE: f64 = 22.0;
const BAR: f64 = 14.0;
/// Height of the disk's lane, however many requests are in flight.
const DISK: f64 = 44.0;
/// How many rows of requests are drawn in it.
const MOST_ROWS: usize = 400;
/// How many threads are shown beside each other.
const MOST_THREADS: usize = 3;
/// What is less wide than this many pixels cannot be told from what is beside it.
const HARDLY_SEEN: f64 = 0.5;
/// A thread that runs for less than this part of the window is left out.
const HARDLY: u64 = 200;

/// The picture, and its height; none for a trace with hardly a request.
pub fn picture(trace: &Trace, layout: &Layout) -> Option<(Svg, f64)> {
    let panels = panels(trace);
    let length = window_length(&panels)?;
    let mut svg = Svg::default();
    let mut y = 8.0;
    for panel in &panels {
        let start = window_start(panel, length)?;
        y = draw_panel(&mut svg, layout, y, panel, (start, start + length), trace);
    }
    y = axis(&mut svg, layout, y, length);
    y = legend(&mut svg, layout, y);
    if let Some(lost) = trace.about.lost() {
        let text = format!("events: {lost}");
        svg.text((MARGIN, y), Anchor::Start, "small", &text);
        y += 18.0;
    }
    Some((svg, y))
}

fn draw_panel(
    svg: &mut Svg,
    layout: &Layout,
    top: f64,
    panel: &Panel<'_>,
    window: (u64, u64),
    trace: &Trace,
) -> f64 {
    let x = |at: u64| {
        let share = at.saturating_sub(window.0) as f64 / (window.1 - window.0) as f64;
        layout.labels + share.min(1.0) * layout.time()
    };
    let mut y = top + 18.0;
    svg.text((MARGIN, y), Anchor::Start, "head", &panel.title);
    let behind_title = MARGIN + 1.32 * small_width(&panel.title) + 14.0;
    if layout.narrow || behind_title > layout.width / 2.0 {
        for line in layout.lines(panel.says) {
            y += 16.0;
            svg.text((MARGIN, y), Anchor::Start, "note", &line);
        }
    } else {
        let place = (layout.labels.max(behind_title), y);
        svg.text(place, Anchor::Start, "note", panel.says);
    }
    y += 10.0;
    let inside = in_window(&trace.slices, window);
    for (lane, name) in threads(&inside, window, trace) {
        draw_label(svg, layout, y, &name, &[]);
        let of_lane = inside.iter().filter(|slice| slice.lane == lane);
        draw_slices(svg, layout, y, of_lane, window, trace, &x);
        y += LANE;
    }
    let interrupts = inside
        .iter()
        .filter(|slice| slice.category == Category::Interrupt);
    if interrupts.clone().next().is_some() {
        draw_label(svg, layout, y, "interrupts", &[]);
        draw_slices(svg, layout, y, interrupts, window, trace, &x);
        y += LANE;
    }
    y = draw_disk(svg, layout, y, panel, window, trace, &x);
    y + 10.0
}

/// What somebody does. Who does nothing that can be seen, waits.
fn draw_slices<'a>(
    svg: &mut Svg,
    layout: &Layout,
    y: f64,
    slices: impl Iterator<Item = &'a &'a Slice>,
    window: (u64, u64),
    trace: &Trace,
    x: &dyn Fn(u64) -> f64,
) {
    let middle = y + LANE / 2.0;
    svg.line((layout.labels, middle), (layout.right(), middle), "rest");
    // Where the last bar of a kind ends: what would hardly be seen beside it makes it longer.
    let mut last: Option<(&str, f64)> = None;
    for slice in slices {
        let (from, to) = (x(slice.start.max(window.0)), x(slice.end.min(window.1)));
        let class = match slice.category {
            Category::Program => "program",
            Category::Call | Category::Kernel | Category::Interrupt => "kernel",
            // Who waits is not there: the lane is wiped where a call contains a wait.
            Category::Wait => "away",
            _ => continue,
        };
        if to - from < HARDLY_SEEN && last.is_some_and(|(_, end)| to - end < HARDLY_SEEN) {
            continue;
        }
        let width = (to - from).max(if class == "away" { 0.0 } else { HARDLY_SEEN });
        let (top, height) = match class {
            // A little more than what it wipes.
            "away" => (y + 3.0, BAR + 2.0),
            _ => (y + 4.0, BAR),
        };
        svg.rect((from, top), (width, height), class, &title(slice, trace));
        if class == "away" {
            svg.line((from, middle), (to, middle), "rest");
        }
        last = Some((class, to));
    }
}

/// A text at the left of a lane, and small ones below it.
fn draw_label(svg: &mut Svg, layout: &Layout, y: f64, text: &str, more: &[String]) {
    let x = layout.labels - 10.0;
    let mut y = y + LANE / 2.0 + 4.0;
    svg.text((x, y), Anchor::End, "label", &layout.label(text));
    for text in more {
        y += 14.0;
        svg.text((x, y), Anchor::End, "small", text);
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

/// The guest's threads that did something in the window, with what to call them. Of more than there is
/// room for, the busiest.
fn threads(inside: &[&Slice], window: (u64, u64), trace: &Trace) -> Vec<(u16, String)> {
    let mut busy: BTreeMap<u16, i128> = BTreeMap::new();
    for slice in inside {
        let lane = &trace.lanes[usize::from(slice.lane)];
        if lane.group == Group::Guest && lane.tid != PROCESSOR {
            let time = slice.end.min(window.1) - slice.start.max(window.0);
            let sign = if slice.category == Category::Wait {
                -1
            } else {
                1
            };
            *busy.entry(slice.lane).or_default() += sign * i128::from(time);
        }
    }
    let least = i128::from((window.1 - window.0) / HARDLY);
    let mut busy: Vec<(u16, i128)> = busy.into_iter().filter(|(_, t)| *t > least).collect();
    busy.sort_by_key(|(lane, time)| (std::cmp::Reverse(*time), *lane));
    busy.truncate(MOST_THREADS);
    busy.sort();
    // `demo [2], thread 5` is called by its process, but for processes of which there are several.
    let name = |lane: u16| trace.lanes[usize::from(lane)].name.as_str();
    let process = |lane: u16| name(lane).split(", thread ").next().unwrap_or_default();
    let call = |lane: u16| {
        let same = busy
            .iter()
            .filter(|(other, _)| process(*other) == process(lane));
        match name(lane).split_once(", thread ") {
            Some((process, number)) if same.count() > 1 => format!("{process} {number}"),
            _ => process(lane).to_owned(),
        }
    };
    busy.iter().map(|(lane, _)| (*lane, call(*lane))).collect()
}

fn title(slice: &Slice, trace: &Trace) -> String {
    let name = trace.names.text(slice.name);
    format!("{name}, {}", time((slice.end - slice.start) as f64))
}

/// Requests in flight as bars, each in a row that is free.
fn draw_disk(
    svg: &mut Svg,
    layout: &Layout,
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
    let (rows, count) = rows(flights.iter().map(|(start, end, _)| (*start, *end)));
    let count = count.max(1);
    let done = flights.iter().filter(|(_, end, _)| *end <= window.1);
    let done: u64 = done.map(|(.., r)| u64::from(r.bytes)).sum();
    let disk = trace.about.disks.get(usize::from(panel.disk));
    let label = format!("disk {}", disk.map_or("?", String::as_str));
    let (moved, most) = (format!("{} KiB", done >> 10), format!("{count} in flight"));
    match layout.narrow {
        false => draw_label(svg, layout, y + 6.0, &label, &[format!("{moved}, {most}")]),
        true => draw_label(svg, layout, y - 4.0, &label, &[moved, most]),
    }
    let trough = (layout.time(), DISK);
    svg.rect((layout.labels, y + 2.0), trough, "trough", "");
    let pitch = (DISK - 4.0) / count as f64;
    let height = if pitch > 3.0 {
        (pitch - 1.0).min(BAR)
    } else {
        pitch * 0.8
    };
    let above = (DISK - pitch * count as f64) / 2.0;
    // Where the last bar of each row ends.
    let mut drawn = vec![f64::MIN; count];
    // Of rows that are too thin to be seen, one of several.
    let step = count.div_ceil(MOST_ROWS);
    let placed = rows.into_iter().zip(flights);
    for (row, (start, end, request)) in placed.filter(|(row, _)| row % step == 0) {
        let top = y + 2.0 + above + pitch * row as f64 + (pitch - height) / 2.0;
        let (from, to) = (x(start.max(window.0)), x(end.min(window.1)));
        if to - drawn[row] < HARDLY_SEEN {
            continue;
        }
        drawn[row] = to;
        let class = match trace.names.text(request.path) {
            "read-ahead" => "ahead",
            _ if !request.waited_for || request.asker.is_none() => "async",
            _ => "sync",
        };
        let size = ((to - from).max(HARDLY_SEEN), height);
        let waits = format!("{class} waits");
        svg.rect((from, top), size, &waits, &describe(request, trace));
        // Full colour where the device works on it, in contrast to the ring.
        if let (Some(begun), Some(ended)) =
            (request.when(Moment::Begun), request.when(Moment::Ended))
        {
            let from = x(begun.clamp(window.0, window.1));
            let to = x(ended.clamp(window.0, window.1));
            svg.rect((from, top), ((to - from).max(0.4), height), class, "");
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

/// The time, the same for all panels.
fn axis(svg: &mut Svg, layout: &Layout, top: f64, length: u64) -> f64 {
    let y = top + 4.0;
    svg.line((layout.labels, y), (layout.right(), y), "axis");
    let mut free = 0.0;
    for mark in marks(length as f64) {
        let x = layout.labels + mark / length as f64 * layout.time();
        svg.line((x, y), (x, y + 5.0), "axis");
        // The last one may be at the edge, and where there is little room some have no text.
        let anchor = if x > layout.width - 2.0 * MARGIN {
            Anchor::End
        } else {
            Anchor::Middle
        };
        if x >= free {
            svg.text((x, y + 18.0), anchor, "small", &round_time(mark));
            free = x + 48.0;
        }
    }
    y + 34.0
}

fn legend(svg: &mut Svg, layout: &Layout, top: f64) -> f64 {
    let entries = [
        ("program", "program runs"),
        ("kernel", "kernel runs"),
        ("sync", "request that a thread waits for"),
        ("async", "asynchronous request"),
        ("ahead", "read-ahead"),
        ("async waits", "in the ring"),
    ];
    let waits = ["sync waits", "async waits", "ahead waits"];
    let is_drawn = |class: &str| match class {
        "async waits" => waits.iter().any(|class| svg.has(class)),
        class => svg.has(class),
    };
    let entries = entries.into_iter().filter(|(class, _)| is_drawn(class));
    let entries: Vec<_> = entries.collect();
    let (mut x, mut y) = (MARGIN, top);
    for (class, text) in entries {
        let width = 17.0 + small_width(text);
        if x + width > layout.right() {
            (x, y) = (MARGIN, y + 20.0);
        }
        svg.rect((x, y), (12.0, 12.0), class, "");
        svg.text((x + 17.0, y + 10.0), Anchor::Start, "small", text);
        x += width + 18.0;
    }
    y + 26.0
}
