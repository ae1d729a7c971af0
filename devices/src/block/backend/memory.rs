//! A disk in the VMM's own memory: built-in images, disks that are gone when the machine is, and
//! tests.
//!
//! Nothing orders two transfers: requests in flight that overlap leave what memory leaves, as on
//! any disk. Pages that were never written, or were discarded, take no memory.
#![allow(unsafe_code)]

use std::io;

use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::{Backend, Waits};
use crate::block::buffers::{GuestBuffers, zero};

/// The host's page, the least that memory is given back by.
const PAGE: u64 = 4096;

/// A disk of bytes in memory.
pub struct MemoryBackend {
    bytes: Bytes,
    read_only: bool,
}

enum Bytes {
    /// Part of the program; read-only.
    BuiltIn(&'static [u8]),
    /// A private mapping of our own, at first all zeros.
    Own(MmapRegion),
}

impl MemoryBackend {
    /// A writable disk of `capacity` zero bytes, rounded up to whole sectors.
    ///
    /// # Errors
    /// If there is not so much address space.
    pub fn zeroed(capacity: u64) -> io::Result<Self> {
        let len = usize::try_from(capacity).ok();
        let len = len.and_then(|len| len.checked_next_multiple_of(512));
        let region = MmapRegion::new(len.ok_or(io::ErrorKind::OutOfMemory)?);
        Ok(MemoryBackend {
            bytes: Bytes::Own(region.map_err(io::Error::other)?),
            read_only: false,
        })
    }

    /// A writable disk of `bytes`, padded with zeros to a whole number of sectors.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn writable(bytes: &[u8]) -> io::Result<Self> {
        let backend = Self::zeroed(bytes.len() as u64)?;
        if let Bytes::Own(region) = &backend.bytes {
            region.as_volatile_slice().copy_from(bytes);
        }
        Ok(backend)
    }

    /// A read-only disk of `bytes`, padded with zeros to a whole number of sectors (which copies
    /// them; a multiple of 512 bytes is used where it is).
    ///
    /// # Errors
    /// As for [`writable`](MemoryBackend::writable).
    pub fn read_only(bytes: &'static [u8]) -> io::Result<Self> {
        let bytes = match bytes.len().is_multiple_of(512) {
            true => Bytes::BuiltIn(bytes),
            false => Self::writable(bytes)?.bytes,
        };
        Ok(MemoryBackend {
            bytes,
            read_only: true,
        })
    }

    /// A copy of what is on the disk now.
    pub fn contents(&self) -> Vec<u8> {
        match &self.bytes {
            Bytes::BuiltIn(bytes) => bytes.to_vec(),
            Bytes::Own(region) => {
                let mut bytes = vec![0; region.size()];
                region.as_volatile_slice().copy_to(&mut bytes[..]);
                bytes
            }
        }
    }

    /// The `len` bytes from `offset` on, for writing.
    fn writable_part(&self, offset: u64, len: u64) -> io::Result<VolatileSlice<'_>> {
        match &self.bytes {
            Bytes::Own(region) if !self.read_only => part(region, offset, len),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

impl Backend for MemoryBackend {
    fn capacity(&self) -> u64 {
        match &self.bytes {
            Bytes::BuiltIn(bytes) => bytes.len() as u64,
            Bytes::Own(region) => region.size() as u64,
        }
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn waits(&self) -> Waits {
        Waits::Never
    }

    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        match &self.bytes {
            Bytes::BuiltIn(bytes) => {
                let from = usize::try_from(offset).ok();
                let from = from.and_then(|from| bytes.get(from..));
                let from = from.filter(|from| from.len() as u64 >= buffers.len());
                buffers.copy_from(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
            Bytes::Own(region) => buffers.copy_from_memory(part(region, offset, buffers.len())?),
        }
        Ok(())
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        buffers.copy_to_memory(self.writable_part(offset, buffers.len())?);
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(offset, len, true)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let end = offset + len;
        let pages = offset.next_multiple_of(PAGE)..end - end % PAGE;
        if !unmap || pages.is_empty() {
            zero(&self.writable_part(offset, len)?);
            return Ok(());
        }
        zero(&self.writable_part(offset, pages.start - offset)?);
        zero(&self.writable_part(pages.end, end - pages.end)?);
        drop_pages(self.writable_part(pages.start, pages.end - pages.start)?)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The `len` bytes from `offset` on, or UnexpectedEof where they go past the end.
fn part(region: &MmapRegion, offset: u64, len: u64) -> io::Result<VolatileSlice<'_>> {
    let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
    let part = range.and_then(|(offset, len)| region.get_slice(offset, len).ok());
    part.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Gives whole pages back to the system; they read as zeros.
fn drop_pages(pages: VolatileSlice<'_>) -> io::Result<()> {
    let start = pages.ptr_guard_mut();
    // SAFETY: the pages lie in a private anonymous mapping that `pages` borrows, and to which no
    // Rust reference exists; dropping them is a write of zeros.
    let failed =
        unsafe { libc::madvise(start.as_ptr().cast(), pages.len(), libc::MADV_DONTNEED) } != 0;
    match failed {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 64 << 10;

    #[test]
    fn zeros_are_exact_whatever_the_alignment() {
        let disk = MemoryBackend::writable(&[7; LEN]).unwrap();
        for unmap in [false, true] {
            for (offset, len) in [
                (512, 512),
                (512, 4096),
                (3584, 9216),
                (4096, 8192),
                (0, LEN),
            ] {
                disk.write(0, &full()).unwrap();
                disk.write_zeroes(offset as u64, len as u64, unmap).unwrap();
                let mut wanted = vec![7; LEN];
                wanted[offset..offset + len].fill(0);
                assert!(disk.contents() == wanted, "{len} from {offset}, {unmap}");
            }
        }
    }

    #[test]
    fn nothing_is_touched_outside_the_disk() {
        let disk = MemoryBackend::writable(&[7; LEN]).unwrap();
        for offset in [1, LEN as u64, u64::MAX - LEN as u64] {
            let error = disk.write(offset, &full()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert!(disk.read(offset, &full()).is_err());
            assert!(disk.write_zeroes(offset, LEN as u64, true).is_err());
            assert!(disk.write_zeroes(offset, LEN as u64, false).is_err());
        }
        let built_in = MemoryBackend::read_only(&[7; LEN]).unwrap();
        assert!(built_in.read(1, &full()).is_err());
        assert!(built_in.write(0, &full()).is_err());
        assert!(built_in.write_zeroes(0, 512, false).is_err());
        assert_eq!(built_in.contents(), [7; LEN]);
    }

    #[test]
    fn odd_lengths_are_padded_with_zeros() {
        let disk = MemoryBackend::read_only(&[7; 700]).unwrap();
        assert_eq!(disk.capacity(), 1024);
        assert_eq!(disk.contents()[698..702], [7, 7, 0, 0]);
        assert!(disk.discard(0, 512).is_err());
    }

    /// Guest memory of LEN sevens.
    fn full() -> GuestBuffers {
        use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), LEN)]).unwrap();
        memory.write_slice(&[7; LEN], GuestAddress(0)).unwrap();
        let mut buffers = GuestBuffers::new(std::sync::Arc::new(memory));
        buffers.push(GuestAddress(0), LEN as u32).unwrap();
        buffers
    }
}
