//! Opening KVM and creating a virtual machine: interrupt controllers, timer, memory slots.

#![allow(unsafe_code)]

use std::io;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Where KVM on Intel processors may put three pages of its own for real mode, inside the hole.
const TSS_ADDRESS: usize = 0xfffb_d000;
/// And one page of an identity map, just below.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Why KVM is not usable.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No device node.
    #[error(
        "/dev/kvm is missing: load kvm_intel or kvm_amd and enable virtualisation in the \
         firmware, or in a virtual machine enable nested virtualisation"
    )]
    Missing,
    /// The device node may not be opened.
    #[error(
        "no permission to open /dev/kvm: join the group that owns it \
         (sudo usermod -aG kvm $USER, then log in again)"
    )]
    Permission,
    /// The device node cannot be opened for another reason.
    #[error("/dev/kvm cannot be opened: {0}")]
    Open(io::Error),
    /// Not the stable KVM interface.
    #[error("/dev/kvm speaks interface version {0}, not 12: use a kernel of Linux 2.6.22 or later")]
    Version(i32),
    /// A capability is missing.
    #[error("this KVM lacks {0}, which iolite needs: use a newer or fuller kernel")]
    Lacks(&'static str),
    /// A call failed.
    #[error("KVM refused to {what}: {source}")]
    Call {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl KvmError {
    /// Is there no KVM here to use, whoever asks and when? Otherwise the host refused something.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        match self {
            KvmError::Open(error) => {
                matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
            }
            KvmError::Call { .. } => false,
            KvmError::Missing
            | KvmError::Permission
            | KvmError::Version(_)
            | KvmError::Lacks(_) => true,
        }
    }

    /// For `map_err`: the call that does `what` failed.
    pub(crate) fn call(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
        move |errno| KvmError::Call {
            what,
            source: errno.into(),
        }
    }
}

/// Opens /dev/kvm and checks that it has all we need.
///
/// # Errors
/// [`KvmError`] that says what to do about it.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|errno| match errno.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        _ => KvmError::Open(errno.into()),
    })?;
    match kvm.get_api_version() {
        12 => {}
        other => return Err(KvmError::Version(other)),
    }
    let needed = [
        (
            Cap::Irqchip,
            "in-kernel interrupt controllers (KVM_CAP_IRQCHIP)",
        ),
        (Cap::Pit2, "an in-kernel timer (KVM_CAP_PIT2)"),
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (Linux 4.12)"),
    ];
    match needed
        .into_iter()
        .find(|(cap, _)| !kvm.check_extension(*cap))
    {
        Some((_, name)) => Err(KvmError::Lacks(name)),
        None => Ok(kvm),
    }
}

/// Creates a virtual machine over `memory`, with PIC, IOAPIC, local APIC and PIT.
///
/// # Errors
/// [`KvmError::Call`].
pub fn create_vm(kvm: &Kvm, memory: &GuestMemoryMmap) -> Result<VmFd, KvmError> {
    let vm = kvm
        .create_vm()
        .map_err(KvmError::call("create a virtual machine"))?;
    vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
        .map_err(KvmError::call("place the identity map"))?;
    vm.set_tss_address(TSS_ADDRESS)
        .map_err(KvmError::call("place the TSS"))?;
    // Before the interrupt controllers: mapping memory waits for readers of the address maps, and
    // once devices are in them that takes milliseconds.
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped at this address with this size, regions do not overlap, and
        // the machine that owns `vm` keeps `memory` as long (see `vm::Machine`).
        unsafe { vm.set_user_memory_region(region) }.map_err(KvmError::call("map memory"))?;
    }
    vm.create_irq_chip()
        .map_err(KvmError::call("create the interrupt controllers"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit)
        .map_err(KvmError::call("create the timer"))?;
    Ok(vm)
}
