//! Files of the system disk, and disks.

use crate::{Passing, Result, syscall};
use iolite_guest_abi::{DiskStats, Errno, Stat, open, stats};

/// An open file or disk. Closed when dropped.
#[derive(Debug)]
pub struct File {
    fd: u64,
}

impl File {
    /// Opens for reading, through the page cache.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such file or disk, `EMFILE` if too many are open.
    pub fn open(path: &str) -> Result<File> {
        File::open_with(path, 0)
    }

    /// Opens a disk for reading past the page cache: buffers, offsets and lengths are multiples of
    /// 512 bytes.
    ///
    /// # Errors
    ///
    /// As [`File::open`].
    pub fn open_direct(path: &str) -> Result<File> {
        File::open_with(path, open::DIRECT)
    }

    /// Opens for reading and writing, through the page cache.
    ///
    /// # Errors
    ///
    /// As [`File::open`], and `EROFS` if it cannot be written.
    pub fn open_writable(path: &str) -> Result<File> {
        File::open_with(path, open::WRITE)
    }

    /// Opens a disk for reading and writing, past the page cache.
    ///
    /// # Errors
    ///
    /// As [`File::open_writable`].
    pub fn open_direct_writable(path: &str) -> Result<File> {
        File::open_with(path, open::DIRECT | open::WRITE)
    }

    /// Opens with the flags of `abi::open`.
    ///
    /// # Errors
    ///
    /// As the functions above; `EINVAL` for a flag there is none of, or direct access to a file.
    pub fn open_with(path: &str, flags: u64) -> Result<File> {
        syscall::open(path, flags).map(|fd| File { fd })
    }

    /// Reads at the file's position and moves it. Fewer bytes than asked for at the end, 0 past it.
    ///
    /// # Errors
    ///
    /// `EIO` if the disk could not be read.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        syscall::read(self.fd, buffer)
    }

    /// Writes at the file's position and moves it.
    ///
    /// # Errors
    ///
    /// `EBADF` if it is not open for writing, `ENOSPC` at its end, `EIO` if the disk failed.
    pub fn write(&self, bytes: &[u8]) -> Result<usize> {
        syscall::write(self.fd, bytes)
    }

    /// Reads at `offset` bytes.
    ///
    /// # Errors
    ///
    /// As [`File::read`]; `EINVAL` if the file is open for direct access and something is not a
    /// multiple of 512.
    pub fn pread(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        syscall::pread(self.fd, buffer, offset)
    }

    /// Reads at `offset` bytes until the buffer is full.
    ///
    /// # Errors
    ///
    /// As [`File::pread`], and `EIO` if the file ends before.
    pub fn pread_exact(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.pread(&mut buffer[done..], offset + done as u64)? {
                0 => return Err(Errno::EIO),
                bytes => done += bytes,
            }
        }
        Ok(())
    }

    /// Writes at `offset` bytes.
    ///
    /// # Errors
    ///
    /// As [`File::write`]; `EINVAL` as in [`File::pread`].
    pub fn pwrite(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        syscall::pwrite(self.fd, bytes, offset)
    }

    /// Writes all of `bytes` at `offset` bytes.
    ///
    /// # Errors
    ///
    /// As [`File::pwrite`], and `ENOSPC` if the disk ends before.
    pub fn pwrite_all(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.pwrite(&bytes[done..], offset + done as u64)? {
                0 => return Err(Errno::ENOSPC),
                written => done += written,
            }
        }
        Ok(())
    }

    /// Returns when every write that completed before is durable.
    ///
    /// # Errors
    ///
    /// `EIO` if the disk failed.
    pub fn fsync(&self) -> Result<()> {
        syscall::fsync(self.fd)
    }

    /// What it is and how long.
    ///
    /// # Errors
    ///
    /// None that a file opened by this type can cause.
    pub fn stat(&self) -> Result<Stat> {
        syscall::stat(self.fd)
    }

    /// What the disk's driver and the pager have counted since the last [`File::reset_stats`].
    ///
    /// # Errors
    ///
    /// `ENODEV` if it is not a disk.
    pub fn disk_stats(&self) -> Result<DiskStats> {
        syscall::disk_stats(self.fd, 0)
    }

    /// Starts the disk's counts anew.
    ///
    /// # Errors
    ///
    /// As [`File::disk_stats`].
    pub fn reset_stats(&self) -> Result<()> {
        syscall::disk_stats(self.fd, stats::RESET).map(drop)
    }

    /// `passing`, and this after what it has.
    pub fn pass(&self, passing: Passing) -> Passing {
        passing.fd(self.fd)
    }

    /// Its descriptor, for who calls the kernel past this type; good until this is dropped.
    pub fn fd(&self) -> u64 {
        self.fd
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Nothing is buffered on this side, so closing has no error that matters.
        let _ = syscall::close(self.fd);
    }
}
