//! What the vCPU leaves guest code for: accesses to the buses, and the ends nobody wanted.

#![allow(unsafe_code)]

use std::slice;
use std::sync::Arc;

use iolite_devices::bus::Bus;
use iolite_devices::trace::{self, Point, Queue, exit};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::crash::Crash;
use crate::power::Power;

/// The longest x86 instruction, in bytes.
const MAX_INSTRUCTION_BYTES: usize = 15;

/// The machine's address maps.
#[derive(Clone)]
pub struct Buses {
    /// I/O ports.
    pub ports: Arc<Bus>,
    /// Device memory.
    pub mmio: Arc<Bus>,
}

/// The loop of a vCPU thread.
pub struct Exits {
    buses: Buses,
    memory: Arc<GuestMemoryMmap>,
    power: Arc<Power>,
}

/// An exit, free of the borrow of the vCPU.
enum Exit {
    /// Port accesses: everything of a string instruction at once.
    In(u16, *mut u8, usize),
    Out(u16, *const u8, usize),
    /// Handled where it arose.
    Done,
    Shutdown,
    Internal,
    EntryFailed(u64),
    Unexpected(String),
}

impl Exits {
    /// A loop that serves `buses` until `power` is off.
    pub fn new(buses: Buses, memory: Arc<GuestMemoryMmap>, power: Arc<Power>) -> Self {
        Exits {
            buses,
            memory,
            power,
        }
    }

    /// Runs guest code until the power is off.
    ///
    /// # Errors
    /// [`Crash`] if the vCPU cannot go on.
    pub fn run(&mut self, vcpu: &mut VcpuFd) -> Result<(), Crash> {
        while !self.power.is_off() {
            match self.enter(vcpu)? {
                Exit::Done => {}
                Exit::In(port, data, len) => {
                    let size = access_bytes(vcpu);
                    // SAFETY: KVM's data of this exit lies in the kvm_run mapping that `vcpu`
                    // owns, nobody else looks at it, and KVM does so in the next KVM_RUN only.
                    let data = unsafe { slice::from_raw_parts_mut(data, len) };
                    self.port_in(port, data, size);
                }
                Exit::Out(port, data, len) => {
                    let size = access_bytes(vcpu);
                    // SAFETY: as above.
                    let data = unsafe { slice::from_raw_parts(data, len) };
                    self.port_out(port, data, size);
                }
                Exit::Shutdown => {
                    return Err(Crash::TripleFault(
                        vcpu.get_regs().ok().map(|regs| regs.rip),
                    ));
                }
                Exit::Internal => return Err(self.internal_error(vcpu)),
                Exit::EntryFailed(reason) => {
                    return Err(Crash::EntryFailed {
                        reason,
                        rip: rip(vcpu),
                    });
                }
                Exit::Unexpected(exit) => return Err(Crash::Unexpected(exit)),
            }
        }
        Ok(())
    }

    /// Runs guest code up to the next exit; memory accesses are handled right here.
    fn enter(&self, vcpu: &mut VcpuFd) -> Result<Exit, Crash> {
        let exit = match traced_run(vcpu) {
            Ok(exit) => exit,
            // A kick, or a signal that is not ours: the caller looks at the power.
            Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => {
                return Ok(Exit::Done);
            }
            Err(errno) => return Err(Crash::Host(format!("KVM_RUN failed: {errno}"))),
        };
        Ok(match exit {
            VcpuExit::IoIn(port, data) => Exit::In(port, data.as_mut_ptr(), data.len()),
            VcpuExit::IoOut(port, data) => Exit::Out(port, data.as_ptr(), data.len()),
            VcpuExit::MmioRead(address, data) => {
                if !self.buses.mmio.read(address, data) {
                    log::trace!("read of {} bytes at {address:#x}: nobody there", data.len());
                }
                Exit::Done
            }
            VcpuExit::MmioWrite(address, data) => {
                if !self.buses.mmio.write(address, data) {
                    log::trace!(
                        "write of {} bytes at {address:#x}: nobody there",
                        data.len()
                    );
                }
                Exit::Done
            }
            VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen => Exit::Done,
            VcpuExit::Shutdown => Exit::Shutdown,
            VcpuExit::InternalError => Exit::Internal,
            VcpuExit::FailEntry(reason, _) => Exit::EntryFailed(reason),
            other => Exit::Unexpected(format!("{other:?}")),
        })
    }

    /// Serves a port read: of a string instruction, every element from the same port.
    fn port_in(&self, port: u16, data: &mut [u8], size: usize) {
        for element in data.chunks_mut(size) {
            let there = self.buses.ports.read(port.into(), element);
            log::trace!("in {port:#x}: {element:02x?}{}", nobody(there));
        }
    }

    /// Serves a port write. Bytes go to the device all at once: `rep outsb` is how consoles print.
    fn port_out(&self, port: u16, data: &[u8], size: usize) {
        for element in data.chunks(if size == 1 { data.len().max(1) } else { size }) {
            let there = self.buses.ports.write(port.into(), element);
            log::trace!("out {port:#x}: {element:02x?}{}", nobody(there));
        }
    }

    fn internal_error(&self, vcpu: &mut VcpuFd) -> Crash {
        // SAFETY: after KVM_EXIT_INTERNAL_ERROR this variant of the union is the valid one; it is
        // plain data.
        let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
        let rip = rip(vcpu);
        Crash::Internal {
            suberror,
            rip,
            instruction: self.instruction_at(vcpu, rip),
        }
    }

    /// The bytes at a guest virtual address, as far as they can be read.
    fn instruction_at(&self, vcpu: &VcpuFd, rip: u64) -> Vec<u8> {
        let mut bytes = vec![0; MAX_INSTRUCTION_BYTES];
        let read = match vcpu.translate_gva(rip) {
            Ok(page) if page.valid != 0 => self
                .memory
                .read(&mut bytes, GuestAddress(page.physical_address))
                .unwrap_or(0),
            _ => 0,
        };
        bytes.truncate(read);
        bytes
    }
}

/// KVM_RUN, between two events for the watch.
fn traced_run(vcpu: &mut VcpuFd) -> Result<VcpuExit<'_>, kvm_ioctls::Error> {
    Queue::NONE.event(Point::Entered, 0, 0, 0);
    let exit = vcpu.run();
    if trace::is_on() {
        let (reason, address) = match &exit {
            Ok(VcpuExit::IoIn(port, _)) => (exit::PORT_IN, u64::from(*port)),
            Ok(VcpuExit::IoOut(port, _)) => (exit::PORT_OUT, u64::from(*port)),
            Ok(VcpuExit::MmioRead(address, _)) => (exit::MMIO_READ, *address),
            Ok(VcpuExit::MmioWrite(address, _)) => (exit::MMIO_WRITE, *address),
            Ok(VcpuExit::Intr) | Err(_) => (exit::SIGNAL, 0),
            Ok(_) => (exit::OTHER, 0),
        };
        Queue::NONE.event(Point::Exited, 0, reason, address);
    }
    exit
}

/// For the log: is an access one that no device answers?
fn nobody(there: bool) -> &'static str {
    if there { "" } else { " (nobody there)" }
}

/// The width in bytes of the port access that `vcpu` just left for.
fn access_bytes(vcpu: &mut VcpuFd) -> usize {
    // SAFETY: after KVM_EXIT_IO this variant of the union is the valid one; it is plain data.
    let size = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.io.size };
    usize::from(size).max(1)
}

fn rip(vcpu: &VcpuFd) -> u64 {
    vcpu.get_regs().map_or(0, |regs| regs.rip)
}
