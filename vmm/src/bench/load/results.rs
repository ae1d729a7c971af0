//! All samples, and what is made of them: medians over the rounds, and ratios.

use super::matrix::Shape;
use super::subject::{Sample, Subject};

/// The samples of every subject and cell.
pub struct Results {
    subjects: Vec<Subject>,
    cells: Vec<Shape>,
    /// By cell, then subject, then round.
    samples: Vec<Vec<Vec<Sample>>>,
}

/// One subject in one cell: medians over the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Requests in a second, and the smallest and largest of the rounds.
    pub iops: f64,
    /// The slowest round.
    pub iops_min: f64,
    /// The fastest round.
    pub iops_max: f64,
    /// Bytes in a second.
    pub bytes_per_second: f64,
    /// Latency in microseconds: median, and what 99 % and 99.9 % of the requests do not exceed.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// The slowest request of all rounds.
    pub max_us: f64,
    /// Available buffer notifications for each request.
    pub notifications: f64,
    /// Interrupts for each request.
    pub interrupts: f64,
    /// Processor time of the other side in microseconds for each request.
    pub cpu_us: f64,
    /// Requests measured in all rounds.
    pub requests: u64,
    /// Requests whose content was looked at, in all rounds.
    pub verified: u64,
    /// Requests of the disk beside it that completed meanwhile, in all rounds.
    pub neighbour: u64,
    /// IOPS of the first subject divided by this one's: the median of the rounds' ratios.
    pub ratio: f64,
}

impl Results {
    /// No samples yet.
    pub fn new(subjects: Vec<Subject>, cells: Vec<Shape>) -> Results {
        let samples = vec![vec![Vec::new(); subjects.len()]; cells.len()];
        Results {
            subjects,
            cells,
            samples,
        }
    }

    /// What is compared.
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// What is measured of each.
    pub fn cells(&self) -> &[Shape] {
        &self.cells
    }

    /// Adds what a round has brought for subject number `subject` in cell number `cell`.
    pub fn add(&mut self, subject: usize, cell: usize, sample: Sample) {
        self.samples[cell][subject].push(sample);
    }

    /// What came of subject number `subject` in cell number `cell`.
    pub fn summary(&self, subject: usize, cell: usize) -> Summary {
        let samples = &self.samples[cell][subject];
        let ours = &self.samples[cell][0];
        let block_bytes = self.cells[cell].cell().block_bytes as f64;
        let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
        let rates = || samples.iter().map(iops);
        Summary {
            iops: median(rates()),
            iops_min: rates().fold(f64::INFINITY, f64::min),
            iops_max: rates().fold(0.0, f64::max),
            bytes_per_second: median(rates()) * block_bytes,
            p50_us: of(|s| s.measured.p50_ns as f64 / 1e3),
            p99_us: of(|s| s.measured.p99_ns as f64 / 1e3),
            p999_us: of(|s| s.measured.p999_ns as f64 / 1e3),
            max_us: samples
                .iter()
                .fold(0.0, |max, s| f64::max(max, s.measured.max_ns as f64 / 1e3)),
            notifications: of(|s| each(s.measured.notifications, s)),
            interrupts: of(|s| each(s.measured.interrupts, s)),
            cpu_us: of(|s| each(s.cpu_ns, s) / 1e3),
            requests: samples.iter().map(|s| s.measured.requests).sum(),
            verified: samples.iter().map(|s| s.measured.verified).sum(),
            neighbour: samples.iter().map(|s| s.measured.neighbour).sum(),
            ratio: median(ours.iter().zip(samples).map(|(a, b)| iops(a) / iops(b))),
        }
    }
}

fn iops(sample: &Sample) -> f64 {
    sample.measured.requests as f64 / (sample.measured.ns.max(1) as f64 / 1e9)
}

/// So many for each request of the cell.
fn each(count: u64, sample: &Sample) -> f64 {
    count as f64 / sample.measured.all.max(1) as f64
}

/// The middle one; of an even number, the mean of the two in the middle. 0 of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::load::Matrix;
    use iolite_guest_core::bench::Measured;

    /// Two subjects, the usual cells, three rounds; the second subject is half as fast.
    pub fn results() -> Results {
        let subjects = vec![Subject::Iolite(String::new()), Subject::Qemu("threads")];
        let cells = Matrix::default().cells();
        let mut results = Results::new(subjects, cells.clone());
        for round in [3, 1, 2] {
            for (subject, speed) in [(0, 2), (1, 1)] {
                for cell in 0..cells.len() {
                    let measured = Measured {
                        requests: 1000 * round * speed,
                        ns: 500_000_000,
                        p50_ns: 1500 * round,
                        p99_ns: 2500,
                        p999_ns: 3500,
                        max_ns: 1_000_000 * round,
                        all: 1000,
                        notifications: 10,
                        interrupts: 20,
                        verified: 7,
                        neighbour: 5,
                    };
                    let cpu_ns = 1_234_000;
                    results.add(subject, cell, Sample { measured, cpu_ns });
                }
            }
        }
        results
    }

    #[test]
    fn medians_and_ratios() {
        let results = results();
        let ours = results.summary(0, 6);
        assert_eq!(
            (ours.iops, ours.iops_min, ours.iops_max),
            (8000.0, 4000.0, 12000.0)
        );
        assert_eq!(ours.bytes_per_second, 8000.0 * 65536.0);
        assert_eq!((ours.p50_us, ours.p99_us, ours.max_us), (3.0, 2.5, 3000.0));
        assert_eq!(
            (ours.notifications, ours.interrupts, ours.cpu_us),
            (0.01, 0.02, 1.234)
        );
        assert_eq!((ours.requests, ours.verified, ours.ratio), (12000, 21, 1.0));
        assert_eq!(ours.neighbour, 15);
        assert_eq!(results.summary(1, 0).ratio, 2.0);
        assert_eq!(median([].into_iter()), 0.0);
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
    }
}
