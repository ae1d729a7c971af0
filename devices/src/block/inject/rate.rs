//! How much may be done in a second, and a token bucket that keeps to it.

use std::fmt;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// A rate with a burst: after a rest, so much may be done at once. What is counted, requests or
/// bytes, is the user's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: NonZeroU64,
    burst: NonZeroU64,
}

impl Rate {
    /// `per_second`, of which `burst` may come at once: what a tenth of a second brings, if not
    /// given.
    pub fn new(per_second: NonZeroU64, burst: Option<NonZeroU64>) -> Self {
        let tenth = NonZeroU64::new(per_second.get() / 10).unwrap_or(NonZeroU64::MIN);
        Rate {
            per_second,
            burst: burst.unwrap_or(tenth),
        }
    }

    /// In how much time the rate allows `amount`.
    fn time_of(&self, amount: u64) -> Duration {
        let nanoseconds = u128::from(amount) * 1_000_000_000;
        let nanoseconds = nanoseconds.div_ceil(self.per_second.get().into());
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a second, {} at once", self.per_second, self.burst)
    }
}

/// A token bucket. It holds the burst when it is full, and fills at the rate. Something may begin
/// while there is a token, however many it takes: what it takes too much is a debt that is paid
/// before the next may begin. So what is larger than the burst is possible, and the rate holds.
pub(super) struct Bucket {
    rate: Rate,
    /// When the bucket will be full, if nothing is taken: the generic cell rate algorithm's way to
    /// keep tokens.
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Bucket { rate, full_at: now }
    }

    /// When there is a token, if there is none yet.
    pub(super) fn empty_until(&self, now: Instant) -> Option<Instant> {
        let all_but_one = self.rate.time_of(self.rate.burst.get() - 1);
        let until = self.full_at.checked_sub(all_but_one)?;
        (until > now).then_some(until)
    }

    /// Takes tokens.
    pub(super) fn take(&mut self, amount: u64, now: Instant) {
        let from = self.full_at.max(now);
        // Beyond the clock's range is never; then it stays as it is.
        self.full_at = from.checked_add(self.rate.time_of(amount)).unwrap_or(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rate(per_second: u64, burst: u64) -> Rate {
        let number = |number| NonZeroU64::new(number).unwrap();
        Rate::new(number(per_second), NonZeroU64::new(burst))
    }

    /// How many of `amount` each begin within `time` if there is always another one.
    fn begun(rate: Rate, amount: u64, time: Duration) -> u64 {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut bucket = Bucket::new(rate, start);
        let (mut now, mut count) = (start, 0);
        while now < start + time {
            match bucket.empty_until(now) {
                Some(until) => now = until,
                None => {
                    bucket.take(amount, now);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn the_burst_comes_at_once_and_then_the_rate() {
        assert_eq!(begun(rate(1000, 50), 1, MS / 2), 50);
        assert_eq!(begun(rate(1000, 50), 1, 1000 * MS), 50 + 999);
        assert_eq!(begun(rate(1000, 1), 1, 1000 * MS), 1000);
        assert_eq!(begun(rate(1, 1), 1, 10_000 * MS), 10);
        assert_eq!(begun(rate(3, 1), 1, 10_000 * MS), 30);
    }

    #[test]
    fn what_is_larger_than_the_burst_is_paid_afterwards() {
        // 4096 bytes a ms, of which 512 are the burst.
        let one_a_ms = begun(rate(4_096_000, 512), 4096, 100 * MS);
        assert!((100..=101).contains(&one_a_ms), "{one_a_ms}");
        let one_in_100_ms = begun(rate(4_096_000, 4096), 409_600, 1000 * MS);
        assert!((10..=11).contains(&one_in_100_ms), "{one_in_100_ms}");
    }

    #[test]
    fn the_burst_is_a_tenth_of_a_second_if_not_given() {
        let ten = NonZeroU64::new(10).unwrap();
        assert_eq!(Rate::new(ten, None), rate(10, 1));
        assert_eq!(Rate::new(NonZeroU64::MIN, None), rate(1, 1));
        let thousand = NonZeroU64::new(1000).unwrap();
        assert_eq!(Rate::new(thousand, None), rate(1000, 100));
        assert_eq!(rate(1000, 100).to_string(), "1000 a second, 100 at once");
    }

    #[test]
    fn a_rest_fills_the_bucket_no_further_than_full() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut bucket = Bucket::new(rate(1000, 2), start);
        let later = start + 60_000 * MS;
        for _ in 0..2 {
            assert_eq!(bucket.empty_until(later), None);
            bucket.take(1, later);
        }
        assert_eq!(bucket.empty_until(later), Some(later + MS));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let now = Instant::now();
        let mut slow = Bucket::new(rate(1, u64::MAX), now);
        slow.take(u64::MAX, now);
        slow.take(u64::MAX, now);
        let _ = slow.empty_until(now);
        let mut fast = Bucket::new(rate(u64::MAX, 1), now);
        fast.take(1, now);
        assert_eq!(fast.empty_until(now + MS), None);
    }
}
