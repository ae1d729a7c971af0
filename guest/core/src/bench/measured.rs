//! What was measured of a cell.

use crate::fields::Fields;
use core::fmt::{Display, Formatter, Result};

/// What was measured of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Requests that completed within [`Measured::ns`].
    pub requests: u64,
    /// The time measured, in nanoseconds.
    pub ns: u64,
    /// Latency in nanoseconds, from handing a request to the driver to taking its completion: the
    /// median.
    pub p50_ns: u64,
    /// 99 of 100 are not slower.
    pub p99_ns: u64,
    /// 999 of 1000 are not slower.
    pub p999_ns: u64,
    /// The slowest.
    pub max_ns: u64,
    /// All requests of the cell.
    pub all: u64,
    /// Available buffer notifications sent.
    pub notifications: u64,
    /// Interrupts received.
    pub interrupts: u64,
    /// Requests whose sectors were looked at, and were as they should be.
    pub verified: u64,
    /// Requests of the disk beside it that completed meanwhile.
    pub neighbour: u64,
}

impl Measured {
    /// Reads a line of the guest's; None if it is not one.
    pub fn parse(line: &str) -> Option<Measured> {
        let mut fields = Fields::of(line, "bench: result ")?;
        // Evaluated in this order, which is the order of the line.
        let measured = Measured {
            requests: fields.number("requests")?,
            ns: fields.number("ns")?,
            p50_ns: fields.number("p50_ns")?,
            p99_ns: fields.number("p99_ns")?,
            p999_ns: fields.number("p999_ns")?,
            max_ns: fields.number("max_ns")?,
            all: fields.number("all")?,
            notifications: fields.number("notifications")?,
            interrupts: fields.number("interrupts")?,
            verified: fields.number("verified")?,
            neighbour: fields.number("neighbour")?,
        };
        fields.end()?;
        Some(measured)
    }
}

/// The line that [`Measured::parse`] reads.
impl Display for Measured {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "bench: result requests={} ns={} p50_ns={} p99_ns={} p999_ns={} max_ns={} all={} \
             notifications={} interrupts={} verified={} neighbour={}",
            self.requests,
            self.ns,
            self.p50_ns,
            self.p99_ns,
            self.p999_ns,
            self.max_ns,
            self.all,
            self.notifications,
            self.interrupts,
            self.verified,
            self.neighbour
        )
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    const LINE: &str = "bench: result requests=1 ns=2 p50_ns=3 p99_ns=4 p999_ns=5 max_ns=6 all=7 \
                        notifications=8 interrupts=9 verified=10 neighbour=11";

    #[test]
    fn a_result_is_read_as_it_is_written() {
        let measured = Measured::parse(LINE).unwrap();
        assert_eq!((measured.requests, measured.neighbour), (1, 11));
        assert_eq!(measured.to_string(), LINE);
    }

    #[test]
    fn what_is_no_result_is_not_read() {
        for (right, wrong) in [
            ("bench: ", ""),
            ("ns=2", "ns=-2"),
            ("ns=2", "ns=+2"),
            ("ns=2", "ns=99999999999999999999"),
            ("ns=2 ", ""),
            ("neighbour=11", "neighbour=11 "),
            ("neighbour=11", "neighbour="),
        ] {
            assert_eq!(Measured::parse(&LINE.replacen(right, wrong, 1)), None);
        }
    }
}
