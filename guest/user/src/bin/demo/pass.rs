//! One reading of the whole disk, from its first byte to its last: what is hashed and measured.

use alloc::boxed::Box;
use iolite_user::core_logic::histogram::Histogram;
use iolite_user::core_logic::report::{Overlap, PathKind, PathReport, Progress};
use iolite_user::{Device, DiskStats, Errno, File, Instant, Result, Sha256, Stat, kind, println};

/// Disks up to this size are read in blocks of a page, larger ones in larger blocks: the first
/// shows the cost of an operation, the second does not take all day.
const SMALL_DISK_BYTES: u64 = 16 << 20;
const SMALL_BLOCK_BYTES: usize = 4 << 10;
const LARGE_BLOCK_BYTES: usize = 128 << 10;
const PROGRESS_NS: u64 = 250_000_000;

/// A disk that somebody reads, as the kernel sees it.
pub trait Measured {
    /// What it is.
    fn stat(&self) -> Result<Stat>;
    /// What the kernel has counted.
    fn counts(&self) -> Result<DiskStats>;
    /// Starts the counts anew.
    fn reset(&self) -> Result<()>;
}

impl Measured for File {
    fn stat(&self) -> Result<Stat> {
        File::stat(self)
    }

    fn counts(&self) -> Result<DiskStats> {
        self.disk_stats()
    }

    fn reset(&self) -> Result<()> {
        self.reset_stats()
    }
}

impl Measured for Device {
    fn stat(&self) -> Result<Stat> {
        Device::stat(self)
    }

    fn counts(&self) -> Result<DiskStats> {
        self.disk_stats()
    }

    fn reset(&self) -> Result<()> {
        self.reset_stats()
    }
}

/// A reading on its way.
pub struct Pass<'d> {
    path: &'static PathKind,
    disk: &'d dyn Measured,
    /// Size of the disk in bytes.
    pub size: u64,
    hash: Sha256,
    /// Bytes hashed so far.
    pub hashed: u64,
    latencies: Box<Histogram>,
    started: Instant,
    progress: Instant,
}

impl<'d> Pass<'d> {
    /// Starts the clock, and the disk's counts anew.
    ///
    /// # Errors
    ///
    /// `ENODEV` if it is no disk.
    pub fn start(path: &'static PathKind, disk: &'d dyn Measured) -> Result<Pass<'d>> {
        let stat = disk.stat()?;
        if stat.kind != kind::DISK {
            return Err(Errno::ENODEV);
        }
        disk.reset()?;
        let started = Instant::now();
        Ok(Pass {
            path,
            disk,
            size: stat.size,
            hash: Sha256::new(),
            hashed: 0,
            latencies: Box::default(),
            started,
            progress: started,
        })
    }

    /// Starts the clock, and the disk's counts, once more: what came before was preparation.
    ///
    /// # Errors
    ///
    /// As [`Pass::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.disk.reset()?;
        self.started = Instant::now();
        self.progress = self.started;
        Ok(())
    }

    /// In blocks of which size a process reads this disk.
    pub fn block_bytes(&self) -> usize {
        match self.size {
            ..=SMALL_DISK_BYTES => SMALL_BLOCK_BYTES,
            _ => LARGE_BLOCK_BYTES,
        }
    }

    /// Counts the latency of one operation that began at `asked` and has ended now.
    pub fn ended(&mut self, asked: Instant) {
        self.latencies.record(asked.elapsed_ns());
    }

    /// Hashes the next bytes, and says how far it has come a few times a second.
    pub fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.hashed += bytes.len() as u64;
        if self.progress.elapsed_ns() >= PROGRESS_NS {
            self.progress = Instant::now();
            let (path, bytes, of) = (self.path.name, self.hashed, self.size);
            println!("{}", Progress { path, bytes, of });
        }
    }

    /// The result: operations are the requests that the kernel has given the disk.
    pub fn report(self) -> Result<PathReport<'static>> {
        let stats = self.disk.counts()?;
        Ok(self.report_of(&stats))
    }

    /// The result, with what somebody else has counted.
    pub fn report_of(self, stats: &DiskStats) -> PathReport<'static> {
        let ns = self.started.elapsed_ns();
        PathReport {
            kind: self.path,
            operations: stats.reads,
            bytes: self.hashed,
            sha256: self.hash.finish().0,
            ns,
            p50_ns: self.latencies.percentile(50),
            p99_ns: self.latencies.percentile(99),
            max_ns: self.latencies.max(),
            max_in_flight: stats.max_in_flight,
            cpu_overlap: Overlap::of_ticks(stats.in_flight_ticks, stats.work_ticks),
        }
    }
}
