//! One line now and then: in place on a terminal, else one below the other.

use std::time::{Duration, Instant};

use super::times::Times;
use crate::{logging, status_line};

/// Shows how it goes.
pub struct Live {
    every: Duration,
    last: Instant,
    terminal: bool,
}

impl Live {
    /// A line this often.
    pub fn every(every: Duration) -> Live {
        Live {
            every,
            last: Instant::now(),
            terminal: status_line::is_possible(),
        }
    }

    /// Shows a line if it is time for one. `tick_ns` says how long a tick is.
    pub fn show(&mut self, times: &mut Times, tick_ns: impl Fn() -> f64) {
        let elapsed = self.last.elapsed();
        if elapsed < self.every {
            return;
        }
        self.last = Instant::now();
        let line = line(times, elapsed.as_secs_f64(), tick_ns());
        match self.terminal {
            true => status_line::show(&line),
            false => logging::line(&line),
        }
        times.recent = Default::default();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        status_line::end();
    }
}

fn line(times: &Times, seconds: f64, tick_ns: f64) -> String {
    let recent = &times.recent;
    let each = |count: u64| count as f64 / seconds;
    format!(
        "stats: {:.0} IOPS, {:.1} MB/s, {} in flight, p99 {:.1} us, {:.0} exits/s",
        each(recent.requests),
        each(recent.bytes) / 1e6,
        times.in_flight(),
        recent.total.value_at_quantile(0.99) as f64 * tick_ns / 1e3,
        each(recent.exits),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_rates() {
        let mut times = Times::default();
        times.recent.requests = 500;
        times.recent.bytes = 500 * 4096;
        times.recent.exits = 10;
        for _ in 0..500 {
            times.recent.total.saturating_record(2000);
        }
        let wanted = "stats: 1000 IOPS, 4.1 MB/s, 0 in flight, p99 1.0 us, 20 exits/s";
        assert_eq!(line(&times, 0.5, 0.5), wanted);
    }
}
