//! A raw disk image: a file, or a block device of the host.
//!
//! Transfers go straight between the file and guest memory. The capacity is what the image had
//! when it was opened: an image that is truncated under the machine gives errors where bytes are
//! missing, one that grows stays as large as it was.
//!
//! The image is locked (an open file description lock over all of it: shared for readers,
//! exclusive for a writer) for as long as it is open.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Backend;
use super::image::{self, OpenError};
use crate::block::buffers::GuestBuffers;

/// The most pieces that one `preadv` or `pwritev` takes (IOV_MAX of Linux).
const IOV_MAX: usize = 1024;

/// A raw disk image.
pub struct FileBackend {
    file: File,
    capacity: u64,
    read_only: bool,
    /// A flush failed: the kernel has dropped what could not be written and would report success
    /// the next time, so the promise of a flush can never be kept again.
    flush_failed: AtomicBool,
}

impl FileBackend {
    /// Opens and locks the image at `path`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the image, and what to do.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let (file, capacity) = image::open(path, read_only)?;
        Ok(FileBackend {
            file,
            capacity,
            read_only,
            flush_failed: AtomicBool::new(false),
        })
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

    fn read_only(&self) -> bool {
        self.read_only
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
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
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

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        if self.flush_failed.load(Ordering::Acquire) {
            return Err(io::Error::other(
                "an earlier flush failed: writes may be lost",
            ));
        }
        loop {
            match self.file.sync_data() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.flush_failed.store(true, Ordering::Release);
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
