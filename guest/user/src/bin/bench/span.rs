//! When a cell is measured.

use iolite_user::Instant;
use iolite_user::core_logic::bench::MIN_REQUESTS;

/// The warm-up's part of the time.
const WARM_UP: u64 = 10;

/// When a cell is measured, by the time stamp counter.
pub struct Span {
    /// From here on completions count.
    pub warm: u64,
    end: u64,
}

impl Span {
    /// Warms up from now on, then lasts `ns` nanoseconds.
    pub fn from_now(ns: u64) -> Span {
        let warm = Instant::now().after_ns(ns / WARM_UP);
        Span {
            warm: warm.ticks(),
            end: warm.after_ns(ns).ticks(),
        }
    }

    /// Does a request that completes now still count, `counted` having done so? Where so few
    /// complete in the time, it lasts longer.
    #[inline(always)]
    pub fn go_on(&mut self, now: u64, counted: u64) -> bool {
        if now >= self.end && counted < MIN_REQUESTS {
            self.end = now + 1;
        }
        now < self.end
    }

    /// How long it has lasted, in nanoseconds.
    pub fn ns(&self) -> u64 {
        Instant::from_ticks(self.warm).ns_until(Instant::from_ticks(self.end))
    }
}
