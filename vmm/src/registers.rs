//! The vCPU's state at the kernel's first instruction, as its boot protocol asks for it.
//!
//! CPUID is what KVM offers. Of the MSRs those that KVM refuses are left alone: a platform that
//! emulates little of them is still good for a guest that uses little of them.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs,
};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::{Address, Bytes, GuestMemoryMmap};

use crate::error::Error;
use crate::kvm::KvmError;
use crate::loader::{Boot, LoaderError, Protocol};
use crate::memory::{BOOT_STACK, GDT, IDT, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set; interrupts are off.
const RFLAGS: u64 = 2;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, write-back.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Offsets of the local vector table's LINT0 and LINT1 in the local APIC's registers.
const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const APIC_MODE_NMI: u32 = 0x400;
const APIC_MODE_EXTINT: u32 = 0x700;

/// Sets up `vcpu` to enter `boot`.
///
/// # Errors
/// [`KvmError::Call`] if KVM refuses something that no guest can do without.
pub fn set_up(kvm: &Kvm, vcpu: &VcpuFd, memory: &GuestMemoryMmap, boot: Boot) -> Result<(), Error> {
    vcpu.set_cpuid2(&cpuid(kvm)?)
        .map_err(KvmError::call("set CPUID"))?;
    set_msrs(vcpu);
    set_local_interrupts(vcpu)?;
    // What every kernel that uses the FPU sets first.
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).map_err(KvmError::call("set the FPU"))?;
    vcpu.set_regs(&registers(boot))
        .map_err(KvmError::call("set the registers"))?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(KvmError::call("get the system registers"))?;
    set_system_registers(&mut sregs, boot.protocol);
    write_gdt(memory, boot.protocol).map_err(LoaderError::Memory)?;
    vcpu.set_sregs(&sregs)
        .map_err(KvmError::call("set the system registers"))?;
    Ok(())
}

/// The CPUID that KVM offers, for the only processor of its package.
fn cpuid(kvm: &Kvm) -> Result<CpuId, KvmError> {
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("tell the supported CPUID"))?;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // Initial APIC id 0, one logical processor; the rest (CLFLUSH size) stays.
                entry.ebx = entry.ebx & 0x0000_ffff | 1 << 16;
                // There is a hypervisor: its leaves at 0x4000_0000 are to be read.
                entry.ecx |= 1 << 31;
            }
            // The x2APIC id of the topology leaves.
            0xb | 0x1f => entry.edx = 0,
            _ => {}
        }
    }
    Ok(cpuid)
}

/// Sets what makes ordinary kernels faster, one by one: each may be unknown to KVM.
fn set_msrs(vcpu: &VcpuFd) {
    let wanted = [
        (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ];
    for (index, data) in wanted {
        let entry = kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let set = Msrs::from_entries(&[entry]).is_ok_and(|msrs| vcpu.set_msrs(&msrs) == Ok(1));
        if !set {
            log::debug!("KVM does not take MSR {index:#x}; the guest does without");
        }
    }
}

/// LINT0 takes the PIC's interrupts, LINT1 is NMI: the state in which firmware leaves them.
fn set_local_interrupts(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut lapic = vcpu
        .get_lapic()
        .map_err(KvmError::call("get the local APIC"))?;
    set_delivery_mode(&mut lapic, APIC_LVT0, APIC_MODE_EXTINT);
    set_delivery_mode(&mut lapic, APIC_LVT1, APIC_MODE_NMI);
    vcpu.set_lapic(&lapic)
        .map_err(KvmError::call("set the local APIC"))
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    // The register is 32 bits; the delivery mode is in bits 8 to 10.
    let byte = &mut lapic.regs[register + 1];
    *byte = *byte & !7 | (mode >> 8) as libc::c_char;
}

fn registers(boot: Boot) -> kvm_regs {
    let regs = kvm_regs {
        rip: boot.entry,
        rflags: RFLAGS,
        ..Default::default()
    };
    match boot.protocol {
        Protocol::Pvh => kvm_regs {
            rbx: PVH_START_INFO.raw_value(),
            ..regs
        },
        Protocol::Linux64 => kvm_regs {
            rsi: ZERO_PAGE.raw_value(),
            rsp: BOOT_STACK.raw_value(),
            rbp: BOOT_STACK.raw_value(),
            ..regs
        },
    }
}

/// The descriptor table: null, code at 0x08, data at 0x10, TSS at 0x18.
fn gdt(protocol: Protocol) -> [u64; 4] {
    // Base 0, limit 4 GiB, present; code is 64-bit (0xa) or 32-bit (0xc).
    let code = match protocol {
        Protocol::Pvh => 0x00cf_9b00_0000_ffff,
        Protocol::Linux64 => 0x00af_9b00_0000_ffff,
    };
    [0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067]
}

fn write_gdt(
    memory: &GuestMemoryMmap,
    protocol: Protocol,
) -> Result<(), vm_memory::GuestMemoryError> {
    for (index, descriptor) in (0..).zip(gdt(protocol)) {
        memory.write_obj(descriptor, GDT.unchecked_add(8 * index))?;
    }
    memory.write_obj(0u64, IDT)
}

fn set_system_registers(sregs: &mut kvm_sregs, protocol: Protocol) {
    let [_, code, data, tss] = gdt(protocol);
    let data = segment(data, 0x10);
    sregs.cs = segment(code, 0x08);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = segment(tss, 0x18);
    sregs.gdt.base = GDT.raw_value();
    sregs.gdt.limit = 8 * 4 - 1;
    sregs.idt.base = IDT.raw_value();
    sregs.idt.limit = 7;
    match protocol {
        Protocol::Pvh => {
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr4 = 0;
        }
        Protocol::Linux64 => {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = PAGE_TABLES.raw_value();
            sregs.cr4 = CR4_PAE;
            sregs.efer |= EFER_LME | EFER_LMA;
        }
    }
}

/// A segment register as if it had been loaded with `selector` from a table with `descriptor`.
fn segment(descriptor: u64, selector: u16) -> kvm_segment {
    let bit = |n: u32| (descriptor >> n & 1) as u8;
    let limit = descriptor as u32 & 0xffff | (descriptor >> 32) as u32 & 0xf_0000;
    let in_pages = bit(55) == 1;
    kvm_segment {
        base: 0,
        limit: if in_pages { limit << 12 | 0xfff } else { limit },
        selector,
        type_: (descriptor >> 40 & 0xf) as u8,
        s: bit(44),
        dpl: (descriptor >> 45 & 3) as u8,
        present: bit(47),
        avl: bit(52),
        l: bit(53),
        db: bit(54),
        g: bit(55),
        unusable: 0,
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_flat() {
        let [_, code32, data, tss] = gdt(Protocol::Pvh);
        let code = segment(code32, 8);
        assert_eq!(
            (code.limit, code.type_, code.l, code.db),
            (0xffff_ffff, 0xb, 0, 1)
        );
        let code64 = segment(gdt(Protocol::Linux64)[1], 8);
        assert_eq!(
            (code64.l, code64.db, code64.s, code64.present),
            (1, 0, 1, 1)
        );
        let data = segment(data, 0x10);
        assert_eq!((data.limit, data.type_, data.s), (0xffff_ffff, 3, 1));
        let tss = segment(tss, 0x18);
        assert_eq!((tss.limit, tss.type_, tss.s, tss.g), (0x67, 0xb, 0, 0));
    }
}
