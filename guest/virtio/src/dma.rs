//! Memory that the device reads and writes.

#![allow(unsafe_code)]

use core::ptr::NonNull;

/// A piece of memory for the device: `bytes` bytes, physically contiguous, zeroed.
pub struct DmaRegion {
    pointer: NonNull<u8>,
    physical: u64,
    bytes: usize,
}

// SAFETY: the region belongs to whoever holds the value.
unsafe impl Send for DmaRegion {}

impl DmaRegion {
    /// The region mapped at `pointer` that lies at `physical` for the device.
    ///
    /// # Safety
    /// `pointer` is page-aligned and valid for `bytes` bytes as long as the value lives and as long
    /// as the device may use it, the bytes are zero, `physical` is where the device finds them, and
    /// nobody else touches them.
    pub const unsafe fn new(pointer: NonNull<u8>, physical: u64, bytes: usize) -> Self {
        DmaRegion {
            pointer,
            physical,
            bytes,
        }
    }

    /// Zeroes it.
    pub(crate) fn zero(&mut self) {
        // SAFETY: the region is ours, and valid for this many bytes.
        unsafe { self.pointer.as_ptr().write_bytes(0, self.bytes) };
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the device finds the byte at `offset`.
    pub(crate) fn physical(&self, offset: usize) -> u64 {
        self.physical + offset as u64
    }

    /// A place for a `T` at `offset`.
    pub(crate) fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.bytes && offset.is_multiple_of(align_of::<T>()));
        self.pointer.as_ptr().wrapping_add(offset).cast()
    }
}

/// A run of bytes of physical memory that a request reads or writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Physical address of the first byte.
    pub physical: u64,
    /// Length in bytes, [`MAX_SEGMENT_BYTES`] at most.
    pub bytes: u32,
}

/// Longest segment of a request.
pub const MAX_SEGMENT_BYTES: u32 = 1 << 20;
