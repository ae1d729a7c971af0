//! The page: what was traced, the lanes, where the time went, waterfalls, histograms.

use std::fmt::Write;

use super::layout::{Layout, NARROW, WIDE};
use super::svg::{Escaped, time};
use super::{STYLE, histogram, lanes, overview, waterfall};
use crate::trace::model::{Request, Trace};
use crate::trace::parts::{PART_NAMES, PARTS, Part};
use crate::trace::paths::{PathFigures, figures};

const PAGE_STYLE: &str = include_str!("page.css");
/// How many paths have waterfalls and a histogram.
const MOST_PATHS: usize = 8;
/// Fewer requests than these make no histogram.
const FEWEST_REQUESTS: usize = 20;

/// The page as HTML.
pub fn page(trace: &Trace) -> String {
    let paths = figures(trace);
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut out, trace);
    let _ = facts(&mut out, trace);
    let _ = pictures(&mut out, trace);
    let _ = table(&mut out, &paths);
    let _ = latencies(&mut out, &paths);
    let _ = requests(&mut out, trace, &paths);
    let _ = foot(&mut out);
    out
}

fn head(out: &mut String, trace: &Trace) -> std::fmt::Result {
    let command = Escaped(&trace.about.command);
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{command}: one request's life</title>\n\
         <style>\n{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>One request's life</h1>\n\
         <p class=\"lead\">Block I/O of a virtual machine, from the program that asked to the thread \
         that served it.<br><code>{command}</code></p>\n"
    )
}

fn facts(out: &mut String, trace: &Trace) -> std::fmt::Result {
    let about = &trace.about;
    let complete = trace.requests.iter().filter(|r| r.is_complete()).count();
    let events = about.guest_events + about.host_events;
    let lost = about.lost();
    let lost = lost.as_deref().unwrap_or("none lost");
    let facts = [
        ("traced", time(about.duration_ns as f64)),
        ("requests", format!("{complete} complete")),
        ("events", format!("{events}, {lost}")),
        ("host", about.host.clone()),
        ("machine", about.machine.clone()),
        ("one clock", about.clock.replace(" us", " µs")),
    ];
    writeln!(out, "<dl>")?;
    for (name, value) in facts {
        let value = Escaped(&value);
        let class = match name {
            "events" | "host" | "machine" | "one clock" => " class=\"long\"",
            _ => "",
        };
        writeln!(out, "<div{class}><dt>{name}</dt><dd>{value}</dd></div>")?;
    }
    writeln!(out, "</dl>")?;
    let disordered = trace.disordered();
    if disordered > 0 {
        writeln!(
            out,
            "<p class=\"warn\">In {disordered} requests an effect seems to come before its cause: \
             the clocks of the two sides do not agree.</p>"
        )?;
    }
    Ok(())
}

fn pictures(out: &mut String, trace: &Trace) -> std::fmt::Result {
    let lanes = both(|layout| {
        let drawn = lanes::picture(trace, layout);
        drawn.map_or_else(String::new, |(svg, height)| {
            let size = (layout.width, height);
            svg.element(layout.class, size, "lanes of programs and disks")
        })
    });
    if !lanes.is_empty() {
        writeln!(
            out,
            "<h2>Who does what, when</h2>\n<p class=\"note\">A window of the same length for each \
             kind of asker. Where a program's lane is dotted, the program waits; each bar in the \
             disk's lane is a request in flight, pale while it is in the ring, full while the device \
             works on it.</p>\n\
             <figure>{lanes}</figure>"
        )?;
    }
    writeln!(
        out,
        "<h2>From beginning to end</h2>\n<p class=\"note\">Requests in flight on each disk.</p>\n\
         <figure>{}</figure>",
        both(|layout| overview::element(trace, layout))
    )
}

