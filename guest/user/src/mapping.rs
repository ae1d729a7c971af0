//! Memory by mapping: of files and disks, which the pager fetches page by page, and of zeroes.
#![allow(unsafe_code)]

use crate::fault;
use crate::syscall::syscall;
use crate::{Errno, File, Result};
use core::ops::{Deref, DerefMut};
use iolite_guest_abi::{NO_FD, Number, PAGE_BYTES, map, prot};

/// A part of a file or disk, to be read. Unmapped when dropped.
///
/// A page that its disk cannot read ends the process with `Fault::Io` when it is touched. The bytes
/// are those of the page cache: while another process writes to them, what is read here may be
/// either.
#[derive(Debug)]
pub struct Mapping(Region);

/// Memory that can be written. Unmapped when dropped.
#[derive(Debug)]
pub struct MappingMut(Region);

impl Mapping {
    /// Maps `len` bytes of `file` from `offset`, a multiple of the page size. Reads nothing.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an offset between pages or a length of 0, `ENOMEM`, `ENODEV` for the console.
    pub fn of(file: &File, offset: u64, len: usize) -> Result<Mapping> {
        Region::map(file.fd(), offset, len, prot::READ, map::SHARED).map(Mapping)
    }

    /// As [`Mapping::of`], but a page that is touched is read alone: the kernel does not read ahead.
    ///
    /// # Errors
    ///
    /// As [`Mapping::of`].
    pub fn without_read_ahead(file: &File, offset: u64, len: usize) -> Result<Mapping> {
        let flags = map::SHARED | map::NO_READ_AHEAD;
        Region::map(file.fd(), offset, len, prot::READ, flags).map(Mapping)
    }

    /// As [`Mapping::touch`], where the page may be one that cannot be read.
    ///
    /// # Errors
    ///
    /// `EIO` if it cannot: another try reads anew. `ENOMEM`.
    pub fn try_touch(&self, index: usize) -> Result<u8> {
        fault::probe(&self[index])
    }

    /// Reads one byte, so that its page is there; for those who time it.
    pub fn touch(&self, index: usize) -> u8 {
        let byte: *const u8 = &self[index];
        // SAFETY: a valid reference; volatile, so that the read is not left out.
        unsafe { byte.read_volatile() }
    }
}

impl MappingMut {
    /// Maps `len` zero bytes, at the start of a page.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` for a length of 0.
    pub fn zeroed(len: usize) -> Result<MappingMut> {
        let rights = prot::READ | prot::WRITE;
        Region::map(NO_FD, 0, len, rights, map::PRIVATE).map(MappingMut)
    }

    /// Maps `len` bytes of `file` from `offset`, a multiple of the page size, for this process
    /// alone: what is written here is seen by nobody else and never reaches the disk.
    ///
    /// # Errors
    ///
    /// As [`Mapping::of`].
    pub fn private(file: &File, offset: u64, len: usize) -> Result<MappingMut> {
        let rights = prot::READ | prot::WRITE;
        Region::map(file.fd(), offset, len, rights, map::PRIVATE).map(MappingMut)
    }

    /// Has the kernel read `len` bytes of a disk as it reads when it mounts, each block waited for,
    /// into pages that then become the first ones of this mapping, which is one of zeroes. Gives the
    /// number of bytes: fewer at the end of the disk, 0 past it.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `offset` is not a multiple of the page size or `len` is more than this mapping,
    /// `EIO` if the disk could not be read, `ENODEV` if it is no disk, `ENOMEM`.
    pub fn scan(&mut self, disk: &File, offset: u64, len: usize) -> Result<usize> {
        if len > self.0.len {
            return Err(Errno::EINVAL);
        }
        let args = [disk.fd(), self.0.address as u64, len as u64, offset, 0];
        // SAFETY: the kernel replaces pages of this mapping, which `self` borrows exclusively, and
        // does so before the call returns.
        unsafe { syscall(Number::Scan, args) }.map(|bytes| bytes as usize)
    }

    /// The addresses of its pages, which stay mapped for good.
    pub(crate) fn leak(self) -> (*mut u8, usize) {
        let Region { address, len } = self.0;
        core::mem::forget(self);
        (address, len)
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel mapped `len` readable bytes there, until this value is dropped.
        unsafe { core::slice::from_raw_parts(self.0.address, self.0.len) }
    }
}

impl Deref for MappingMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `Mapping`; this process alone has these pages.
        unsafe { core::slice::from_raw_parts(self.0.address, self.0.len) }
    }
}

impl DerefMut for MappingMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; they were mapped for writing, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.0.address, self.0.len) }
    }
}

/// A run of addresses that this process was given. Whole pages, though `len` need not be.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) address: *mut u8,
    pub(crate) len: usize,
}

// SAFETY: it owns its addresses, as a Box<[u8]> does; any thread may use or unmap them.
unsafe impl Send for Region {}
// SAFETY: nothing can be changed through a shared Region.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn map(fd: u64, offset: u64, len: usize, rights: u64, flags: u64) -> Result<Region> {
        // SAFETY: the kernel picks addresses that nothing uses yet.
        let address = unsafe { syscall(Number::Mmap, [fd, offset, len as u64, rights, flags]) }?;
        Ok(Region {
            address: address as *mut u8,
            len,
        })
    }

    /// A stack of `len` bytes, above a page that is not mapped, so that running over its end is a
    /// fault and not silent damage.
    pub(crate) fn stack(len: usize) -> Result<Region> {
        let rights = prot::READ | prot::WRITE;
        let whole = Region::map(NO_FD, 0, len + PAGE_BYTES, rights, map::PRIVATE)?;
        // SAFETY: a page of a mapping that nobody has used.
        unsafe {
            syscall(
                Number::Munmap,
                [whole.address as u64, PAGE_BYTES as u64, 0, 0, 0],
            )
        }?;
        let stack = Region {
            address: whole.address.wrapping_add(PAGE_BYTES),
            len,
        };
        core::mem::forget(whole);
        Ok(stack)
    }

    /// First address above.
    pub(crate) fn end(&self) -> u64 {
        self.address as u64 + self.len as u64
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: who owns the region is the last to use it.
        let _ = unsafe {
            syscall(
                Number::Munmap,
                [self.address as u64, self.len as u64, 0, 0, 0],
            )
        };
    }
}
