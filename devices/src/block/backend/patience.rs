//! Trying what is quick as a rule, and less often when it was not.
//!
//! What took long and slept in between had to wait: the next tries are left out, twice as many each
//! time it happens again. What took long without a sleep was only preempted, and would have been
//! elsewhere as well. To count sleeps takes as long as a copy does, so they are counted only for a
//! while after a try that took long: the first of several slow ones goes unpunished.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{thread, ticks};

/// For how many tries sleeps are counted after one that took long.
const ALERT: u32 = 256;
const FIRST_PENALTY: u32 = 8;
const LAST_PENALTY: u32 = 4096;

/// What the past says about a try. Several threads may try: the counts need not be exact.
pub(super) struct Patience {
    /// What takes more ticks took long.
    quick: u64,
    /// For how many tries sleeps are still counted.
    alert: AtomicU32,
    /// How many tries are to be left out.
    left_out: AtomicU32,
    /// How many were left out after the last slow one, less the quick ones since.
    penalty: AtomicU32,
}

impl Patience {
    pub(super) fn new(quick: Duration) -> Self {
        Patience {
            quick: ticks::roughly(quick),
            alert: AtomicU32::new(0),
            left_out: AtomicU32::new(0),
            penalty: AtomicU32::new(0),
        }
    }

    /// The result of `action`, or false if it is left out.
    pub(super) fn try_with(&self, action: impl FnOnce() -> bool) -> bool {
        let left_out = self.left_out.load(Ordering::Relaxed);
        if left_out > 0 {
            self.left_out.store(left_out - 1, Ordering::Relaxed);
            return false;
        }
        let alert = self.alert.load(Ordering::Relaxed);
        let sleeps = (alert > 0).then(thread::sleeps);
        let start = ticks::now();
        let done = action();
        let end = if done { ticks::end() } else { ticks::now() };
        let long = end.saturating_sub(start) > self.quick;
        let slept = sleeps.map(|before| thread::sleeps() != before);
        self.learn(long, slept);
        done
    }

    /// A try took `long`, and `slept` if sleeps were counted.
    fn learn(&self, long: bool, slept: Option<bool>) {
        let alert = self.alert.load(Ordering::Relaxed);
        if long || alert > 0 {
            let alert = if long { ALERT } else { alert - 1 };
            self.alert.store(alert, Ordering::Relaxed);
        }
        let penalty = self.penalty.load(Ordering::Relaxed);
        if long && slept == Some(true) {
            let penalty = (2 * penalty).clamp(FIRST_PENALTY, LAST_PENALTY);
            self.left_out.store(penalty, Ordering::Relaxed);
            self.penalty.store(penalty, Ordering::Relaxed);
        } else if penalty > 0 {
            // So many quick ones as were left out, and the slow one is forgotten.
            self.penalty.store(penalty - 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn tries(patience: &Patience, count: u32) -> usize {
        (0..count).filter(|_| patience.try_with(|| true)).count()
    }

    #[test]
    fn slow_ones_are_tried_less_often() {
        // No try of a test takes as long.
        let patience = Patience::new(Duration::from_secs(60));
        assert_eq!(tries(&patience, 100), 100);
        patience.learn(true, Some(true));
        assert_eq!(tries(&patience, 9), 1, "eight are left out");
        patience.learn(true, Some(true));
        patience.learn(true, Some(true));
        assert_eq!(tries(&patience, 1000), 1000 - 28);
        for _ in 0..100 {
            patience.learn(true, Some(true));
        }
        assert_eq!(tries(&patience, 4097), 1);
        assert_eq!(tries(&patience, 5000), 5000);
        patience.learn(true, Some(true));
        assert_eq!(tries(&patience, 9), 1, "the slow ones before are forgotten");
    }

    #[test]
    fn who_sleeps_is_told_from_who_works_for_long() {
        let patience = Patience::new(Duration::from_micros(100));
        let works = || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(1) {}
            true
        };
        let sleeps = || {
            std::thread::sleep(Duration::from_millis(1));
            true
        };
        for _ in 0..20 {
            assert!(patience.try_with(works));
        }
        assert!(patience.try_with(sleeps), "counted since it took long");
        assert!(!patience.try_with(sleeps), "left out");
    }

    #[test]
    fn sleeps_are_counted_only_for_a_while() {
        let patience = Patience::new(Duration::from_micros(100));
        let sleeps = || {
            std::thread::sleep(Duration::from_millis(2));
            true
        };
        assert!(patience.try_with(sleeps), "the first one raises the alarm");
        let counted = || patience.alert.load(Ordering::Relaxed);
        assert_eq!(counted(), ALERT);
        for _ in 0..2 * ALERT {
            patience.learn(false, None);
        }
        assert_eq!(counted(), 0);
        assert!(patience.try_with(sleeps) && patience.try_with(sleeps));
        assert!(!patience.try_with(sleeps));
    }
}
