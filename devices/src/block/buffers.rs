//! The guest memory of one request, ready for `preadv` and `pwritev`: host addresses, checked once
//! against the guest's memory map, valid for as long as this value lives.
//!
//! The guest's vCPUs may read and write the same bytes at any time, so no reference to them is
//! ever made: they are passed to the kernel, or copied through volatile accesses.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, VolatileSlice,
};

/// Scattered guest memory: `iovec`s, and the hold on the memory that they point into.
pub struct GuestBuffers {
    /// Most requests have one piece, which is kept without an allocation.
    iovecs: SmallVec<[libc::iovec; 1]>,
    len: u64,
    memory: Arc<GuestMemoryMmap>,
}

// SAFETY: an iovec is an address and a length; the mapping it points into is kept alive by
// `memory` and may be accessed from any thread (the accesses are the kernel's, or volatile).
unsafe impl Send for GuestBuffers {}
// SAFETY: as above; a shared GuestBuffers only lends its iovecs.
unsafe impl Sync for GuestBuffers {}

impl GuestBuffers {
    /// No buffers yet, in `memory`.
    #[inline]
    pub fn new(memory: Arc<GuestMemoryMmap>) -> Self {
        GuestBuffers {
            iovecs: SmallVec::new(),
            len: 0,
            memory,
        }
    }

    /// Appends the `len` bytes at `addr`, which may span adjacent memory regions.
    ///
    /// # Errors
    /// If any of them lies outside guest memory; the buffers are not to be used then.
    #[inline]
    pub fn push(&mut self, addr: GuestAddress, len: u32) -> Result<(), GuestMemoryError> {
        for slice in GuestMemoryBackend::get_slices(&*self.memory, addr, len as usize) {
            let slice = slice?;
            self.iovecs.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
            self.len += slice.len() as u64;
        }
        Ok(())
    }

    /// How many bytes the buffers hold together.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers as the kernel wants them. Not to be turned into references: the guest shares
    /// this memory. May hold more entries than one system call takes (IOV_MAX).
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.iovecs
    }

    /// The `len` bytes of these buffers that follow the first `skip`; fewer if there are fewer.
    pub fn part(&self, mut skip: u64, mut len: u64) -> GuestBuffers {
        let mut part = GuestBuffers::new(Arc::clone(&self.memory));
        for iovec in &self.iovecs {
            let skipped = skip.min(iovec.iov_len as u64);
            let taken = len.min(iovec.iov_len as u64 - skipped);
            if taken > 0 {
                part.iovecs.push(libc::iovec {
                    iov_base: iovec.iov_base.wrapping_byte_add(skipped as usize),
                    iov_len: taken as usize,
                });
            }
            part.len += taken;
            (skip, len) = (skip - skipped, len - taken);
        }
        part
    }

    /// Fills the buffers from the start of `data`; returns how many bytes were copied.
    pub fn copy_from(&self, mut data: &[u8]) -> usize {
        let before = data.len();
        for slice in self.slices() {
            let len = slice.len().min(data.len());
            slice.copy_from(&data[..len]);
            data = &data[len..];
        }
        before - data.len()
    }

    /// Fills the buffers from the start of `memory`, as far as it goes.
    pub fn copy_from_memory(&self, memory: VolatileSlice<'_>) {
        let mut at = 0;
        for slice in self.slices() {
            let Ok(from) = memory.offset(at) else { return };
            from.copy_to_volatile_slice(slice);
            at += slice.len();
        }
    }

    /// Copies the buffers to the start of `memory`, as far as it goes.
    pub fn copy_to_memory(&self, memory: VolatileSlice<'_>) {
        let mut at = 0;
        for slice in self.slices() {
            let Ok(to) = memory.offset(at) else { return };
            slice.copy_to_volatile_slice(to);
            at += slice.len();
        }
    }

    /// Fills the buffers with zeros.
    pub fn fill_with_zeros(&self) {
        for slice in self.slices() {
            zero(&slice);
        }
    }

    /// Copies the buffers to the start of `data`; returns how many bytes were copied.
    pub fn copy_to(&self, data: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            let len = slice.len().min(data.len() - done);
            slice.copy_to(&mut data[done..done + len]);
            done += len;
        }
        done
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = VolatileSlice<'_>> {
        self.iovecs.iter().map(|iovec| {
            // SAFETY: `push` took address and length from the guest memory that `memory` keeps
            // mapped at least as long as the returned slice borrows `self`.
            unsafe { VolatileSlice::new(iovec.iov_base.cast(), iovec.iov_len) }
        })
    }
}

/// Fills memory that is shared with others with zeros.
pub(super) fn zero(memory: &VolatileSlice<'_>) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = 0;
    while let Ok(rest) = memory.offset(at)
        && !rest.is_empty()
    {
        rest.copy_from(&ZEROS[..rest.len().min(ZEROS.len())]);
        at += ZEROS.len();
    }
}

impl fmt::Debug for GuestBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in {} pieces", self.len, self.iovecs.len())
    }
}
