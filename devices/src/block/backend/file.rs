//! A raw disk image: a file, or a block device of the host.
//!
//! Transfers go straight between the file and guest memory; what is in the page cache and often read is
//! copied from a mapping (`mapped`). The capacity is what the image had
//! when it was opened, until somebody asks anew ([`Backend::refresh`]): an image that is truncated
//! under the machine gives errors where bytes are missing, for reads and for writes (`end`); one that
//! grows stays as large as it was. What is durable is so by `flush`.
//!
//! The image is locked for as long as it is open (`lock`).

use std::fs::File;
use std::io;
use std::path::Path;

use super::direct::Direct;
use super::end::End;
use super::flush::Flush;
use super::image::{self, OpenError};
use super::lock;
use super::mapped::Mapped;
use super::now::Now;
use super::{Backend, RawFile, Waits, hole, transfer};
use crate::block::buffers::GuestBuffers;

/// The least that a request is about, in bytes.
const SECTOR: u64 = 512;

/// A raw disk image.
pub struct FileBackend {
    file: File,
    capacity: u64,
    block_size: u32,
    end: End,
    /// None if it is read-only.
    flush: Option<Flush>,
    now: Now,
    /// What is read from a mapping.
    mapped: Option<Mapped>,
    /// Past the page cache.
    direct: Option<Direct>,
}

impl FileBackend {
    /// As many bytes of an image are mapped at most if nobody says otherwise.
    pub const DEFAULT_MAPPED: u64 = 1 << 30;

    /// Opens and locks the image at `path`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the image, and what to do.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let (file, capacity) = image::open(path, read_only, 0)?;
        FileBackend::cached(path, file, capacity, read_only)
    }

    /// Locks an image that is open already, and may have no name any more.
    ///
    /// # Errors
    /// As for [`open`](FileBackend::open).
    pub fn adopt(file: File, read_only: bool) -> Result<Self, OpenError> {
        let path = Path::new("(open)");
        let capacity = image::adopt(&file, path, read_only)?;
        FileBackend::cached(path, file, capacity, read_only)
    }

    fn cached(path: &Path, file: File, capacity: u64, read_only: bool) -> Result<Self, OpenError> {
        Ok(FileBackend {
            block_size: image::block_size(&file),
            mapped: Mapped::new(&file, capacity, Self::DEFAULT_MAPPED),
            flush: flush_of(path, &file, read_only)?,
            file,
            capacity,
            end: End::new(capacity),
            now: Now::new(),
            direct: None,
        })
    }

    /// As [`open`](FileBackend::open), but what is read and written goes past the host's page cache
    /// (O_DIRECT), as far as its alignment permits.
    ///
    /// # Errors
    /// As for `open`; and if the image's file system cannot do this, or the image does not end where
    /// one of its blocks ends.
    pub fn open_direct(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let (file, capacity) = image::open(path, read_only, libc::O_DIRECT)?;
        let direct = Direct::of(&file).ok_or_else(|| OpenError::NoDirect(path.to_owned()))?;
        let block = direct.block();
        if !capacity.is_multiple_of(block) {
            return Err(OpenError::PartialBlock {
                path: path.to_owned(),
                size: capacity,
                block,
            });
        }
        Ok(FileBackend {
            block_size: image::block_size(&file).max(block as u32),
            flush: flush_of(path, &file, read_only)?,
            file,
            capacity,
            end: End::new(capacity),
            now: Now::new(),
            mapped: None,
            direct: Some(direct),
        })
    }

    /// Has at most `bytes` bytes of the image mapped at once, to read them without a system call; 0 for
    /// none. Has no effect with direct I/O.
    #[must_use]
    pub fn with_mapped(mut self, bytes: u64) -> Self {
        if self.direct.is_none() {
            self.mapped = Mapped::new(&self.file, self.capacity, bytes);
        }
        self
    }

    /// What is in this range has been given back, or may have been.
    fn forget(&self, offset: u64, len: u64) {
        if let Some(mapped) = &self.mapped {
            mapped.forget(offset, len);
        }
    }

    /// Whether the `len` bytes from `offset` on may be changed, and are there.
    fn check_writable(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.read_only() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        match self.reaches(offset + len) {
            true => Ok(()),
            false => Err(io::Error::other(
                "somebody has cut the image off before this",
            )),
        }
    }
}

fn flush_of(path: &Path, file: &File, read_only: bool) -> Result<Option<Flush>, OpenError> {
    let flush = (!read_only).then(|| Flush::of(file)).transpose();
    flush.map_err(|error| OpenError::Io {
        path: path.to_owned(),
        error,
    })
}

impl Drop for FileBackend {
    fn drop(&mut self) {
        lock::unlock(&self.file);
    }
}

impl Backend for FileBackend {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn refresh(&self) -> io::Result<u64> {
        let size = image::size(&self.file)?;
        let block = self.direct.as_ref().map_or(1, Direct::block);
        Ok(size - size % block)
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn read_only(&self) -> bool {
        self.flush.is_none()
    }

    fn raw_file(&self) -> Option<RawFile<'_>> {
        let direct = self.direct.as_ref();
        let (memory, block) = direct.map_or((1, 1), Direct::alignment);
        Some(RawFile {
            file: &self.file,
            memory,
            block,
            // Where a part of a block can be written, by our own memory, others have to keep away.
            writes: direct.is_none_or(|_| block == SECTOR),
        })
    }

