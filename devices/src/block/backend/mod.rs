//! Where the bytes are: a file or block device ([`mod@file`]), memory ([`memory`]), nowhere
//! ([`null`]); and the wrapper by which tests make any of them slow or faulty ([`fault`]).
//!
//! A backend is called from several threads at once, one call for each request in flight. It
//! blocks its caller until the request is done, and knows nothing of queues and guests. One that
//! can often do without waiting for a disk says so ([`Waits`]): then the queue's thread asks it
//! itself, which saves waking a worker.

mod direct;
mod end;
pub mod fault;
pub mod file;
mod flush;
mod hole;
mod image;
mod lock;
mod mapped;
pub mod memory;
mod now;
pub mod null;
mod patience;
mod transfer;

pub use image::OpenError;

use std::fs::File;
use std::io;

use super::buffers::GuestBuffers;

/// Whether the calls of a backend keep their caller waiting for something slower than memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// They never do.
    Never,
    /// They may; [`Backend::read_now`] and [`Backend::write_now`] try without.
    Sometimes,
    /// They may, and nothing else can be tried.
    Always,
}

/// A file that holds a disk's bytes, each where the disk has it.
#[derive(Clone, Copy, Debug)]
pub struct RawFile<'a> {
    /// The file, open for what the disk permits.
    pub file: &'a File,
    /// What addresses in memory have to be multiples of; 1 if anything goes.
    pub memory: u64,
    /// What positions and lengths have to be multiples of.
    pub block: u64,
    /// It may be written to.
    pub writes: bool,
}

/// Something that holds the bytes of a disk.
pub trait Backend: Send + Sync {
    /// Size of the disk in bytes, a multiple of 512, when it was made.
    fn capacity(&self) -> u64;

    /// Size of the disk in bytes now, where it can change.
    ///
    /// # Errors
    /// If that cannot be found out.
    fn refresh(&self) -> io::Result<u64> {
        Ok(self.capacity())
    }

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// Size in bytes of the blocks that the backend handles best, a power of two from 512 to 65536:
    /// less than one, or parts of two, cost more. It never changes.
    fn block_size(&self) -> u32 {
        4096
    }

    /// Fills all of `buffers` from byte `offset` on. The range lies inside the capacity.
    ///
    /// # Errors
    /// If not every byte could be read; what is in the buffers then is undefined.
    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()>;

    /// Writes all of `buffers` from byte `offset` on. The range lies inside the capacity.
    ///
    /// # Errors
    /// If not every byte could be written; what is on the disk then is undefined.
    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()>;

    /// What is in the `len` bytes from `offset` on no longer matters: their place may be given
    /// back. Whatever they read as afterwards, it is the same each time until they are written. A
    /// backend that cannot do it has nothing to do.
    ///
    /// # Errors
    /// If it was tried and went wrong.
    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    /// The `len` bytes from `offset` on read as zeros from now on. Their place on the disk may be
    /// given back with `unmap`, and stays reserved without. The range lies inside the capacity.
    ///
    /// # Errors
    /// As for [`write`](Backend::write).
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// Makes every write (and every range of zeros) that returned before durable.
    ///
    /// # Errors
    /// If that cannot be promised; then every later flush fails as well.
    fn flush(&self) -> io::Result<()>;

    /// Whether calls wait. It never changes.
    fn waits(&self) -> Waits {
        Waits::Always
    }

    /// As [`read`](Backend::read), but does nothing that takes long. True if every byte was read;
    /// otherwise the caller asks again by `read`, which also finds out what is wrong.
    fn read_now(&self, _offset: u64, _buffers: &GuestBuffers) -> bool {
        false
    }

    /// As [`write`](Backend::write), but does nothing that as a rule takes long. True if every byte
    /// was written; otherwise the caller asks again by `write`.
    fn write_now(&self, _offset: u64, _buffers: &GuestBuffers) -> bool {
        false
    }

    /// The file for engines that pass requests to the kernel themselves, if there is one. What such
    /// an engine does not take, or what fails, comes by the other methods.
    fn raw_file(&self) -> Option<RawFile<'_>> {
        None
    }

    /// Whether the [`raw_file`](Backend::raw_file) still has each byte before byte `end`: engines that
    /// write to it themselves ask, for a write beyond its end would make it longer.
    fn reaches(&self, _end: u64) -> bool {
        true
    }
}
