//! Where the bytes are: a file or block device ([`mod@file`]), memory ([`memory`]), and the wrapper
//! by which tests make any of them slow or faulty ([`fault`]).
//!
//! A backend is called from several threads at once, one call for each request in flight. It
//! blocks its caller until the request is done, and knows nothing of queues and guests.

pub mod fault;
pub mod file;
mod image;
pub mod memory;

pub use image::OpenError;

use std::io;

use super::buffers::GuestBuffers;

/// Something that holds the bytes of a disk.
pub trait Backend: Send + Sync {
    /// Size of the disk in bytes, a multiple of 512. It never changes.
    fn capacity(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

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

    /// Makes every write that returned before durable.
    ///
    /// # Errors
    /// If that cannot be promised; then every later flush fails as well.
    fn flush(&self) -> io::Result<()>;
}
