//! The statistics as tables: requests of each disk, their times, its threads, and the vCPU's exits.

use hdrhistogram::Histogram;
use iolite_devices::trace;

use super::Report;
use crate::columns;

/// The tables, each after an empty line.
pub fn render(report: &Report<'_>) -> String {
    let mut text = String::new();
    for table in [requests_table, times_table, threads_table, exits_table] {
        text.push('\n');
        text.push_str(&table(report));
    }
    if report.lost > 0 {
        text.push_str(&format!(
            "{} events came too fast: times are of the others\n",
            report.lost
        ));
    }
    text
}

fn requests_table(report: &Report<'_>) -> String {
    let heads = [
        ("disk", false),
        ("reads", true),
        ("writes", true),
        ("flushes", true),
        ("discards", true),
        ("zeroes", true),
        ("others", true),
        ("errors", true),
        ("MB read", true),
        ("MB written", true),
        ("in flight", true),
        ("notified", true),
        ("interrupts", true),
        ("suppressed", true),
    ];
    let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    let rows = report.rows().map(|row| {
        let c = &row.counters;
        vec![
            row.name.clone(),
            c.reads.to_string(),
            c.writes.to_string(),
            c.flushes.to_string(),
            c.discards.to_string(),
            c.write_zeroes.to_string(),
            c.others.to_string(),
            c.errors.to_string(),
            megabytes(c.bytes_read),
            megabytes(c.bytes_written),
            c.max_in_flight.to_string(),
            c.notifications.to_string(),
            c.interrupts_sent.to_string(),
            c.interrupts_suppressed.to_string(),
        ]
    });
    columns::render(&heads, &rows.collect::<Vec<_>>())
}

fn times_table(report: &Report<'_>) -> String {
    let heads = [
        ("disk", false),
        ("time", false),
        ("requests", true),
        ("mean us", true),
        ("p50 us", true),
        ("p99 us", true),
        ("p999 us", true),
        ("max us", true),
    ];
    let mut rows = Vec::new();
    for row in report.rows() {
        let Some(times) = &row.times else { continue };
        let parts = [
            ("queued", &times.queued),
            ("service", &times.service),
            ("total", &times.total),
        ];
        for (part, histogram) in parts {
            rows.push(times_row(&row.name, part, histogram, report.tick_ns));
        }
    }
    columns::render(&heads, &rows)
}

fn times_row(name: &str, part: &str, times: &Histogram<u64>, tick_ns: f64) -> Vec<String> {
    let us = |ticks: f64| format!("{:.1}", ticks * tick_ns / 1e3);
    let quantile = |q| us(times.value_at_quantile(q) as f64);
    vec![
        name.to_owned(),
        part.to_owned(),
        times.len().to_string(),
        us(times.mean()),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        us(times.max() as f64),
    ]
}

fn threads_table(report: &Report<'_>) -> String {
    let rows = busy(report).map(|(thread, part)| vec![thread, format!("{:.1} %", part * 100.0)]);
    columns::render(
        &[("thread", false), ("in backends", true)],
        &rows.collect::<Vec<_>>(),
    )
}

/// The part of the time that each thread was in a backend.
pub fn busy(report: &Report<'_>) -> impl Iterator<Item = (String, f64)> {
    let names = trace::threads();
    report.times.busy.iter().filter_map(move |(thread, ticks)| {
        let seconds = *ticks as f64 * report.tick_ns / 1e9;
        Some((names.get(thread)?.clone(), seconds / report.seconds))
    })
}

fn exits_table(report: &Report<'_>) -> String {
    let requests = report.requests().max(1) as f64;
    let rows = exits(report).map(|(reason, count)| {
        vec![
            reason.to_owned(),
            count.to_string(),
            format!("{:.3}", count as f64 / requests),
        ]
    });
    let heads = [("vCPU", false), ("count", true), ("for each request", true)];
    columns::render(&heads, &rows.collect::<Vec<_>>())
}

/// What KVM has counted that is an exit or an interrupt, and did happen.
pub fn exits<'a>(report: &'a Report<'_>) -> impl Iterator<Item = (&'a str, u64)> {
    let counted = report.vcpu.iter();
    counted.filter(|(name, count)| {
        *count > 0 && (name.ends_with("exits") || name.ends_with("_injections"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm_stats::Reading;
    use crate::stats::times::Times;
    use crate::stats::{Measured, requests};
    use iolite_devices::virtio::blk::Counters;

    fn disk(name: &str, counters: Counters) -> Measured {
        Measured {
            name: name.to_owned(),
            counters,
            times: None,
            queues: Vec::new(),
        }
    }

    #[test]
    fn tables_line_up() {
        let counters = Counters {
            reads: 1000,
            bytes_read: 4_096_000,
            max_in_flight: 32,
            notifications: 33,
            interrupts_sent: 34,
            ..Counters::default()
        };
        assert_eq!(requests(&counters), 1000);
        let mut times = Times::default();
        times.busy.insert(999, 1);
        let report = Report {
            seconds: 1.0,
            disks: vec![disk("vda", Counters::default()), disk("vdb", counters)],
            times: &times,
            tick_ns: 0.5,
            vcpu: Reading::from([("exits", 50), ("io_exits", 0), ("pf_fixed", 7)]),
            lost: 3,
        };
        let text = render(&report);
        assert!(text.contains(
            "
disk  reads  writes  flushes  discards  zeroes  others  errors  MB read  MB written  in flight  notified  interrupts  suppressed
vda       0       0        0         0       0       0       0      0.0         0.0          0         0           0           0
vdb    1000       0        0         0       0       0       0      4.1         0.0         32        33          34           0
"
        ));
        assert!(
            text.contains("\nexits     50             0.050\n"),
            "{text}"
        );
        assert!(!text.contains("pf_fixed") && !text.contains("io_exits"));
        assert!(text.contains("3 events came too fast"));
    }
}
