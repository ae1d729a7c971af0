//! The statistics as JSON, schema `iolite-stats/1`.

use std::io::{self, Write};

use hdrhistogram::Histogram;
use iolite_devices::trace;
use iolite_devices::virtio::blk::Counters;
use serde_json::{Map, Value, json};

use super::{Report, requests, table};

/// Writes the statistics.
///
/// # Errors
/// What writing says.
pub fn write(mut out: impl Write, report: &Report<'_>) -> io::Result<()> {
    let names = trace::disks();
    let disks = report.disks.iter().map(|(name, c)| {
        let times = names
            .iter()
            .position(|known| known == name)
            .and_then(|number| report.times.disks.get(&u8::try_from(number).ok()?));
        let mut disk = counters(name, c);
        let queues = report.queues.iter().filter(|(queue, _)| {
            let rest = queue.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with('/'))
        });
        disk["queues"] = queues.map(|(queue, c)| counters(queue, c)).collect();
        disk["times_us"] = json!(times.map(|times| json!({
            "queued": histogram(&times.queued, report.tick_ns),
            "service": histogram(&times.service, report.tick_ns),
            "total": histogram(&times.total, report.tick_ns),
        })));
        disk
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

/// What was counted of a disk or a queue.
fn counters(name: &str, c: &Counters) -> Value {
    json!({
        "name": name,
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
