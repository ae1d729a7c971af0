//! The results as JSON, schema `iolite-demo/1`.

use std::io::{self, Write};

use serde::Serialize;

use super::protocol::PathResult;

#[derive(Serialize)]
struct Results<'a> {
    schema: &'static str,
    disk: Disk<'a>,
    paths: Vec<Path<'a>>,
}

#[derive(Serialize)]
struct Disk<'a> {
    path: &'a str,
    bytes: u64,
    sha256: &'a str,
}

#[derive(Serialize)]
struct Path<'a> {
    name: &'a str,
    initiator: &'a str,
    mode: &'a str,
    trigger: &'a str,
    operations: u64,
    bytes: u64,
    sha256: &'a str,
    seconds: f64,
    latency_us: Latency,
    max_in_flight: u64,
    cpu_overlap: f64,
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

/// Writes the results for a disk with this path, size and SHA-256 (the host's).
///
/// # Errors
/// If it cannot be written.
pub fn write(
    mut out: impl Write,
    path: &str,
    bytes: u64,
    sha256: &str,
    paths: &[PathResult],
) -> io::Result<()> {
    let us = |ns: u64| ns as f64 / 1e3;
    let paths = paths.iter().map(|path| Path {
        name: &path.name,
        initiator: &path.initiator,
        mode: &path.mode,
        trigger: &path.trigger,
        operations: path.operations,
        bytes: path.bytes,
        sha256: &path.sha256,
        seconds: path.ns as f64 / 1e9,
        latency_us: Latency {
            p50: us(path.p50_ns),
            p99: us(path.p99_ns),
            max: us(path.max_ns),
        },
        max_in_flight: path.max_in_flight,
        cpu_overlap: path.cpu_overlap,
    });
    let disk = Disk {
        path,
        bytes,
        sha256,
    };
    let results = Results {
        schema: "iolite-demo/1",
        disk,
        paths: paths.collect(),
    };
    serde_json::to_writer_pretty(&mut out, &results)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn keys_are_those_of_the_schema() {
        let path = PathResult {
            name: "pager".into(),
            initiator: "kernel".into(),
            mode: "async".into(),
            trigger: "page-fault".into(),
            operations: 2,
            bytes: 1024,
            sha256: "ab".into(),
            ns: 1_500_000_000,
            p50_ns: 1500,
            p99_ns: 2000,
            max_ns: 3000,
            max_in_flight: 8,
            cpu_overlap: 0.875,
        };
        let mut text = Vec::new();
        write(&mut text, "x.img", 1024, "cd", &[path]).unwrap();
        assert!(text.ends_with(b"}\n"));
        let value: Value = serde_json::from_slice(&text).unwrap();
        let wanted = json!({
            "schema": "iolite-demo/1",
            "disk": {"path": "x.img", "bytes": 1024, "sha256": "cd"},
            "paths": [{
                "name": "pager", "initiator": "kernel", "mode": "async", "trigger": "page-fault",
                "operations": 2, "bytes": 1024, "sha256": "ab", "seconds": 1.5,
                "latency_us": {"p50": 1.5, "p99": 2.0, "max": 3.0}, "max_in_flight": 8,
                "cpu_overlap": 0.875,
            }],
        });
        assert_eq!(value, wanted);
    }
}