    fn reaches(&self, end: u64) -> bool {
        self.end.is_behind(&self.file, end)
    }

    fn waits(&self) -> Waits {
        match self.direct {
            // What is not in the page cache has to come from the disk.
            Some(_) => Waits::Always,
            None => Waits::Sometimes,
        }
    }

    fn read_now(&self, offset: u64, buffers: &GuestBuffers) -> bool {
        let Some(mapped) = &self.mapped else {
            return self.now.read(&self.file, offset, buffers);
        };
        if mapped.read(&self.file, offset, buffers) {
            return true;
        }
        let done = self.now.read(&self.file, offset, buffers);
        if done {
            mapped.vote(&self.file, offset, buffers);
        }
        done
    }

    fn write_now(&self, offset: u64, buffers: &GuestBuffers) -> bool {
        self.check_writable(offset, buffers.len()).is_ok()
            && self.now.write(&self.file, offset, buffers)
    }

    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        match &self.direct {
            Some(direct) => direct.read(&self.file, offset, buffers),
            None => transfer::read(&self.file, offset, buffers),
        }
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.check_writable(offset, buffers.len())?;
        match &self.direct {
            Some(direct) => direct.write(&self.file, offset, buffers),
            None => transfer::write(&self.file, offset, buffers),
        }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable(offset, len)?;
        match &self.direct {
            Some(direct) => direct.discard(&self.file, offset, len),
            None => {
                hole::discard(&self.file, offset, len)?;
                self.forget(offset, len);
                Ok(())
            }
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_writable(offset, len)?;
        match &self.direct {
            Some(direct) => direct.write_zeroes(&self.file, offset, len, unmap),
            None => {
                hole::write_zeroes(&self.file, offset, len, unmap)?;
                self.forget(offset, len);
                Ok(())
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.flush.as_ref().map_or(Ok(()), Flush::run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::super::mapped::mapped_bytes;

    fn memory() -> Arc<GuestMemoryMmap> {
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap())
    }

    /// A disk of 64 KiB of which byte n is n modulo 251.
    fn disk() -> (tempfile::NamedTempFile, FileBackend, Vec<u8>) {
        let content: Vec<u8> = (0..0x1_0000u32).map(|at| (at % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &content).unwrap();
        let backend = FileBackend::open(file.path(), false).unwrap();
        (file, backend, content)
    }

    #[test]
    fn the_end_of_the_file_is_an_error() {
        let (file, backend, _) = disk();
        file.as_file().set_len(700).unwrap();
        let mut buffers = GuestBuffers::new(memory());
        buffers.push(GuestAddress(0), 512).unwrap();
        let error = backend.read(512, &buffers).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(backend.capacity(), 0x1_0000);
    }

    #[test]
    fn what_is_given_back_is_not_mapped_any_more() {
        type Change = fn(&FileBackend) -> io::Result<()>;
        let changes: [Change; 3] = [
            |backend| backend.discard(8192, 4096),
            |backend| backend.write_zeroes(8192, 4096, true),
            |backend| backend.write_zeroes(8192, 4096, false),
        ];
        for change in changes {
            let (_file, backend, _) = disk();
            if backend.mapped.is_none() {
                return; // Not on this file system.
            }
            let mut buffers = GuestBuffers::new(memory());
            buffers.push(GuestAddress(0), 512).unwrap();
            let mapped = || {
                (0..64).for_each(|_| assert!(backend.read_now(0, &buffers)));
                mapped_bytes(&backend.file)
            };
            assert!(mapped() > 0);
            change(&backend).unwrap();
            assert_eq!(mapped_bytes(&backend.file), 0);
        }
    }

    #[test]
    fn a_file_that_was_cut_off_does_not_grow_again() {
        let (file, backend, _) = disk();
        file.as_file().set_len(4096).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
        let mut buffers = GuestBuffers::new(memory());
        buffers.push(GuestAddress(0), 1024).unwrap();
        for offset in [3584, 4096, 0x8000] {
            assert!(!backend.write_now(offset, &buffers));
            assert!(backend.write(offset, &buffers).is_err());
            for unmap in [false, true] {
                assert!(backend.write_zeroes(offset, 1024, unmap).is_err());
            }
        }
        assert!(backend.write_now(3072, &buffers));
        assert_eq!(file.as_file().metadata().unwrap().len(), 4096);
    }

    #[test]
    fn writes_gather_every_piece() {
        let (file, backend, mut content) = disk();
        let memory = memory();
        memory.write_slice(&[0xee; 300], GuestAddress(10)).unwrap();
        memory.write_slice(&[0xdd; 212], GuestAddress(900)).unwrap();
        let mut buffers = GuestBuffers::new(memory);
        buffers.push(GuestAddress(10), 300).unwrap();
        buffers.push(GuestAddress(900), 212).unwrap();
        backend.write(2048, &buffers).unwrap();
        backend.flush().unwrap();
        content[2048..2348].fill(0xee);
        content[2348..2560].fill(0xdd);
        assert_eq!(std::fs::read(file.path()).unwrap(), content);
    }
}
