//! A trace on its way: from before the guest's first instruction to the file.
//!
//! While the machine runs, a thread empties the rings of both sides every few milliseconds into
//! memory; at the end all of it is put together and written. The file is opened first of all: a
//! mistake in its path should cost no time.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use iolite_devices::trace;
use vm_memory::GuestMemoryMmap;

use super::clock::{Offset, Start};
use super::model::{About, Trace};
use super::raw::Recording;
use super::ring::Reader;
use super::{about, assemble, chrome};
use crate::error::Error;

/// How often the rings are emptied. They hold what a guest or a thread does in some ten times that.
const INTERVAL: Duration = Duration::from_millis(2);
/// How many events are kept: 160 MB of them.
const MAX_EVENTS: usize = 4_000_000;

/// A file that a trace will be written to.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
}

impl Output {
    /// Creates the file at `path`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file =
            File::create(path).map_err(Error::host(format!("cannot write {}", path.display())))?;
        Ok(Output {
            file,
            path: path.to_owned(),
        })
    }

    fn write(self, trace: &Trace) -> Result<(), Error> {
        let out = BufWriter::with_capacity(1 << 20, self.file);
        let cannot = Error::host(format!("cannot write {}", self.path.display()));
        chrome::write(out, trace).map_err(cannot)
    }
}

/// A trace that is being recorded.
pub struct Session {
    output: Output,
    start: Start,
    offset: Offset,
    /// Dropped to end the collector.
    going: Sender<()>,
    collector: JoinHandle<Collected>,
}

#[derive(Default)]
struct Collected {
    recording: Recording,
    reader: Reader,
    not_kept: u64,
}

impl Session {
    /// Begins to record what the guest with this memory and the device's threads do. `offset` is
    /// that of the vCPU's clock.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        output: Output,
        memory: Arc<GuestMemoryMmap>,
        offset: Offset,
    ) -> Result<Self, Error> {
        let (going, gone) = mpsc::channel();
        let start = Start::now();
        trace::start();
        let collector = thread::Builder::new()
            .name("trace".into())
            .spawn(move || {
                let mut collected = Collected::default();
                while gone.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    collected.collect(&memory);
                }
                collected.collect(&memory);
                collected
            })
            .map_err(Error::host("cannot start a thread"))?;
        Ok(Session {
            output,
            start,
            offset,
            going,
            collector,
        })
    }

    /// Ends the recording, after the machine's end, and writes the trace.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(self) -> Result<(), Error> {
        let scale = self.start.scale();
        trace::stop();
        drop(self.going);
        // It does not panic; if it did, what it had is gone.
        let mut collected = self.collector.join().unwrap_or_default();
        let recording = &mut collected.recording;
        if self.offset.ticks.is_none() {
            recording.guest.clear();
        }
        let offset = self.offset.ticks.unwrap_or(0);
        recording.threads = trace::threads();
        recording.disks = trace::disks();
        let mut trace = assemble::assemble(recording, &scale, offset);
        trace.about = About {
            iolite_trace: chrome::VERSION,
            command: about::command(),
            host: about::host(),
            disks: recording.disks.clone(),
            duration_ns: scale.duration_ns(),
            guest_events: recording.guest.len() as u64,
            host_events: recording.host.len() as u64,
            guest_lost: collected.reader.lost,
            host_lost: trace::lost(),
            not_kept: collected.not_kept,
            tsc_offset: offset,
            clock: self.offset.found,
        };
        self.output.write(&trace)
    }
}

impl Collected {
    fn collect(&mut self, memory: &GuestMemoryMmap) {
        let Recording { guest, host, .. } = &mut self.recording;
        let not_kept = &mut self.not_kept;
        self.reader.drain(memory, |event| {
            if guest.len() + host.len() < MAX_EVENTS {
                guest.push(event);
            } else {
                *not_kept += 1;
            }
        });
        trace::drain(|thread, event| {
            if guest.len() + host.len() < MAX_EVENTS {
                host.push((thread as u16, event));
            } else {
                *not_kept += 1;
            }
        });
    }
}
