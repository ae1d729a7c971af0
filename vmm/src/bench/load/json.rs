//! The results as JSON, schema `iolite-bench/1`.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::Options;
use super::image::Image;
use super::results::Results;

/// Writes the results.
///
/// # Errors
/// If it cannot be written.
pub fn write(
    mut out: impl Write,
    results: &Results,
    options: &Options,
    image: &Image,
) -> io::Result<()> {
    let all = json!({
        "schema": "iolite-bench/1",
        "disk": {"path": image.name(), "bytes": image.bytes(), "direct": options.direct},
        "seconds": options.time.as_secs_f64(),
        "rounds": options.rounds,
        "cells": cells(results),
    });
    serde_json::to_writer_pretty(&mut out, &all)?;
    writeln!(out)
}

/// An object for each cell and subject.
fn cells(results: &Results) -> Vec<Value> {
    let rows = results.cells().iter().enumerate().flat_map(|(at, shape)| {
        let cell = *shape.cell();
        let subjects = results.subjects().iter().enumerate();
        subjects.map(move |(number, subject)| {
            let row = results.summary(number, at);
            json!({
                "subject": subject.to_string(),
                "keys": subject.keys(),
                "rw": cell.rw(),
                "block_bytes": cell.block_bytes,
                "depth": cell.depth,
                "queues": cell.queues,
                "wait": cell.wait(),
                "iops": {"median": row.iops, "min": row.iops_min, "max": row.iops_max},
                "bytes_per_second": row.bytes_per_second,
                "latency_us": {
                    "p50": row.p50_us, "p99": row.p99_us, "p999": row.p999_us, "max": row.max_us,
                },
                "notifications_per_request": row.notifications,
                "interrupts_per_request": row.interrupts,
                "cpu_us_per_request": row.cpu_us,
                "requests": row.requests,
                "verified": row.verified,
                "neighbour_requests": row.neighbour,
                "ratio": row.ratio,
            })
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn the_documentation_has_every_key() {
        let docs = include_str!("../../../../docs/bench.md");
        let cells = cells(&results());
        assert_eq!(cells.len(), 2 * 7);
        let keys = cells[0].as_object().unwrap().iter();
        for (key, value) in keys {
            assert!(docs.contains(&format!("| `{key}` |")), "{key}");
            for inner in value.as_object().into_iter().flat_map(|inner| inner.keys()) {
                assert!(docs.contains(&format!("`{inner}`")), "{key}.{inner}");
            }
        }
    }
}
