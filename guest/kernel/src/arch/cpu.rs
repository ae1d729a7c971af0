//! Single instructions that have no name in Rust.

#![allow(unsafe_code)]

use core::arch::asm;
use core::arch::x86_64::__cpuid;

const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// Turns interrupts on, sleeps until one has been handled, and turns them off again (`trap.s`).
pub fn wait_for_interrupt() {
    unsafe extern "C" {
        fn wait_for_interrupt();
    }
    // SAFETY: the caller holds no borrow of kernel state, and a handler that comes here keeps the
    // registers that a call keeps.
    unsafe { wait_for_interrupt() };
}

/// The time stamp counter.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: reading the counter has no side effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// How the hypervisor calls itself, where there is one.
pub fn hypervisor() -> [u32; 3] {
    let leaf = __cpuid(HYPERVISOR_LEAF);
    [leaf.ebx, leaf.ecx, leaf.edx]
}

/// The address that the last page fault was about.
#[inline(always)]
pub fn page_fault_address() -> u64 {
    let address: u64;
    // SAFETY: reading cr2 has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Makes the page tables under `root` (a physical address) the current ones, and forgets every
/// translation of the user half.
///
/// # Safety
/// The tables map the kernel as every address space does.
#[inline(always)]
pub unsafe fn set_page_tables(root: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Forgets the translation of the page at `address` in the current address space.
#[inline(always)]
pub fn forget_page(address: u64) {
    // SAFETY: forgetting a translation only costs a walk.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Forgets every translation of the user half.
pub fn forget_user_pages() {
    // SAFETY: the same tables again.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) };
}

/// The index of the first of `words` that is not zero. One repeated instruction, whose repetitions
/// are cheap even where ring 0 is emulated.
pub fn first_not_zero(words: &[u64]) -> Option<usize> {
    let (left, found): (usize, u8);
    // SAFETY: reads words from the first on, up to all of them. (`cmp` makes the answer for none.)
    unsafe {
        asm!("cmp eax, eax", "repe scasq", "setne {}", out(reg_byte) found, in("rax") 0u64,
            inout("rdi") words.as_ptr() => _, inout("rcx") words.len() => left,
            options(nostack, readonly));
    }
    (found != 0).then(|| words.len() - left - 1)
}

/// Writes `bytes` to an I/O port with one instruction, and so with one VM exit.
pub fn write_port_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: reads exactly `bytes`; the ports this kernel knows have no effect on memory.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _, options(nostack, readonly, preserves_flags));
    }
}

/// Writes one byte to an I/O port.
pub fn write_port(port: u16, byte: u8) {
    // SAFETY: the ports this kernel knows have no effect on memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nostack, preserves_flags)) };
}

/// Reads one byte from an I/O port.
pub fn read_port(port: u16) -> u8 {
    let byte;
    // SAFETY: the ports this kernel knows have no effect on memory.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") byte, options(nostack, preserves_flags));
    }
    byte
}

/// A model-specific register.
pub fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the registers this kernel reads exist wherever it gets this far.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The value must be one that leaves memory safety as it is.
#[inline(always)]
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Where physical addresses end.
pub fn physical_end() -> u64 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    const DEFAULT_BITS: u32 = 36;
    let bits = match __cpuid(0x8000_0000).eax >= ADDRESS_SIZES {
        true => __cpuid(ADDRESS_SIZES).eax & 0xff,
        false => DEFAULT_BITS,
    };
    1 << bits.clamp(DEFAULT_BITS, 52)
}
