//! A raw disk image in a file, or a block device of the host.
use std::io;
use std::path::Path;

use super::Backend;
use crate::block::buffers::GuestBuffers;

/// A raw disk image.
pub struct FileBackend {
    capacity: u64,
    read_only: bool,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another reason.
    #[error("cannot use it")]
    Other(#[from] io::Error),
}

impl FileBackend {
    /// Opens and locks the image at `path`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the image.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let capacity = std::fs::metadata(path)?.len();
        Ok(FileBackend {
            capacity,
            read_only,
        })
    }
}

impl Backend for FileBackend {
    fn capacity(&self) -> u64 {
        self.capacity
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn write(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
