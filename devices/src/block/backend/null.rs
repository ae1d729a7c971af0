//! A disk of any size that holds nothing: it reads as zeros, and writes vanish. What is left of a
//! request's time is the device's own.

use std::io;

use super::{Backend, Waits};
use crate::block::buffers::GuestBuffers;

/// A disk without bytes.
pub struct NullBackend {
    capacity: u64,
}

impl NullBackend {
    /// A disk of `capacity` bytes, rounded down to whole sectors.
    pub fn new(capacity: u64) -> Self {
        NullBackend {
            capacity: capacity - capacity % 512,
        }
    }
}

impl Backend for NullBackend {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read_only(&self) -> bool {
        false
    }

    fn waits(&self) -> Waits {
        Waits::Never
    }

    fn read(&self, _offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        buffers.fill_with_zeros();
        Ok(())
    }

    fn write(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
