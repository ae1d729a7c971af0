//! Time: the time stamp counter, which a program reads without the kernel.
#![allow(unsafe_code)]

use crate::{start, syscall};

const NS_PER_SECOND: u128 = 1_000_000_000;

/// A moment, good for differences.
#[derive(Clone, Copy, Debug)]
pub struct Instant {
    ticks: u64,
}

impl Instant {
    /// This moment.
    pub fn now() -> Instant {
        // SAFETY: the kernel lets ring 3 read the counter.
        let ticks = unsafe { core::arch::x86_64::_rdtsc() };
        Instant { ticks }
    }

    /// Its time stamp counter, which every process sees alike.
    pub fn ticks(self) -> u64 {
        self.ticks
    }

    /// The moment with this time stamp counter.
    pub fn from_ticks(ticks: u64) -> Instant {
        Instant { ticks }
    }

    /// The moment this many nanoseconds later.
    pub fn after_ns(self, nanoseconds: u64) -> Instant {
        let ticks = u128::from(nanoseconds) * u128::from(start::info().tsc_hz) / NS_PER_SECOND;
        Instant::from_ticks(self.ticks + ticks as u64)
    }

    /// Nanoseconds from then to now.
    pub fn elapsed_ns(self) -> u64 {
        self.ns_until(Instant::now())
    }

    /// Nanoseconds from then to `later`; 0 if that is not later.
    pub fn ns_until(self, later: Instant) -> u64 {
        let ticks = u128::from(later.ticks.saturating_sub(self.ticks));
        (ticks * NS_PER_SECOND / u128::from(start::info().tsc_hz.max(1))) as u64
    }
}

/// Lets others run for this many nanoseconds, or somewhat longer.
pub fn sleep(nanoseconds: u64) {
    // The clock has no errors; an early return is the worst that can happen.
    let _ = syscall::sleep(nanoseconds);
}