fn table(out: &mut String, paths: &[PathFigures<'_>]) -> std::fmt::Result {
    writeln!(
        out,
        "<h2>Where the time goes</h2>\n<p class=\"note\">The mean life of a request, path by path, \
         and each part's share of it.</p>"
    )?;
    write!(out, "<div class=\"scroll\"><table>\n<thead><tr><th></th>")?;
    for path in paths {
        write!(out, "<th>{}</th>", Escaped(path.name))?;
    }
    writeln!(out, "</tr></thead>\n<tbody>")?;
    for (part, (side, name)) in PART_NAMES.iter().enumerate() {
        // What no path has is left out; that nothing is unaccounted for is worth a row.
        let is_there = paths.iter().any(|path| path.parts[part] > 0);
        if !is_there && part != Part::Unaccounted as usize {
            continue;
        }
        let side = match *side {
            "" => String::new(),
            side => format!("<span class=\"side\">{side} </span>"),
        };
        let name = format!("<i class=\"p{part}\"></i>{side}{name}");
        row(out, "", &name, paths, |path| {
            let mean = path.mean(path.parts[part]);
            (time(mean), path.share(part))
        })?;
    }
    row(out, " class=\"whole\"", "whole", paths, |path| {
        let sum = (0..PARTS).map(|part| path.share(part)).sum();
        (time(path.mean(path.whole)), sum)
    })?;
    for (share, name) in [(0.5, "median"), (0.99, "99th percentile"), (1.0, "slowest")] {
        figure_row(out, name, paths, |path| time(path.percentile(share) as f64))?;
    }
    figure_row(out, "requests", paths, |path| {
        path.requests.len().to_string()
    })?;
    figure_row(out, "KiB", paths, |path| (path.bytes / 1024).to_string())?;
    figure_row(out, "errors", paths, |path| path.errors.to_string())?;
    writeln!(out, "</tbody></table></div>")
}

fn row(
    out: &mut String,
    attributes: &str,
    name: &str,
    paths: &[PathFigures<'_>],
    value: impl Fn(&PathFigures<'_>) -> (String, f64),
) -> std::fmt::Result {
    write!(out, "<tr{attributes}><td>{name}</td>")?;
    for path in paths {
        let (value, share) = value(path);
        if share == 0.0 {
            write!(out, "<td class=\"none\">–</td>")?;
            continue;
        }
        let percent = share * 100.0;
        write!(
            out,
            "<td>{value} <span class=\"share\">{percent:.0} %</span></td>"
        )?;
    }
    writeln!(out, "</tr>")
}

fn figure_row(
    out: &mut String,
    name: &str,
    paths: &[PathFigures<'_>],
    value: impl Fn(&PathFigures<'_>) -> String,
) -> std::fmt::Result {
    write!(out, "<tr><td>{name}</td>")?;
    for path in paths {
        write!(out, "<td>{}</td>", value(path))?;
    }
    writeln!(out, "</tr>")
}

fn latencies(out: &mut String, paths: &[PathFigures<'_>]) -> std::fmt::Result {
    let many = |path: &&PathFigures<'_>| path.requests.len() >= FEWEST_REQUESTS;
    let shown: Vec<_> = paths.iter().filter(many).take(MOST_PATHS).collect();
    if shown.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<h2>How long requests take</h2>\n<p class=\"note\">Logarithmic; what is beyond the 99th \
         percentile is orange.</p>\n<div class=\"pair\">"
    )?;
    for path in shown {
        let label = format!("latency histogram of {}", path.name);
        writeln!(
            out,
            "<figure><h3>{}</h3><figcaption>{} requests: p50 {}, p99 {}, slowest {}</figcaption>\
             {}</figure>",
            Escaped(path.name),
            path.requests.len(),
            time(path.percentile(0.5) as f64),
            time(path.percentile(0.99) as f64),
            time(path.percentile(1.0) as f64),
            both(|layout| histogram::element(path, layout, &label))
        )?;
    }
    writeln!(out, "</div>")
}

fn requests(out: &mut String, trace: &Trace, paths: &[PathFigures<'_>]) -> std::fmt::Result {
    writeln!(
        out,
        "<h2>A typical request, and the slowest</h2>\n<p class=\"note\">Each part of its life in a \
         row of its own. Orange is the guest that asks, blue the way to a server and back, grey the \
         border, violet the device, green the backend.</p>"
    )?;
    for path in paths.iter().take(MOST_PATHS) {
        writeln!(out, "<div class=\"pair\">")?;
        let shown: &[_] = match path.requests.len() {
            1 => &[(0.5, "the only one")],
            _ => &[(0.5, "typical"), (1.0, "slowest")],
        };
        for &(share, which) in shown {
            if let Some(request) = path.at(share) {
                let label = format!("waterfall of a request of {}: {which}", path.name);
                writeln!(
                    out,
                    "<figure><h3>{}, {which}</h3><figcaption>{}</figcaption>{}</figure>",
                    Escaped(path.name),
                    Escaped(&caption(request, trace)),
                    both(|layout| waterfall::element(request, layout, &label))
                )?;
            }
        }
        writeln!(out, "</div>")?;
    }
    Ok(())
}

/// A drawing in both sizes, of which the page shows one.
fn both(draw: impl Fn(&Layout) -> String) -> String {
    [&WIDE, &NARROW].map(draw).concat()
}

fn caption(request: &Request, trace: &Trace) -> String {
    let disk = trace.about.disks.get(usize::from(request.disk));
    let start = request.span().map_or(0, |(start, _)| start);
    format!(
        "{} of {} bytes at sector {} of {}, {:.3} s into the trace",
        crate::trace::assemble::op_name(request.op),
        request.bytes,
        request.sector,
        disk.map_or("?", String::as_str),
        start as f64 / 1e9
    )
}

fn foot(out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "<footer>Made by <code>iolite trace html</code>, iolite {}. The trace itself opens in \
         Perfetto.</footer>\n</main>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    )
}
