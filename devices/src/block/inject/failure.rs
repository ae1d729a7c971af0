//! Which requests are to fail.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use iolite_devices_abi::blk::SECTOR_SIZE;

use super::random::draw;
use crate::block::request::{Kind, Request};

/// What [`Which::Chance`] is measured in.
pub const MILLION: u32 = 1_000_000;

/// What a request does to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A read.
    Read,
    /// A write, of data or of zeros.
    Write,
    /// A discard.
    Discard,
    /// A flush. It has no position. A write that has to be durable by itself (the driver did not
    /// accept FLUSH) is one too.
    Flush,
}

/// Which requests of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those that touch a sector from `first` to `last`, both included; never a flush.
    Sectors {
        /// The first sector.
        first: u64,
        /// The last sector.
        last: u64,
    },
    /// The n-th, the 2n-th and so on, counted from when the disk is made.
    Every(NonZeroU64),
    /// Each with this probability, in parts per [`MILLION`].
    Chance(u32),
}

/// A kind of request that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it does.
    pub operation: Operation,
    /// Which of those.
    pub which: Which,
}

impl Failure {
    /// Whether requests of this `kind` can meet the failure at all.
    fn concerns(&self, kind: Kind) -> bool {
        match self.operation {
            Operation::Read => kind == Kind::Read,
            Operation::Write => matches!(kind, Kind::Write { .. } | Kind::WriteZeroes { .. }),
            Operation::Discard => kind == Kind::Discard,
            Operation::Flush => matches!(
                kind,
                Kind::Flush
                    | Kind::Write { durable: true }
                    | Kind::WriteZeroes { durable: true, .. }
            ),
        }
    }
}

/// A failure of a disk in use.
pub(super) struct Armed {
    pub(super) failure: Failure,
    /// Makes its random choices its own.
    stream: u64,
    /// Requests of its operation so far.
    seen: AtomicU64,
}

impl Armed {
    /// `failure`, which is number `index` of its disk.
    pub(super) fn new(index: usize, failure: Failure) -> Self {
        Armed {
            failure,
            // Stream 0 is the latency's.
            stream: 1 + index as u64,
            seen: AtomicU64::new(0),
        }
    }

    /// Whether `request` is to fail. To be asked exactly once for each: it counts.
    pub(super) fn strikes(&self, seed: u64, request: &Request) -> bool {
        if !self.failure.concerns(request.kind) {
            return false;
        }
        match self.failure.which {
            Which::All => true,
            Which::Sectors { first, last } => {
                let touches =
                    |r: Range<u64>| r.start / SECTOR_SIZE <= last && first < r.end / SECTOR_SIZE;
                request.extents().any(touches)
            }
            Which::Every(n) => {
                let number = 1 + self.seen.fetch_add(1, Ordering::Relaxed);
                number.is_multiple_of(n.get())
            }
            Which::Chance(parts) => {
                draw(seed, self.stream, request.id) % u64::from(MILLION) < u64::from(parts)
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Discard => "discard",
            Operation::Flush => "flush",
        };
        match self.which {
            Which::All => write!(f, "every {operation}"),
            Which::Sectors { first, last } => {
                write!(f, "{operation} that touches sectors {first} to {last}")
            }
            Which::Every(n) => write!(f, "{operation} number n * {n}"),
            Which::Chance(parts) => write!(f, "{operation} by a chance of {parts} in {MILLION}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use crate::block::buffers::GuestBuffers;

    const WRITE: Kind = Kind::Write { durable: false };
    const DURABLE: Kind = Kind::Write { durable: true };
    const ZEROES: Kind = Kind::WriteZeroes {
        unmap: false,
        durable: true,
    };

    fn request(id: u64, kind: Kind, sector: u64, sectors: u32) -> Request {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let mut buffers = GuestBuffers::new(Arc::new(memory));
        buffers.push(GuestAddress(0), 512 * sectors).unwrap();
        Request {
            id,
            tag: 0,
            kind,
            offset: 512 * sector,
            buffers,
            ranges: Vec::new(),
        }
    }

    fn armed(operation: Operation, which: Which) -> Armed {
        Armed::new(0, Failure { operation, which })
    }

    #[test]
    fn each_operation_is_itself() {
        let fails = |operation| {
            [
                Kind::Read,
                WRITE,
                DURABLE,
                Kind::Flush,
                Kind::Discard,
                ZEROES,
            ]
            .map(|kind| armed(operation, Which::All).strikes(0, &request(1, kind, 0, 1)))
        };
        assert_eq!(
            fails(Operation::Read),
            [true, false, false, false, false, false]
        );
        assert_eq!(
            fails(Operation::Write),
            [false, true, true, false, false, true]
        );
        let discard = [false, false, false, false, true, false];
        assert_eq!(fails(Operation::Discard), discard);
        let flush = [false, false, true, true, false, true];
        assert_eq!(fails(Operation::Flush), flush);
    }

    #[test]
    fn sectors_are_met_exactly() {
        let which = Which::Sectors { first: 8, last: 9 };
        let fails = |sector, sectors| {
            armed(Operation::Read, which).strikes(0, &request(1, Kind::Read, sector, sectors))
        };
        for (sector, sectors) in [(8, 1), (9, 1), (8, 2), (7, 2), (9, 3), (0, 100)] {
            assert!(fails(sector, sectors), "{sectors} sectors from {sector}");
        }
        for (sector, sectors) in [(7, 1), (10, 1), (0, 8), (8, 0), (9, 0), (10, 50)] {
            assert!(!fails(sector, sectors), "{sectors} sectors from {sector}");
        }
    }

    #[test]
    fn every_range_of_a_discard_counts() {
        let which = Which::Sectors { first: 8, last: 9 };
        let fails = |ranges: &[Range<u64>]| {
            let mut request = request(1, Kind::Discard, 0, 0);
            request.ranges = ranges.iter().map(|r| 512 * r.start..512 * r.end).collect();
            armed(Operation::Discard, which).strikes(0, &request)
        };
        assert!(fails(&[0..1, 9..12]));
        assert!(!fails(&[0..8, 10..12, 8..8]));
    }

    #[test]
    fn every_nth_counts_its_own_operation() {
        let every = armed(Operation::Write, Which::Every(NonZeroU64::new(3).unwrap()));
        let mut failed = Vec::new();
        for number in 1..=9 {
            assert!(!every.strikes(0, &request(0, Kind::Read, 0, 1)));
            if every.strikes(0, &request(0, WRITE, 0, 1)) {
                failed.push(number);
            }
        }
        assert_eq!(failed, [3, 6, 9]);
    }

    #[test]
    fn chance_is_about_as_likely_as_said_and_repeats() {
        let struck = |seed, parts| -> Vec<u64> {
            let chance = armed(Operation::Read, Which::Chance(parts));
            let meets = |id: &u64| chance.strikes(seed, &request(*id, Kind::Read, 0, 1));
            (1..=10_000).filter(meets).collect()
        };
        let one_percent = struck(5, MILLION / 100);
        assert!(
            (50..200).contains(&one_percent.len()),
            "{}",
            one_percent.len()
        );
        assert_eq!(one_percent, struck(5, MILLION / 100));
        assert_ne!(one_percent, struck(6, MILLION / 100));
        assert_eq!(struck(5, MILLION).len(), 10_000);
    }
}
