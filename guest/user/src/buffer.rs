//! Buffers for requests: many parts of one mapping, each with an owner of its own.
#![allow(unsafe_code)]

use crate::mapping::Region;
use crate::{Errno, Result, syscall};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use iolite_guest_abi::{NO_FD, PAGE_BYTES, io, map, prot};

/// Memory for one request, at the start of a page. The mapping goes with the last of its buffers.
#[derive(Debug)]
pub struct Buffer {
    memory: Arc<Memory>,
    at: usize,
    len: usize,
}

/// What the buffers that were made together are parts of.
#[derive(Debug)]
struct Memory {
    region: Region,
    /// Its number if it is registered, else 0.
    registered: u16,
}

impl Buffer {
    /// Makes `count` buffers of `len` zero bytes each.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` for a count or a length of 0.
    pub fn many(count: usize, len: usize) -> Result<Vec<Buffer>> {
        Buffer::make(count, len, |_, _| Ok(0))
    }

    /// As [`Buffer::many`], and registers them: the kernel holds their memory as long as one of them is
    /// there, and a request costs it less.
    ///
    /// # Errors
    ///
    /// As [`Buffer::many`]; `EINVAL` too for more than [`iolite_guest_abi::MAX_IO_BUFFER_BYTES`] in
    /// all, `ENOMEM` too for more than [`iolite_guest_abi::MAX_IO_BUFFERS`] of these calls.
    pub fn registered(count: usize, len: usize) -> Result<Vec<Buffer>> {
        // SAFETY: the memory is reached through its buffers alone, and each is its request's as long
        // as that is on its way.
        Buffer::make(count, len, |address, bytes| unsafe {
            syscall::io_register(address, bytes)
        })
    }

    fn make(
        count: usize,
        len: usize,
        register: impl FnOnce(u64, usize) -> Result<u16>,
    ) -> Result<Vec<Buffer>> {
        let step = len.next_multiple_of(PAGE_BYTES);
        let bytes = step.checked_mul(count).ok_or(Errno::ENOMEM)?;
        let rights = prot::READ | prot::WRITE;
        let region = Region::map(NO_FD, 0, bytes, rights, map::PRIVATE)?;
        let registered = register(region.address as u64, bytes)?;
        let memory = Arc::new(Memory { region, registered });
        let buffer = |index| Buffer {
            memory: memory.clone(),
            at: index * step,
            len,
        };
        Ok((0..count).map(buffer).collect())
    }

    /// How a request names it, beside `operation`: the operation with it, and what `buf` is.
    pub(crate) fn name_for(&self, operation: u32) -> (u32, u64) {
        let at = self.at as u64;
        match self.memory.registered {
            0 => (operation, self.memory.region.address as u64 + at),
            number => (io::in_buffer(operation, number), at),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.registered != 0 {
            // No request names it: that would own one of the buffers.
            let _ = syscall::io_unregister(self.registered);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped until the region goes, and this part is this buffer's alone.
        unsafe { core::slice::from_raw_parts(self.memory.region.address.add(self.at), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; mapped for writing, and `self` is borrowed exclusively.
        unsafe {
            core::slice::from_raw_parts_mut(self.memory.region.address.add(self.at), self.len)
        }
    }
}
