//! What the program `demo` says on the console: one line for each event, a word for its kind, then
//! `key=value` pairs separated by blanks. The VMM reads these lines.

use core::fmt::{Display, Formatter, Result};

/// How far a path has come.
pub struct Progress<'a> {
    /// The path.
    pub path: &'a str,
    /// Bytes hashed so far.
    pub bytes: u64,
    /// Bytes of the whole disk.
    pub of: u64,
}

impl Display for Progress<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "demo: progress path={} bytes={} of={}",
            self.path, self.bytes, self.of
        )
    }
}

/// How a path asks for I/O.
pub struct PathKind {
    /// The path, as `--paths` and the report call it.
    pub name: &'static str,
    /// Who asks: `process`, `kernel` or `server`.
    pub initiator: &'static str,
    /// Whether the asker stops until the operation is done: `sync` or `async`.
    pub mode: &'static str,
    /// What makes it ask.
    pub trigger: &'static str,
}

/// What a path has done to the whole disk.
pub struct PathReport<'a> {
    /// The path.
    pub kind: &'a PathKind,
    /// Operations: what [`PathReport::p50_ns`] and its neighbours are the latencies of, or the
    /// requests that served them.
    pub operations: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// SHA-256 of these bytes.
    pub sha256: [u8; 32],
    /// Time from start to end in nanoseconds, hashing included.
    pub ns: u64,
    /// Median latency in nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile of the latency in nanoseconds.
    pub p99_ns: u64,
    /// Largest latency in nanoseconds.
    pub max_ns: u64,
    /// The most requests the disk's driver had in flight.
    pub max_in_flight: u64,
    /// How much of the time with requests in flight a program ran.
    pub cpu_overlap: Overlap,
}

/// A part of a whole, from 0 to 1, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap(u16);

impl Overlap {
    /// Of `in_flight_ticks`, the part in which a program ran; 0 if nothing was in flight.
    pub fn of_ticks(in_flight_ticks: u64, work_ticks: u64) -> Overlap {
        let work = u128::from(work_ticks.min(in_flight_ticks));
        match u128::from(in_flight_ticks) {
            0 => Overlap(0),
            all => Overlap((work * 1000 / all) as u16),
        }
    }
}

impl Display for Overlap {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl Display for PathReport<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let PathKind {
            name,
            initiator,
            mode,
            trigger,
        } = self.kind;
        write!(
            f,
            "demo: path name={name} initiator={initiator} mode={mode} trigger={trigger} \
             operations={} bytes={} sha256={} ns={} p50_ns={} p99_ns={} max_ns={} \
             max_in_flight={} cpu_overlap={}",
            self.operations,
            self.bytes,
            Hex(&self.sha256),
            self.ns,
            self.p50_ns,
            self.p99_ns,
            self.max_ns,
            self.max_in_flight,
            self.cpu_overlap,
        )
    }
}

/// Why a path ended early.
pub struct Failed<'a, E> {
    /// The path, or `-` if it came to none.
    pub path: &'a str,
    /// The reason; the last of the line, so that it can hold blanks.
    pub error: E,
}

impl<E: Display> Display for Failed<'_, E> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "demo: failed path={} error={}", self.path, self.error)
    }
}

/// Bytes as lower-case hexadecimal digits.
pub struct Hex<'a>(pub &'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn lines_are_those_of_the_protocol() {
        let progress = Progress {
            path: "pager",
            bytes: 4096,
            of: 16_777_216,
        };
        assert_eq!(
            progress.to_string(),
            "demo: progress path=pager bytes=4096 of=16777216"
        );
        let failed = Failed {
            path: "pager",
            error: "input/output error",
        };
        assert_eq!(
            failed.to_string(),
            "demo: failed path=pager error=input/output error"
        );

        let report = PathReport {
            kind: &PathKind {
                name: "blocking-read",
                initiator: "process",
                mode: "sync",
                trigger: "pread",
            },
            operations: 2,
            bytes: 8192,
            sha256: core::array::from_fn(|i| i as u8 * 8),
            ns: 5,
            p50_ns: 1,
            p99_ns: 2,
            max_ns: 3,
            max_in_flight: 4,
            cpu_overlap: Overlap::of_ticks(1000, 123),
        };
        assert_eq!(
            report.to_string(),
            "demo: path name=blocking-read initiator=process mode=sync trigger=pread \
             operations=2 bytes=8192 \
             sha256=0008101820283038404850586068707880889098a0a8b0b8c0c8d0d8e0e8f0f8 \
             ns=5 p50_ns=1 p99_ns=2 max_ns=3 max_in_flight=4 \
             cpu_overlap=0.123"
        );
    }

    #[test]
    fn the_overlap_is_the_part_in_which_a_program_ran() {
        let cases = [
            ((0, 0), "0.000"),
            ((0, 5), "0.000"),
            ((4, 0), "0.000"),
            ((4, 4), "1.000"),
            ((4, 9), "1.000"),
            ((3, 2), "0.666"),
            ((u64::MAX, u64::MAX - 1), "0.999"),
        ];
        for ((in_flight, work), text) in cases {
            assert_eq!(Overlap::of_ticks(in_flight, work).to_string(), text);
        }
    }
}
