//! Who runs the guest's instructions: KVM, or QEMU where there is no KVM.

use std::sync::Arc;

use clap::ValueEnum;
use iolite_devices::serial::Serial;
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::GuestMemoryMmap;

use crate::console::Keyboard;
use crate::error::Error;
use crate::exits::Buses;
use crate::kvm;
use crate::kvm_stats::VcpuStats;
use crate::power::Power;
use crate::qemu;
use crate::trace::clock::Offset;
use crate::vcpu::{RunningVcpu, Vcpu};

/// What lends the processor, as a user chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// /dev/kvm
    Kvm,
    /// QEMU's TCG, where there is no KVM: slower, and its figures say little
    Qemu,
}

/// A virtual machine of KVM's over `memory`; none where QEMU is to lend the processor: because the user
/// says so, or because they say nothing, KVM cannot be used and QEMU is there.
///
/// # Errors
/// If KVM is needed and cannot be used: why, and what else could be done.
pub fn kvm(accel: Option<Accel>, memory: &GuestMemoryMmap) -> Result<Option<(Kvm, VmFd)>, Error> {
    if accel == Some(Accel::Qemu) {
        return match qemu::is_installed() {
            true => Ok(None),
            false => Err(Error::NoQemu),
        };
    }
    let vm = kvm::open().and_then(|kvm| {
        let vm = kvm::create_vm(&kvm, memory)?;
        Ok((kvm, vm))
    });
    match (vm, accel) {
        (Ok(vm), _) => Ok(Some(vm)),
        (Err(error), accel) if accel.is_some() || !error.is_absence() => Err(error.into()),
        (Err(error), _) if qemu::is_installed() => {
            log::warn!("{error}; QEMU lends the processor instead (--accel qemu), and is slower");
            Ok(None)
        }
        (Err(error), _) => Err(Error::NoProcessor(error)),
    }
}

/// A processor that does not run yet, with what it needs.
pub enum Processor {
    /// KVM's.
    Kvm(Box<Native>),
    /// QEMU's.
    Qemu(Box<qemu::Lent>),
}

/// A machine of KVM's. What is declared first is dropped first.
pub struct Native {
    /// The processor.
    pub vcpu: Vcpu,
    /// The virtual machine.
    pub vm: VmFd,
    /// What it reaches.
    pub buses: Buses,
    /// COM1.
    pub serial: Arc<Serial>,
}

/// A processor that runs.
pub enum Running {
    /// KVM's.
    Kvm(RunningVcpu, VmFd),
    /// QEMU's.
    Qemu(qemu::Running),
}

impl Processor {
    /// What KVM counts, if it does.
    pub fn stats(&self) -> Option<VcpuStats> {
        match self {
            Processor::Kvm(native) => native.vcpu.stats().ok(),
            Processor::Qemu(_) => None,
        }
    }

    /// How far the guest's clock is ahead of the host's.
    pub fn clock_offset(&self) -> Offset {
        match self {
            Processor::Kvm(native) => native.vcpu.clock_offset(),
            Processor::Qemu(_) => Offset::of_qemu(),
        }
    }

    /// Where what is typed goes.
    pub fn keyboard(&self) -> Arc<dyn Keyboard> {
        match self {
            Processor::Kvm(native) => native.serial.clone(),
            Processor::Qemu(lent) => Arc::new(lent.typed.share()),
        }
    }

    /// Runs it. When it ends, `power` knows why.
    ///
    /// # Errors
    /// If the system refuses a thread or a process.
    pub fn start(self, memory: Arc<GuestMemoryMmap>, power: Arc<Power>) -> Result<Running, Error> {
        match self {
            Processor::Kvm(native) => {
                let Native {
                    vcpu, vm, buses, ..
                } = *native;
                Ok(Running::Kvm(vcpu.start(buses, memory, power)?, vm))
            }
            Processor::Qemu(lent) => Ok(Running::Qemu(lent.start(power)?)),
        }
    }
}

impl Running {
    /// Ends it. The machine's power has to be off, or it would be a crash.
    pub fn end(self) {
        match self {
            Running::Kvm(vcpu, vm) => {
                vcpu.join();
                drop(vm);
            }
            Running::Qemu(running) => running.end(),
        }
    }
}
