//! `iolite trace summary`: for each path, where the time went.

use std::fmt::Write;

use super::model::Trace;
use super::parts::{PART_NAMES, PARTS};
use super::paths::{PathFigures, figures};

/// How many paths stand beside each other in a table of 100 columns.
const ABREAST: usize = 4;

/// The summary as text.
pub fn render(trace: &Trace) -> String {
    let mut text = String::new();
    let paths = figures(trace);
    // Writing to a string does not fail.
    let _ = header(&mut text, trace);
    let _ = totals(&mut text, &paths);
    for paths in paths.chunks(ABREAST) {
        let _ = table(&mut text, paths);
    }
    text
}

fn header(text: &mut String, trace: &Trace) -> std::fmt::Result {
    let about = &trace.about;
    writeln!(text, "command  {}", about.command)?;
    writeln!(text, "host     {}", about.host)?;
    writeln!(text, "machine  {}", about.machine)?;
    let seconds = about.duration_ns as f64 / 1e9;
    let events = about.guest_events + about.host_events;
    writeln!(
        text,
        "trace    {seconds:.3} s, {events} events ({} of the guest), {}",
        about.guest_events,
        about.lost().as_deref().unwrap_or("none lost")
    )?;
    writeln!(text, "clock    {}", about.clock)?;
    let complete = trace.requests.iter().filter(|r| r.is_complete()).count();
    let order = match trace.disordered() {
        0 => "causes before effects in all of them".to_owned(),
        count => format!("in {count} of them an effect comes before its cause"),
    };
    writeln!(
        text,
        "requests {}, {complete} of them complete; {order}\n",
        trace.requests.len()
    )
}

fn totals(text: &mut String, paths: &[PathFigures<'_>]) -> std::fmt::Result {
    writeln!(
        text,
        "{:<18}{:>9}{:>11}{:>8}{:>11}{:>11}{:>11}{:>11}",
        "path", "requests", "KiB", "errors", "mean us", "p50 us", "p99 us", "max us"
    )?;
    for path in paths {
        writeln!(
            text,
            "{:<18}{:>9}{:>11}{:>8}{:>11.1}{:>11.1}{:>11.1}{:>11.1}",
            path.name,
            path.requests.len(),
            path.bytes / 1024,
            path.errors,
            path.mean(path.whole) / 1e3,
            us(path.percentile(0.5)),
            us(path.percentile(0.99)),
            us(path.percentile(1.0)),
        )?;
    }
    Ok(())
}

fn table(text: &mut String, paths: &[PathFigures<'_>]) -> std::fmt::Result {
    write!(text, "\n{:<27}", "mean us, share of the whole")?;
    for path in paths {
        write!(text, "{:>18}", path.name)?;
    }
    writeln!(text)?;
    for (part, (side, name)) in PART_NAMES.iter().enumerate() {
        write!(text, "{side:<8}{name:<19}")?;
        for path in paths {
            cell(text, path.mean(path.parts[part]), path.share(part))?;
        }
        writeln!(text)?;
    }
    write!(text, "{:<27}", "whole")?;
    for path in paths {
        let sum: f64 = (0..PARTS).map(|part| path.share(part)).sum();
        cell(text, path.mean(path.whole), sum)?;
    }
    writeln!(text)
}

fn cell(text: &mut String, ns: f64, share: f64) -> std::fmt::Result {
    write!(text, "{:>12.1}{:>5.0}%", ns / 1e3, share * 100.0)
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}
