//! For how long the queue's thread looks for the next request before it sleeps.
//!
//! Waking a thread takes longer than serving a request from the page cache, so a thread that is
//! needed again at once does better not to sleep. Polling pays only if the next request comes soon,
//! which the past tells. Each time it paid is a credit. A sleep that was so short that polling would
//! have been quicker makes the window longer; one that was long costs credits, and when there are
//! none left it makes the window shorter: a driver that is held up now and then is still worth
//! polling for, one that comes seldom is not.

use std::time::{Duration, Instant};

/// How many looks there are between two at the clock.
const LOOKS: u32 = 16;
/// What a sleep takes besides the time until there is a request, on a busy host.
const WAKE_UP: Duration = Duration::from_micros(100);
/// What a long sleep costs.
const COST: u32 = 16;
/// The most credits.
const MOST: u32 = 8 * COST;

/// The window, and where in it the thread is.
pub(super) struct Polling {
    longest: Duration,
    window: Duration,
    credits: u32,
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
            credits: 0,
            looks: 0,
            idle_since: None,
        }
    }

    /// There was something to do.
    pub(super) fn busy(&mut self) {
        if self.looks > 0 {
            self.credits = (self.credits + 1).min(MOST);
        }
        self.start();
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
        self.start();
        let least = self.longest / 8;
        if time <= self.longest + WAKE_UP {
            self.window = (2 * self.window).clamp(least, self.longest);
        } else if self.credits >= COST {
            self.credits -= COST;
        } else if self.window > least {
            self.window /= 2;
        } else {
            self.window = Duration::ZERO;
        }
    }

    fn start(&mut self) {
        self.looks = 0;
        self.idle_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(80);
    const MS: Duration = Duration::from_millis(1);

    fn windows_after_sleeps(polling: &mut Polling, time: Duration) -> [u128; 5] {
        [(); 5].map(|()| {
            polling.slept(time);
            polling.window.as_micros()
        })
    }

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
        let polling = &mut polling;
        assert_eq!(windows_after_sleeps(polling, MS), [40, 20, 10, 0, 0]);
        let short = LONGEST / 2;
        assert_eq!(windows_after_sleeps(polling, short), [10, 20, 40, 80, 80]);
    }

    #[test]
    fn polling_that_pays_outlasts_some_long_sleeps() {
        let mut polling = Polling::new(LONGEST);
        for _ in 0..3 * COST {
            polling.goes_on();
            polling.busy();
        }
        let windows = windows_after_sleeps(&mut polling, MS);
        assert_eq!(windows, [80, 80, 80, 40, 20]);
    }

    #[test]
    fn requests_in_a_row_are_no_credit() {
        let mut polling = Polling::new(LONGEST);
        for _ in 0..3 * COST {
            polling.busy();
        }
        assert_eq!(windows_after_sleeps(&mut polling, MS)[0], 40);
    }
}
