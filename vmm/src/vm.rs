//! A machine that is built and can run.

use std::sync::Arc;
use std::time::Duration;

use iolite_devices::virtio::blk::BlockDevice;
use vm_memory::GuestMemoryMmap;

use crate::console::Input;
use crate::error::Error;
use crate::events;
use crate::kvm_stats::VcpuStats;
use crate::output_file::OutputFile;
use crate::power::{Power, Stop};
use crate::processor::Processor;
use crate::signals::Attention;
use crate::watch::{Watch, Watchers};
use crate::{shutdown, stats, trace, unflushed};

/// A disk of a machine.
pub struct Disk {
    /// Its name in the guest, `vda` and so on.
    pub name: String,
    /// The device. What ends it may outlive the machine, if the disk hangs.
    pub device: Arc<BlockDevice>,
    /// It may have to be flushed.
    pub writable: bool,
}

/// A machine, ready to run. What is declared first is dropped first: KVM lets go of guest memory
/// before the memory is unmapped.
pub struct Machine {
    pub(crate) processor: Processor,
    pub(crate) disks: Vec<Disk>,
    pub(crate) power: Arc<Power>,
    pub(crate) memory: Arc<GuestMemoryMmap>,
    /// What it is made of, in a line for people.
    pub(crate) parts: String,
    /// Where to write the trace of a machine that was built for one.
    pub trace: Option<OutputFile>,
    /// What is to be told of it, while it runs and in the end.
    pub stats: Option<stats::Options>,
}

impl Machine {
    /// What KVM counts for the vCPU, if it does.
    pub fn vcpu_stats(&self) -> Option<VcpuStats> {
        self.processor.stats()
    }

    /// Runs the machine until something stops it, then stops the vCPU, and drains and flushes
    /// every disk. With `interactive`, stdin is the guest's.
    ///
    /// # Errors
    /// If the host refuses something, or a disk could not be flushed.
    pub fn run(self, timeout: Option<Duration>, interactive: bool) -> Result<Stop, Error> {
        let input = interactive
            .then(|| Input::new(self.processor.keyboard()))
            .transpose();
        let input = input.unwrap_or_else(|error| {
            log::debug!("stdin is closed, the guest gets no input: {error}");
            None
        });
        let offset = || self.processor.clock_offset();
        let trace = self.trace;
        let trace = trace
            .map(|output| trace::Session::new(output, self.parts, self.memory.clone(), offset()));
        let counted = self.processor.stats();
        let stats = self
            .stats
            .map(|wanted| stats::Session::new(wanted, counted));
        let watch = Watch::start(Watchers { trace, stats })?;
        let signals = Attention::begin()?;
        unflushed::add_writable(&self.disks);
        let (memory, power) = (self.memory.clone(), self.power.clone());
        let running = self.processor.start(memory, power)?;
        let attended = events::attend(&self.power, &self.disks, &signals, timeout, input);
        // Whatever happened: nobody may wait for a processor that still runs.
        self.power.stop(Stop::Reset);
        // From here on a signal ends the process: for a user who does not want to wait for a slow disk,
        // or for whoever does not read what we write.
        drop(signals);
        running.end();
        let drained = shutdown::disks(&self.disks);
        let told = watch.finish(&self.disks);
        drop(self.disks);
        attended?;
        drained?;
        told?;
        Ok(self.power.take().unwrap_or(Stop::Reset))
    }
}
