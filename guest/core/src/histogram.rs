//! A log-linear histogram of latencies: constant memory, a relative error below 1/64, no floating
//! point. It is the scheme of HdrHistogram: each power of two is split into 64 equal steps,
//! and values below 128 are counted exactly.

/// Steps in each power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.ilog2();
/// One row of steps for the exact values below [`STEPS`], one for each power of two from there on.
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS as usize;

/// Counts of values, by magnitude. 15 KiB: rather a static or a box than a local of a deep stack.
pub struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
    max: u64,
}

impl Histogram {
    /// An empty histogram.
    pub const fn new() -> Histogram {
        Histogram {
            counts: [0; BUCKETS],
            total: 0,
            max: 0,
        }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let count = &mut self.counts[bucket_of(value)];
        *count = count.saturating_add(1);
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest value counted, exactly; 0 if there was none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The smallest recorded magnitude that at least `percent` per cent of the values do not
    /// exceed: the upper end of its step, never more than [`Histogram::max`]. 0 if nothing was
    /// counted.
    pub fn percentile(&self, percent: u64) -> u64 {
        self.per_mille(percent * 10)
    }

    /// As [`Histogram::percentile`], in thousandths.
    pub fn per_mille(&self, thousandths: u64) -> u64 {
        let wanted = (self.total * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                return highest_in(bucket).min(self.max);
            }
        }
        self.max
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

/// The bucket that counts `value`.
fn bucket_of(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let row = value.ilog2() - STEP_BITS;
    let step = (value >> row) - STEPS;
    ((u64::from(row) + 1) * STEPS + step) as usize
}

/// The largest value that `bucket` counts.
fn highest_in(bucket: usize) -> u64 {
    let (row, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if row == 0 {
        return step;
    }
    let width = 1u64 << (row - 1);
    (STEPS + step) * width + (width - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_without_gaps() {
        for bucket in 0..BUCKETS {
            let highest = highest_in(bucket);
            assert_eq!(bucket_of(highest), bucket);
            if highest < u64::MAX {
                assert_eq!(bucket_of(highest + 1), bucket + 1);
            }
        }
        assert_eq!(highest_in(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn an_empty_one_is_all_zero() {
        let histogram = Histogram::new();
        assert_eq!(
            (histogram.count(), histogram.max(), histogram.percentile(50)),
            (0, 0, 0)
        );
    }

    #[test]
    fn percentiles_of_one_value_are_that_value() {
        let mut histogram = Histogram::new();
        histogram.record(123_457);
        for percent in [0, 1, 50, 99, 100] {
            assert_eq!(histogram.percentile(percent), 123_457);
        }
    }

    #[test]
    fn percentiles_are_within_a_step_of_the_exact_ones() {
        let mut histogram = Histogram::new();
        (1..=100_000).for_each(|value| histogram.record(value * 10));
        for percent in [1, 10, 50, 90, 99] {
            let exact = percent * 10_000;
            let found = histogram.percentile(percent);
            assert!(
                found >= exact && found <= exact + exact / STEPS,
                "{percent}: {found}"
            );
        }
        assert_eq!(histogram.percentile(100), 1_000_000);
        assert_eq!(histogram.max(), 1_000_000);
        assert_eq!(histogram.count(), 100_000);
    }

    #[test]
    fn a_thousandth_can_be_asked_for() {
        let mut histogram = Histogram::new();
        (0..998).for_each(|_| histogram.record(10));
        (0..2).for_each(|_| histogram.record(50));
        assert_eq!(
            (histogram.per_mille(998), histogram.per_mille(999)),
            (10, 50)
        );
    }

    #[test]
    fn the_tail_shows_in_p99_only_if_it_is_one_per_cent() {
        let mut histogram = Histogram::new();
        (0..99).for_each(|_| histogram.record(10));
        histogram.record(1_000_000);
        assert_eq!(histogram.percentile(99), 10);
        histogram.record(1_000_000);
        assert_eq!(histogram.percentile(99), 1_000_000);
    }
}
