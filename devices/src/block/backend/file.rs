//! A raw disk image: a file, or a block device of the host.
//!
//! Transfers go straight between the file and guest memory. The capacity is what the image had
//! when it was opened, until somebody asks anew ([`Backend::refresh`]): an image that is truncated
//! under the machine gives errors where bytes are missing, one that grows stays as large as it was.
//!
//! The image is locked (an open file description lock over all of it: shared for readers,
//! exclusive for a writer) for as long as it is open.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::image::{self, OpenError};
use super::now::Now;
use super::{Backend, Waits, hole};
use crate::block::buffers::GuestBuffers;

/// The most pieces that one `preadv` or `pwritev` takes (IOV_MAX of Linux).
const IOV_MAX: usize = 1024;

/// A raw disk image.
pub struct FileBackend {
    file: File,
    capacity: u64,
    block_size: u32,
    read_only: bool,
    flush: Flush,
    now: Now,
}

impl FileBackend {
    /// Opens and locks the image at `path`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the image, and what to do.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let (file, capacity) = image::open(path, read_only)?;
        let block_size = image::block_size(&file);
        Ok(FileBackend {
            file,
            capacity,
            block_size,
            read_only,
            flush: Flush::default(),
            now: Now::default(),
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.read_only {
            true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            false => Ok(()),
        }
    }

    /// Calls `transfer` until every byte of `buffers` is done, a piece at a time.
    ///
    /// `transfer(iovecs, count, offset)` returns what the system call returned.
    fn transfer_all(
        &self,
        mut offset: u64,
        buffers: &GuestBuffers,
        at_end: io::ErrorKind,
        transfer: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
    ) -> io::Result<()> {
        let mut rest = Rest::new(buffers.iovecs());
        while let Some(iovecs) = rest.next_batch() {
            let at = libc::off_t::try_from(offset)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            match transfer(iovecs.as_ptr(), iovecs.len() as libc::c_int, at) {
                0 => return Err(at_end.into()),
                done if done > 0 => {
                    rest.advance(done as usize);
                    offset += done as u64;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        // A file that is not ready (FUSE, a network): let others run, try again.
                        io::ErrorKind::WouldBlock => std::thread::yield_now(),
                        _ => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }
}

impl Backend for FileBackend {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn refresh(&self) -> io::Result<u64> {
        image::size(&self.file)
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn waits(&self) -> Waits {
        Waits::Sometimes
    }

    fn read_now(&self, offset: u64, buffers: &GuestBuffers) -> bool {
        self.now.read(&self.file, offset, buffers)
    }

    fn write_now(&self, offset: u64, buffers: &GuestBuffers) -> bool {
        !self.read_only && self.now.write(&self.file, offset, buffers)
    }

    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        let fd = self.file.as_raw_fd();
        self.transfer_all(
            offset,
            buffers,
            io::ErrorKind::UnexpectedEof,
            |iovecs, count, at| {
                // SAFETY: the iovecs are those of `buffers`, which stays borrowed during the call:
                // they point into mapped guest memory, to which no Rust reference exists.
                unsafe { libc::preadv(fd, iovecs, count, at) }
            },
        )
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.check_writable()?;
        let fd = self.file.as_raw_fd();
        self.transfer_all(
            offset,
            buffers,
            io::ErrorKind::WriteZero,
            |iovecs, count, at| {
                // SAFETY: as in `read`; the kernel only reads through these iovecs.
                unsafe { libc::pwritev(fd, iovecs, count, at) }
            },
        )
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        hole::discard(&self.file, offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_writable()?;
        hole::write_zeroes(&self.file, offset, len, unmap)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.flush.run(|| self.file.sync_data())
    }
}

/// Remembers whether a flush failed: the kernel has dropped what could not be written and would
/// report success the next time, so the promise of a flush can never be kept again.
#[derive(Default)]
struct Flush {
    failed: AtomicBool,
}

impl Flush {
    fn run(&self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other(
                "an earlier flush failed: writes may be lost",
            ));
        }
        loop {
            match sync() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed.store(true, Ordering::Release);
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
    }
}

/// What is still to be transferred of a list of iovecs.
struct Rest<'a> {
    iovecs: &'a [libc::iovec],
    /// How many bytes of the first one are done.
    done: usize,
    /// A batch whose first piece is partly done: it cannot be lent from `iovecs`.
    patched: Vec<libc::iovec>,
}

impl<'a> Rest<'a> {
    fn new(iovecs: &'a [libc::iovec]) -> Self {
        Rest {
            iovecs,
            done: 0,
            patched: Vec::new(),
        }
    }

    /// The next pieces for one system call; none when everything is done.
    fn next_batch(&mut self) -> Option<&[libc::iovec]> {
        // Empty pieces make no progress: without this an all-empty rest would look like the end
        // of the file.
        while let Some((first, others)) = self.iovecs.split_first()
            && first.iov_len == self.done
        {
            self.iovecs = others;
            self.done = 0;
        }
        let batch = self.iovecs.get(..IOV_MAX).unwrap_or(self.iovecs);
        let first = batch.first()?;
        if self.done == 0 {
            return Some(batch);
        }
        self.patched.clear();
        self.patched.push(libc::iovec {
            iov_base: first.iov_base.wrapping_byte_add(self.done),
            iov_len: first.iov_len - self.done,
        });
        self.patched.extend_from_slice(&batch[1..]);
        Some(&self.patched)
    }

    /// Takes note that `bytes` more are done, at most what the last batch held.
    fn advance(&mut self, bytes: usize) {
        self.done += bytes;
        while let Some((first, others)) = self.iovecs.split_first()
            && self.done >= first.iov_len
        {
            self.done -= first.iov_len;
            self.iovecs = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    /// The result of a system call that failed.
    fn fails(number: i32) -> isize {
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = number };
        -1
    }

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
    fn short_and_interrupted_transfers_are_continued() {
        let (_file, backend, content) = disk();
        let memory = memory();
        let mut buffers = GuestBuffers::new(memory.clone());
        for (addr, len) in [(0, 100), (5000, 0), (1000, 1), (2000, 811), (4000, 112)] {
            buffers.push(GuestAddress(addr), len).unwrap();
        }
        let calls = Cell::new(0);
        let fd = backend.file.as_raw_fd();
        let piecemeal = |iovecs: *const libc::iovec, _count: libc::c_int, at: libc::off_t| {
            calls.set(calls.get() + 1);
            match calls.get() % 4 {
                1 => return fails(libc::EINTR),
                3 => return fails(libc::EAGAIN),
                _ => {}
            }
            // SAFETY: the first iovec is there; only its length is made smaller.
            unsafe {
                let mut first = *iovecs;
                first.iov_len = first.iov_len.min(7);
                libc::preadv(fd, &first, 1, at)
            }
        };
        let end = io::ErrorKind::UnexpectedEof;
        backend
            .transfer_all(1024, &buffers, end, piecemeal)
            .unwrap();
        let mut read = vec![0; 1024];
        assert_eq!(buffers.copy_to(&mut read), 1024);
        assert_eq!(read, content[1024..2048]);
        assert!(calls.get() > 1024 / 7);
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
    fn other_errors_end_the_transfer() {
        let (_file, backend, _) = disk();
        let mut buffers = GuestBuffers::new(memory());
        buffers.push(GuestAddress(0), 512).unwrap();
        for number in [libc::EIO, libc::ENOSPC, libc::EFBIG] {
            let end = io::ErrorKind::WriteZero;
            let result = backend.transfer_all(0, &buffers, end, |_, _, _| fails(number));
            assert_eq!(result.unwrap_err().raw_os_error(), Some(number));
        }
    }

    #[test]
    fn a_failed_flush_stays_failed() {
        let flush = Flush::default();
        assert!(flush.run(|| Ok(())).is_ok());
        let error = flush
            .run(|| Err(io::Error::from_raw_os_error(libc::EIO)))
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(flush.run(|| Ok(())).is_err());
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
