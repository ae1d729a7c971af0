//! For how long the queue's thread looks for the next request before it sleeps.
//!
//! Waking a thread takes longer than serving a request from the page cache, so a thread that is
//! needed again at once does better not to sleep. Polling pays only if the next request comes soon,
//! which the past tells: the window grows when a sleep was shorter than the longest window (polling
//! would have been quicker), and shrinks when it was longer (polling would have been for nothing).

use std::time::{Duration, Instant};

/// How many looks there are between two at the clock.
const LOOKS: u32 = 16;

/// The window, and where in it the thread is.
pub(super) struct Polling {
    longest: Duration,
    window: Duration,
    /// How often there was nothing since there was something.
    looks: u32,
    idle_since: Option<Instant>,
}

impl Polling {
    /// Windows of at most `longest`; zero is none.
    pub(super) fn new(longest: Duration) -> Self {
        Polling {
            longest,
            window: longest,
            looks: 0,
            idle_since: None,
        }
    }

    /// There was something to do.
    pub(super) fn busy(&mut self) {
        self.looks = 0;
        self.idle_since = None;
    }

    /// There was nothing to do; whether to look again.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.window.is_zero() {
            return false;
        }
        self.looks = self.looks.wrapping_add(1);
        if !self.looks.is_multiple_of(LOOKS) {
            return true;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        since.elapsed() < self.window
    }

    /// The thread has slept for `time`.
    pub(super) fn slept(&mut self, time: Duration) {
        self.busy();
        self.window = if time <= self.longest {
            (2 * self.window).clamp(self.longest / 8, self.longest)
        } else if self.window > self.longest / 8 {
            self.window / 2
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(80);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn without_a_window_nobody_looks_twice() {
        let mut polling = Polling::new(Duration::ZERO);
        assert!(!polling.goes_on());
        polling.slept(Duration::ZERO);
        assert!(!polling.goes_on());
    }

    #[test]
    fn looking_ends_with_the_window() {
        let mut polling = Polling::new(5 * MS);
        for _ in 0..2 {
            let start = Instant::now();
            while polling.goes_on() {}
            assert!(start.elapsed() >= 5 * MS, "{:?}", start.elapsed());
            polling.busy();
        }
    }

    #[test]
    fn the_window_follows_the_sleeps() {
        let mut polling = Polling::new(LONGEST);
        let windows: Vec<_> = (0..5)
            .map(|_| {
                polling.slept(MS);
                polling.window.as_micros()
            })
            .collect();
        assert_eq!(windows, [40, 20, 10, 0, 0]);
        let windows: Vec<_> = (0..5)
            .map(|_| {
                polling.slept(LONGEST / 2);
                polling.window.as_micros()
            })
            .collect();
        assert_eq!(windows, [10, 20, 40, 80, 80]);
    }
}
