//! The address map.
//!
//! ```text
//! 0x0000_0000_0001_0000 .. 0x0000_7fff_ffff_f000   a process (guest/abi)
//! 0xffff_8000_0000_0000 ..                         all RAM, never executable
//! 0xffff_c000_0000_0000 ..                         kernel stacks, a guard page below each
//! 0xffff_d000_0000_0000 ..                         device registers
//! 0xffff_d040_0000_0000 ..                         events for the VMM's trace
//! 0xffff_ffff_8010_0000 ..                         the kernel's image, at physical 1 MiB
//! ```

/// Size in bytes of a page and of a frame.
pub const PAGE: u64 = 4096;
/// log2 of [`PAGE`].
pub const PAGE_SHIFT: u32 = 12;

/// Where physical address 0 is mapped, and all RAM after it.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where kernel stacks are mapped.
pub const KERNEL_STACKS: u64 = 0xffff_c000_0000_0000;
/// Distance from one kernel stack to the next: the guard page and [`KERNEL_STACK_BYTES`].
pub const KERNEL_STACK_STRIDE: u64 = KERNEL_STACK_BYTES + PAGE;
/// Size in bytes of a kernel stack.
pub const KERNEL_STACK_BYTES: u64 = 4 * PAGE;
/// Where device registers are mapped.
pub const DEVICE_REGISTERS: u64 = 0xffff_d000_0000_0000;
/// Where the window for trace events is mapped, among the device registers.
pub const TRACE_WINDOW: u64 = DEVICE_REGISTERS + (256 << 30);
/// What the linker script adds to the physical addresses of the kernel's image.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// The first frame that is handed out: below lie the boot loader's structures.
pub const FIRST_FREE: u64 = 0x10_0000;

/// The physical address of a part of the kernel's image.
pub const fn kernel_to_physical(address: u64) -> u64 {
    address - KERNEL_BASE
}

/// Where a physical address of RAM is mapped.
#[inline(always)]
pub const fn direct(physical: u64) -> u64 {
    physical + DIRECT_MAP
}
