//! The device's registers: 32 bits each, behind a trait so that a test can stand in for a device.

#![allow(unsafe_code)]

use crate::order;
use core::ptr::NonNull;

/// A virtio-mmio register window (virtio 1.2, section 4.2.2).
pub trait Registers {
    /// Reads the register at `offset`.
    fn read(&self, offset: u64) -> u32;
    /// Writes the register at `offset`.
    fn write(&self, offset: u64, value: u32);

    /// Does a locked instruction order what was written to the memory that the device shares before
    /// what is read from it afterwards? It does on every processor, but see `order`. To be asked
    /// once.
    fn locked_instructions_order(&self) -> bool {
        order::locked_instructions_order()
    }
}

/// A register window that is mapped into memory.
pub struct MmioRegisters(NonNull<u8>);

// SAFETY: the window is the device's, not a thread's; accesses are single volatile instructions.
unsafe impl Send for MmioRegisters {}

impl MmioRegisters {
    /// The window mapped at `base`.
    ///
    /// # Safety
    /// A virtio-mmio window of at least 0x200 bytes is mapped there, uncached, as long as the value
    /// lives, and nobody else drives the device.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        MmioRegisters(base)
    }
}

impl Registers for MmioRegisters {
    #[inline(always)]
    fn read(&self, offset: u64) -> u32 {
        // SAFETY: registers lie within the window that `new` was promised.
        unsafe {
            self.0
                .as_ptr()
                .add(offset as usize)
                .cast::<u32>()
                .read_volatile()
        }
    }

    #[inline(always)]
    fn write(&self, offset: u64, value: u32) {
        // SAFETY: as above.
        unsafe {
            self.0
                .as_ptr()
                .add(offset as usize)
                .cast::<u32>()
                .write_volatile(value)
        };
    }
}
