//! Memory that processes share: writable mappings of disks.
//!
//! What one process writes, the others read, and the disk gets it in time; [`SharedMapping::sync`]
//! returns when it has. Since anyone may write at any moment, there are no references into such
//! memory but to atomics: bytes are copied in and out.
#![allow(unsafe_code)]

use crate::mapping::Region;
use crate::syscall::syscall;
use crate::{File, Result};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use iolite_guest_abi::{Number, map, prot};

/// A writable mapping of a disk, shared with every process that maps it and with the page cache.
/// Unmapped when dropped; what was written stays written.
#[derive(Debug)]
pub struct SharedMapping(Region);

impl SharedMapping {
    /// Maps `len` bytes of `file` from `offset`, a multiple of the page size. Reads nothing.
    ///
    /// # Errors
    ///
    /// `EROFS` if the file is not open for writing, `EINVAL` for an offset between pages, a length
    /// of 0 or an end past the file's, `ENOMEM`.
    pub fn of(file: &File, offset: u64, len: usize) -> Result<SharedMapping> {
        let rights = prot::READ | prot::WRITE;
        Region::map(file.fd(), offset, len, rights, map::SHARED).map(SharedMapping)
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Never: an empty mapping cannot be made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `to.len()` bytes out, from byte `at` on.
    ///
    /// # Panics
    ///
    /// If they are not all in the mapping.
    pub fn read(&self, at: usize, to: &mut [u8]) {
        let bytes = self.bytes(at, to.len());
        for (byte, from) in to.iter_mut().zip(bytes) {
            *byte = from.load(Ordering::Relaxed);
        }
    }

    /// Copies `from` in, from byte `at` on.
    ///
    /// # Panics
    ///
    /// If they are not all in the mapping.
    pub fn write(&self, at: usize, from: &[u8]) {
        for (byte, to) in from.iter().zip(self.bytes(at, from.len())) {
            to.store(*byte, Ordering::Relaxed);
        }
    }

    /// The word at byte `at`, a multiple of 8, for processes that wait for each other.
    ///
    /// # Panics
    ///
    /// If it is not in the mapping, or `at` is not a multiple of 8.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && self.bytes(at, 8).len() == 8);
        // SAFETY: aligned and within the mapping, which lives as long as the reference; all access
        // to it is atomic.
        unsafe { &*self.0.address.add(at).cast() }
    }

    /// Returns when what was written here is durable.
    ///
    /// # Errors
    ///
    /// `EIO` if the disk failed.
    pub fn sync(&self) -> Result<()> {
        let args = [self.0.address as u64, self.0.len as u64, 0, 0, 0];
        // SAFETY: the call reads and changes no memory.
        unsafe { syscall(Number::Msync, args) }.map(drop)
    }

    fn bytes(&self, at: usize, len: usize) -> &[AtomicU8] {
        // SAFETY: the kernel mapped these bytes, until `self` is dropped; all access to them is
        // atomic.
        let all: &[AtomicU8] =
            unsafe { core::slice::from_raw_parts(self.0.address.cast(), self.0.len) };
        &all[at..at + len]
    }
}
