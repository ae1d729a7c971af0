//! The statistics as JSON, schema `iolite-stats/1`.

use std::io::{self, Write};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::{Measured, Report, requests, table};

/// Writes the statistics.
///
/// # Errors
/// If it cannot be written.
pub fn write(mut out: impl Write, report: &Report<'_>) -> io::Result<()> {
    let disks = report.disks.iter().map(|disk| {
        let mut value = measured(disk, report.tick_ns);
        let queues = disk.queues.iter();
        value["queues"] = queues
            .map(|queue| measured(queue, report.tick_ns))
            .collect();
        value
    });
    let threads =
        table::busy(report).map(|(name, part)| json!({"name": name, "in_backends": part}));
    let each = report.requests().max(1) as f64;
    let exits: Map<String, Value> = table::exits(report)
        .map(|(name, count)| {
            let counted = json!({"count": count, "for_each_request": count as f64 / each});
            (name.to_owned(), counted)
        })
        .collect();
    let all = json!({
        "schema": "iolite-stats/1",
        "seconds": report.seconds,
        "disks": disks.collect::<Vec<_>>(),
        "threads": threads.collect::<Vec<_>>(),
        "vcpu": exits,
        "lost_events": report.lost,
    });
    serde_json::to_writer_pretty(&mut out, &all)?;
    writeln!(out)
}

/// A disk or a queue.
fn measured(what: &Measured, tick_ns: f64) -> Value {
    let c = &what.counters;
    let times = what.times.as_ref().map(|times| {
        json!({
            "queued": histogram(&times.queued, tick_ns),
            "service": histogram(&times.service, tick_ns),
            "total": histogram(&times.total, tick_ns),
        })
    });
    json!({
        "name": what.name,
        "requests": requests(c),
        "reads": c.reads,
        "writes": c.writes,
        "flushes": c.flushes,
        "discards": c.discards,
        "write_zeroes": c.write_zeroes,
        "others": c.others,
        "errors": c.errors,
        "bytes_read": c.bytes_read,
        "bytes_written": c.bytes_written,
        "max_in_flight": c.max_in_flight,
        "notifications": c.notifications,
        "interrupts_sent": c.interrupts_sent,
        "interrupts_suppressed": c.interrupts_suppressed,
        "times_us": times,
    })
}

/// The figures of a histogram, and the histogram itself: how many requests took up to how long.
fn histogram(times: &Histogram<u64>, tick_ns: f64) -> Value {
    let us = |ticks: u64| ticks as f64 * tick_ns / 1e3;
    let quantile = |q| us(times.value_at_quantile(q));
    let steps = times.iter_log(1, 2.0);
    let steps = steps.filter(|step| step.count_since_last_iteration() > 0);
    let steps = steps.map(|step| {
        json!({"up_to": us(step.value_iterated_to()), "count": step.count_since_last_iteration()})
    });
    json!({
        "count": times.len(),
        "mean": times.mean() * tick_ns / 1e3,
        "p50": quantile(0.5),
        "p99": quantile(0.99),
        "p999": quantile(0.999),
        "max": us(times.max()),
        "steps": steps.collect::<Vec<_>>(),
    })
}
