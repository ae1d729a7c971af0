//! What a machine's disks and its vCPU did: `iolite run --stats`, `--stats-json` and
//! `--stats-interval`.
//!
//! Counts come from the disks themselves and from KVM. Times come from the device's events
//! (`iolite_devices::trace`), which are off unless somebody asks: a thread collects them while the
//! machine runs (`times`), and says once in an interval how it goes (`live`).

mod json;
mod live;
mod table;
mod times;

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use iolite_devices::trace;
use iolite_devices::virtio::blk::Counters;

use crate::error::Error;
use crate::kvm_stats::{Reading, VcpuStats};
use crate::trace::clock::Start;
use crate::vm::Disk;
use live::Live;
use times::Times;

/// How often events are collected: their rings hold what a busy thread does in some five times that.
const INTERVAL: Duration = Duration::from_millis(2);

/// What the user wants to know.
#[derive(Debug, Default)]
pub struct Options {
    /// A table on stderr at the end.
    pub table: bool,
    /// The same as JSON in this file.
    pub json: Option<(File, PathBuf)>,
    /// A line on stderr this often.
    pub interval: Option<Duration>,
}

impl Options {
    /// Creates the file at `json`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(
        table: bool,
        json: Option<PathBuf>,
        interval: Option<Duration>,
    ) -> Result<Options, Error> {
        let json = json.map(|path| {
            let cannot = Error::host(format!("cannot write {}", path.display()));
            File::create(&path).map_err(cannot).map(|file| (file, path))
        });
        Ok(Options {
            table,
            json: json.transpose()?,
            interval,
        })
    }

    /// Is anything wanted at all?
    pub fn are_wanted(&self) -> bool {
        self.table || self.json.is_some() || self.interval.is_some()
    }
}

/// What is to be shown in the end.
struct Report<'a> {
    /// From the start of the machine to its end.
    seconds: f64,
    /// Name and counters of each disk.
    disks: Vec<(&'a str, Counters)>,
    /// The same for each queue of a disk that has several: `vdb/0`.
    queues: Vec<(String, Counters)>,
    times: &'a Times,
    /// Nanoseconds in a tick.
    tick_ns: f64,
    /// What KVM counted for the vCPU.
    vcpu: Reading,
    /// Events that came too fast to be collected: times are of the others.
    lost: u64,
}

impl Report<'_> {
    /// Requests of all disks.
    fn requests(&self) -> u64 {
        self.disks
            .iter()
            .map(|(_, counters)| requests(counters))
            .sum()
    }
}

fn queues(disk: &Disk) -> Vec<(String, Counters)> {
    let counters = disk.device.queue_counters().enumerate();
    let queues: Vec<_> = counters
        .map(|(number, counters)| (format!("{}/{number}", disk.name), counters))
        .collect();
    if queues.len() > 1 { queues } else { Vec::new() }
}

/// Requests of every type.
fn requests(counters: &Counters) -> u64 {
    counters.reads
        + counters.writes
        + counters.flushes
        + counters.discards
        + counters.write_zeroes
        + counters.others
}

/// Statistics that are being taken.
pub struct Session {
    options: Options,
    started: Instant,
    clock: Start,
    vcpu: Option<VcpuStats>,
    /// Dropped to end the collector.
    going: Sender<()>,
    collector: JoinHandle<Times>,
}

impl Session {
    /// Begins. `vcpu` is where KVM counts, if it does.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(options: Options, vcpu: Option<VcpuStats>) -> Result<Session, Error> {
        let clock = Start::now();
        trace::start();
        let (going, gone) = mpsc::channel();
        let mut live = options.interval.map(Live::every);
        let collector = thread::Builder::new()
            .name("stats".into())
            .spawn(move || {
                let mut times = Times::default();
                while gone.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    times.collect();
                    if let Some(live) = &mut live {
                        live.show(&mut times, || clock.scale().tick_ns());
                    }
                }
                times.collect_rest();
                times
            })
            .map_err(Error::host("cannot start a thread"))?;
        Ok(Session {
            options,
            started: Instant::now(),
            clock,
            vcpu,
            going,
            collector,
        })
    }

    /// Ends, after the machine's end, and shows what came of it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(self, disks: &[Disk]) -> Result<(), Error> {
        let seconds = self.started.elapsed().as_secs_f64();
        trace::stop();
        drop(self.going);
        // It does not panic; if it did, what it had is gone.
        let times = self.collector.join().unwrap_or_default();
        let vcpu = self.vcpu.and_then(|stats| stats.read().ok());
        let report = Report {
            seconds,
            disks: disks
                .iter()
                .map(|disk| (disk.name.as_str(), disk.device.counters()))
                .collect(),
            queues: disks.iter().flat_map(queues).collect(),
            times: &times,
            tick_ns: self.clock.scale().tick_ns(),
            vcpu: vcpu.unwrap_or_default(),
            lost: trace::lost(),
        };
        if self.options.table {
            // If nobody reads it, nothing is lost.
            let _ = io::stderr().write_all(table::render(&report).as_bytes());
        }
        match self.options.json {
            Some((file, path)) => json::write(file, &report)
                .map_err(Error::host(format!("cannot write {}", path.display()))),
            None => Ok(()),
        }
    }
}
