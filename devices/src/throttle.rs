//! Log lines that a guest can cause: a few a second, whatever the guest does.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many lines a second pass.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// Lets a few lines pass in each second, and counts the rest.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<Option<Window>>);

struct Window {
    start: Instant,
    passed: u32,
    dropped: u64,
}

impl Throttle {
    /// Whether a line may be written now, and how many were not since the last one that was.
    pub(crate) fn pass(&self) -> Option<u64> {
        let now = Instant::now();
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = window.get_or_insert(Window {
            start: now,
            passed: 0,
            dropped: 0,
        });
        if now.duration_since(window.start) >= WINDOW {
            window.start = now;
            window.passed = 0;
        }
        if window.passed == LINES {
            window.dropped += 1;
            return None;
        }
        window.passed += 1;
        Some(std::mem::take(&mut window.dropped))
    }

    /// Writes `line` at the level of a warning, if it may be written. It comes from `module`, the
    /// caller's `module_path!()`.
    pub(crate) fn warn(&self, module: &str, line: std::fmt::Arguments<'_>) {
        match self.pass() {
            Some(0) => log::warn!(target: module, "{line}"),
            Some(dropped) => {
                log::warn!(target: module, "{line} ({dropped} lines like this were left out)");
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_passes_as_a_few_lines() {
        let throttle = Throttle::default();
        let passed = (0..10_000).filter(|_| throttle.pass().is_some()).count();
        // The storm may straddle one border between two windows.
        assert!(
            (LINES as usize..=2 * LINES as usize).contains(&passed),
            "{passed}"
        );
    }

    #[test]
    fn what_was_left_out_is_counted() {
        let throttle = Throttle::default();
        for _ in 0..LINES {
            assert_eq!(throttle.pass(), Some(0));
        }
        assert_eq!(throttle.pass(), None);
        assert_eq!(throttle.pass(), None);
        std::thread::sleep(WINDOW);
        assert_eq!(throttle.pass(), Some(2));
    }
}
