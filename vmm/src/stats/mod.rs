//! What a machine's disks and its vCPU did: `iolite run --stats`, `--stats-json` and
//! `--stats-interval`.
//!
//! Counts come from the disks themselves and from KVM. Times come from the device's events
//! (`iolite_devices::trace`), which are off unless somebody watches (`watch`): they are taken while the
//! machine runs (`times`), and once in an interval a line says how it goes (`live`).

mod by_number;
mod json;
mod live;
mod table;
mod times;

use std::io::{self, Write};
use std::iter;
use std::time::{Duration, Instant};

use iolite_devices::trace::{self, EventLog};
use iolite_devices::virtio::blk::Counters;

use crate::error::Error;
use crate::kvm_stats::{Reading, VcpuStats};
use crate::logging;
use crate::output_file::OutputFile;
use crate::trace::clock::Start;
use crate::vm::Disk;
use live::Live;
use times::{QueueTimes, Times};

/// What the user wants to know.
#[derive(Debug, Default)]
pub struct Options {
    /// A table on stderr at the end.
    pub table: bool,
    /// The same as JSON in this file.
    pub json: Option<OutputFile>,
    /// A line on stderr this often.
    pub interval: Option<Duration>,
}

impl Options {
    /// Is anything wanted at all?
    pub fn are_wanted(&self) -> bool {
        self.table || self.json.is_some() || self.interval.is_some()
    }
}

/// What is to be shown in the end.
struct Report<'a> {
    /// From the start of the machine to its end.
    seconds: f64,
    disks: Vec<Measured>,
    times: &'a Times,
    /// Nanoseconds in a tick.
    tick_ns: f64,
    /// What KVM counted for the vCPU.
    vcpu: Reading,
    /// Events that came too fast to be collected: times are of the others.
    lost: u64,
}

/// What was measured of a disk, or of one of its queues.
struct Measured {
    /// `vdb`, or `vdb.0`, as its thread is called.
    name: String,
    counters: Counters,
    /// None without a request.
    times: Option<QueueTimes>,
    /// The queues of a disk that has several.
    queues: Vec<Measured>,
}

impl Report<'_> {
    /// Requests of all disks.
    fn requests(&self) -> u64 {
        let disks = self.disks.iter();
        disks.map(|disk| requests(&disk.counters)).sum()
    }

    /// The disks, each followed by its queues if it has several.
    fn rows(&self) -> impl Iterator<Item = &Measured> {
        let disks = self.disks.iter();
        disks.flat_map(|disk| iter::once(disk).chain(&disk.queues))
    }
}

fn measured(disk: &Disk, times: &Times) -> Measured {
    let number = trace::disks().iter().position(|name| *name == disk.name);
    let number = number.and_then(|number| u8::try_from(number).ok());
    let queues = (0..).zip(disk.device.queue_counters());
    let mut queues: Vec<Measured> = queues
        .map(|(queue, counters): (u8, _)| Measured {
            name: format!("{}.{queue}", disk.name),
            counters,
            times: number.and_then(|number| times.of_queue(number, queue)),
            queues: Vec::new(),
        })
        .collect();
    if queues.len() == 1 {
        queues.clear();
    }
    Measured {
        name: disk.name.clone(),
        counters: disk.device.counters(),
        times: number.and_then(|number| times.of_disk(number)),
        queues,
    }
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
    live: Option<Live>,
    times: Times,
}

impl Session {
    /// From now on. `vcpu` is where KVM counts, if it does.
    pub fn new(options: Options, vcpu: Option<VcpuStats>) -> Session {
        Session {
            started: Instant::now(),
            clock: Start::now(),
            vcpu,
            live: options.interval.map(Live::every),
            times: Times::default(),
            options,
        }
    }

    /// Takes times from events that were collected beginning at `began`, in ticks.
    pub fn take(&mut self, events: &EventLog, began: u64) {
        self.times.take(events, began);
        if let Some(live) = &mut self.live {
            live.show(&mut self.times, || self.clock.scale().tick_ns());
        }
    }

    /// Shows what came of it, after the machine's end.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(self, disks: &[Disk]) -> Result<(), Error> {
        let seconds = self.started.elapsed().as_secs_f64();
        // Ends the line on the terminal.
        drop(self.live);
        let vcpu = self.vcpu.and_then(|stats| stats.read().ok());
        let report = Report {
            seconds,
            disks: disks.iter().map(|d| measured(d, &self.times)).collect(),
            times: &self.times,
            tick_ns: self.clock.scale().tick_ns(),
            vcpu: vcpu.unwrap_or_default(),
            lost: trace::lost(),
        };
        if self.options.table {
            logging::flush();
            // If nobody reads it, nothing is lost.
            let _ = io::stderr().write_all(table::render(&report).as_bytes());
        }
        match self.options.json {
            Some(output) => output.write(|out| json::write(out, &report)),
            None => Ok(()),
        }
    }
}
