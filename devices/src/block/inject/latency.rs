//! How long a request takes at least.

use std::fmt;
use std::time::Duration;

use super::random::draw;

/// A latency, fixed or from a range. A request takes at least so long from when it is started; one
/// that takes longer by itself is not delayed further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    least: Duration,
    most: Duration,
}

impl Latency {
    /// The longest possible latency.
    pub const MAX: Duration = Duration::from_secs(60);

    /// The same for every request; None for more than [`Latency::MAX`].
    pub fn fixed(latency: Duration) -> Option<Self> {
        Self::between(latency, latency)
    }

    /// Anything from `least` to `most`, both included, each as likely as any other. None if `most`
    /// is less than `least` or more than [`Latency::MAX`].
    pub fn between(least: Duration, most: Duration) -> Option<Self> {
        (least <= most && most <= Self::MAX).then_some(Latency { least, most })
    }

    /// Whether there is something to choose from.
    pub fn is_range(&self) -> bool {
        self.least < self.most
    }

    /// Whether it is nothing at all.
    pub fn is_zero(&self) -> bool {
        self.most.is_zero()
    }

    /// The latency of request number `id`.
    pub(super) fn of(&self, seed: u64, id: u64) -> Duration {
        // `MAX` fits: the difference in nanoseconds is far below 2^64.
        let choices = (self.most - self.least).as_nanos() as u64 + 1;
        self.least + Duration::from_nanos(draw(seed, 0, id) % choices)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_range() {
            true => write!(f, "{:?} to {:?}", self.least, self.most),
            false => write!(f, "{:?}", self.least),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_fixed_latency_is_fixed() {
        let latency = Latency::fixed(2 * MS).unwrap();
        assert!((0..100).all(|id| latency.of(7, id) == 2 * MS));
        assert!(!latency.is_range());
        assert_eq!(latency.to_string(), "2ms");
    }

    #[test]
    fn a_range_is_used_from_end_to_end() {
        let latency = Latency::between(MS, 3 * MS).unwrap();
        let all: Vec<_> = (0..10_000).map(|id| latency.of(7, id)).collect();
        assert!(all.iter().all(|one| (MS..=3 * MS).contains(one)));
        assert!(all.iter().min() < Some(&(MS + MS / 100)));
        assert!(all.iter().max() > Some(&(3 * MS - MS / 100)));
        let mean = all.iter().sum::<Duration>() / 10_000;
        assert!(
            (2 * MS - MS / 20..2 * MS + MS / 20).contains(&mean),
            "{mean:?}"
        );
        assert_eq!(latency.to_string(), "1ms to 3ms");
    }

    #[test]
    fn two_nanoseconds_are_a_range_of_two() {
        let [one, two] = [1, 2].map(Duration::from_nanos);
        let latency = Latency::between(one, two).unwrap();
        let all: Vec<_> = (0..100).map(|id| latency.of(7, id)).collect();
        assert!(all.contains(&one) && all.contains(&two));
    }

    #[test]
    fn impossible_latencies_are_refused() {
        assert_eq!(Latency::between(3 * MS, MS), None);
        assert_eq!(Latency::fixed(Latency::MAX + MS), None);
        assert!(Latency::fixed(Latency::MAX).is_some());
    }
}
