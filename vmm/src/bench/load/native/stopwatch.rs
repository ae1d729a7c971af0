//! When a cell warms up, is measured and ends, and how long its requests took: as the guest's program
//! does it.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use iolite_guest_core::bench::{Cell, MIN_REQUESTS, Measured};

use crate::error::Error;

/// The warm-up's part of the time.
const WARM_UP: u32 = 10;
/// Digits that are kept of a latency.
const DIGITS: u8 = 3;
/// The longest that is told apart from longer ones: a minute, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

/// The times of a cell.
pub struct Stopwatch {
    warm: Instant,
    end: Instant,
    latencies: Histogram<u64>,
    /// All requests that have completed.
    pub completed: u64,
}

impl Stopwatch {
    /// Starts now.
    ///
    /// # Errors
    /// None that these constants can cause.
    pub fn start(cell: &Cell) -> Result<Stopwatch, Error> {
        let latencies = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)
            .map_err(|error| Error::Bench(format!("no histogram: {error}")))?;
        let time = Duration::from_millis(cell.ms);
        let warm = Instant::now() + time / WARM_UP;
        Ok(Stopwatch {
            warm,
            end: warm + time,
            latencies,
            completed: 0,
        })
    }

    /// Counts a request that was asked for at `asked` and has completed now; false when it is time
    /// to end.
    pub fn completed(&mut self, asked: Instant) -> bool {
        let now = Instant::now();
        if now >= self.end && self.latencies.len() < MIN_REQUESTS {
            self.end = now + Duration::from_nanos(1);
        }
        let go_on = now < self.end;
        if go_on && now >= self.warm {
            let ns = (now - asked).as_nanos().try_into().unwrap_or(LONGEST_NS);
            self.latencies.saturating_record(ns.max(1));
        }
        self.completed += 1;
        go_on
    }

    /// Adds what another thread has measured of the same cell.
    pub fn add(&mut self, other: &Stopwatch) {
        // Both have the same bounds: it cannot fail.
        let _ = self.latencies.add(&other.latencies);
        self.completed += other.completed;
        self.end = self.end.max(other.end);
    }

    /// The result, with as many requests verified.
    pub fn result(&self, verified: u64) -> Measured {
        let quantile = |q| self.latencies.value_at_quantile(q);
        Measured {
            requests: self.latencies.len(),
            ns: (self.end - self.warm).as_nanos() as u64,
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            max_ns: self.latencies.max(),
            all: self.completed,
            notifications: 0,
            interrupts: 0,
            verified,
            neighbour: 0,
        }
    }
}
