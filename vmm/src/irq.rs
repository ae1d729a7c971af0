//! Interrupt lines: eventfds that raise an input of the in-kernel PIC and IOAPIC (irqfds).
//!
//! KVM's default routing is what we want: line n is input n of the IOAPIC, and of the PIC below 16.

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::kvm::KvmError;

/// An eventfd each write to which is an edge on `line`.
///
/// # Errors
/// [`KvmError::Call`].
pub fn line(vm: &VmFd, line: u32) -> Result<EventFd, KvmError> {
    const WHAT: &str = "connect an interrupt line";
    let irqfd = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
        .map_err(|source| KvmError::Call { what: WHAT, source })?;
    vm.register_irqfd(&irqfd, line)
        .map_err(KvmError::call(WHAT))?;
    Ok(irqfd)
}
