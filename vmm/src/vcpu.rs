//! The one virtual processor: its state at the kernel's first instruction, and its thread.
//!
//! Protocol: [`Vcpu::new`] creates and sets it up; [`Vcpu::start`] runs it on a thread of its own
//! until the machine's power is off or it cannot go on. [`RunningVcpu::join`] ends that thread
//! wherever it is, in guest code, in KVM or in a device.

#![allow(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::error::Error;
use crate::exits::{Buses, Exits};
use crate::kvm::KvmError;
use crate::kvm_stats::VcpuStats;
use crate::loader::Boot;
use crate::power::{Power, Stop};
use crate::{panics, registers, trace};

/// How long to wait for the vCPU thread before kicking it again.
const KICK_AGAIN: Duration = Duration::from_millis(2);

/// A virtual processor that does not run yet.
pub struct Vcpu {
    fd: VcpuFd,
}

impl Vcpu {
    /// Creates the processor in the state that the kernel's boot protocol asks for.
    ///
    /// # Errors
    /// [`KvmError::Call`], or a boot structure outside memory.
    pub fn new(kvm: &Kvm, vm: &VmFd, memory: &GuestMemoryMmap, boot: Boot) -> Result<Self, Error> {
        let fd = vm.create_vcpu(0).map_err(KvmError::call("create a vCPU"))?;
        registers::set_up(kvm, &fd, memory, boot)?;
        Ok(Vcpu { fd })
    }

    /// What KVM counts for it.
    ///
    /// # Errors
    /// If KVM does not count.
    pub fn stats(&self) -> io::Result<VcpuStats> {
        VcpuStats::open(&self.fd)
    }

    /// How far the guest's clock is ahead of the host's.
    pub fn clock_offset(&self) -> trace::clock::Offset {
        trace::offset(&self.fd)
    }

    /// Runs the processor on a thread of its own. When it ends, `power` knows why.
    ///
    /// # Errors
    /// If the system refuses a thread or the signal handler.
    pub fn start(
        mut self,
        buses: Buses,
        memory: Arc<GuestMemoryMmap>,
        power: Arc<Power>,
    ) -> Result<RunningVcpu, Error> {
        // The handler has nothing to do: a signal that has one makes KVM_RUN and write(2) return.
        register_signal_handler(SIGRTMIN(), ignore)
            .map_err(|e| Error::host("cannot handle the signal that stops the vCPU")(e))?;
        let immediate_exit = ImmediateExit(&raw mut self.fd.get_kvm_run().immediate_exit);
        let thread = thread::Builder::new()
            .name("vcpu".into())
            .spawn(move || {
                let mut exits = Exits::new(buses, memory, power.clone());
                let run = catch_unwind(AssertUnwindSafe(|| exits.run(&mut self.fd)));
                match run {
                    Ok(Ok(())) => {}
                    Ok(Err(crash)) => power.stop(Stop::Crash(crash)),
                    Err(_) => panics::happened(),
                }
                // Handed back rather than dropped: `immediate_exit` points into it.
                self
            })
            .map_err(Error::host("cannot start the vCPU thread"))?;
        Ok(RunningVcpu {
            thread: Some(thread),
            immediate_exit,
        })
    }
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// `kvm_run.immediate_exit`: while it is not zero, KVM_RUN returns at once. With the signal after
/// it there is no moment in which a kick is lost: before KVM_RUN the flag is seen, inside it the
/// signal is.
struct ImmediateExit(*mut u8);

// SAFETY: the byte is only accessed atomically, by `set`; KVM reads it.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    fn set(&self) {
        // SAFETY: the byte lies in the kvm_run mapping of the vCPU, which lives until
        // `RunningVcpu::join` takes it back from its thread and drops it; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(self.0) }.store(1, Ordering::SeqCst);
    }
}

/// A processor that runs.
pub struct RunningVcpu {
    thread: Option<JoinHandle<Vcpu>>,
    immediate_exit: ImmediateExit,
}

impl RunningVcpu {
    /// Ends the processor's thread. The machine's power has to be off, or it would be a crash.
    pub fn join(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.immediate_exit.set();
        // Again and again, because a signal that comes before a blocking write to the console
        // does not end that write.
        while !thread.is_finished() {
            if thread.kill(SIGRTMIN()).is_err() {
                break;
            }
            thread::sleep(KICK_AGAIN);
        }
        // The thread catches its panics: there is always a vCPU to take back.
        if let Ok(vcpu) = thread.join()
            && let Ok(registers) = vcpu.fd.get_regs()
        {
            log::debug!("stopped at rip {:#x}", registers.rip);
        }
        self.immediate_exit.0 = ptr::null_mut();
    }
}

impl Drop for RunningVcpu {
    fn drop(&mut self) {
        self.end();
    }
}
