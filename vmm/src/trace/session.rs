//! A trace on its way: from before the guest's first instruction to the file.
//!
//! While the machine runs, what is in the rings of both sides is taken into memory every few
//! milliseconds (`watch`); at the end all of it is put together and written.

use std::sync::Arc;

use iolite_devices::trace::{self, EventLog};
use vm_memory::GuestMemoryMmap;

use super::clock::{Offset, Start};
use super::model::{About, LEFT_OUT};
use super::raw::{GuestEvent, Recording};
use super::ring::Reader;
use super::{about, assemble, chrome};
use crate::error::Error;
use crate::output_file::OutputFile;

/// How many bytes of events are kept. A busy disk has 56 for each request.
const MAX_BYTES: usize = 64 << 20;

/// A trace that is being recorded.
pub struct Session {
    output: OutputFile,
    machine: String,
    start: Start,
    offset: Offset,
    memory: Arc<GuestMemoryMmap>,
    reader: Reader,
    recording: Recording,
    /// Nothing is kept any more.
    full: bool,
    not_kept: u64,
}

impl Session {
    /// For what the guest with this memory and the device's threads do from now on. `machine` says in a
    /// line what it is made of; `offset` is that of the vCPU's clock.
    pub fn new(
        output: OutputFile,
        machine: String,
        memory: Arc<GuestMemoryMmap>,
        offset: Offset,
    ) -> Self {
        let recording = Recording {
            host: EventLog::with_room(MAX_BYTES),
            ..Recording::default()
        };
        Session {
            output,
            machine,
            start: Start::now(),
            offset,
            memory,
            reader: Reader::default(),
            recording,
            full: false,
            not_kept: 0,
        }
    }

    /// Records what the device's threads did, and what is new in the guest's ring.
    pub fn take(&mut self, events: &EventLog) {
        let Recording { guest, host, .. } = &mut self.recording;
        let bytes = |guest: &Vec<GuestEvent>| size_of_val(&**guest);
        // Once something was left out, everything is: nobody would look for a gap in the middle.
        self.full |= bytes(guest) + host.bytes() + events.bytes() > MAX_BYTES;
        match self.full {
            false => host.append(events),
            true => self.not_kept += events.iter().count() as u64,
        }
        self.reader.drain(&self.memory, |event| {
            self.full |= bytes(guest) + host.bytes() > MAX_BYTES;
            match self.full {
                false => guest.push(event),
                true => self.not_kept += 1,
            }
        });
    }

    /// Writes the trace, after the machine's end.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        let scale = self.start.scale();
        let recording = &mut self.recording;
        if self.offset.ticks.is_none() {
            recording.guest.clear();
        }
        let offset = self.offset.ticks.unwrap_or(0);
        recording.host.shrink();
        recording.threads = trace::threads();
        recording.disks = trace::disks();
        let mut trace = assemble::assemble(recording, &scale, offset);
        if trace.about.left_out > 0 {
            log::warn!("trace: {} events {LEFT_OUT}", trace.about.left_out);
        }
        trace.about = About {
            iolite_trace: chrome::VERSION,
            command: about::command(),
            host: about::host(),
            machine: self.machine,
            disks: recording.disks.clone(),
            duration_ns: scale.duration_ns(),
            guest_events: recording.guest.len() as u64,
            host_events: recording.host.places().count() as u64,
            guest_lost: self.reader.lost(),
            host_lost: trace::lost(),
            not_kept: self.not_kept,
            left_out: trace.about.left_out,
            disordered: trace.about.disordered,
            tsc_offset: offset,
            clock: self.offset.found,
        };
        // The events are not needed any more.
        self.recording = Recording::default();
        self.output.write(|out| chrome::write(out, &trace))
    }
}
