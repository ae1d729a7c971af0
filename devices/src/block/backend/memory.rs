//! A disk in the VMM's own memory: built-in images, and tests.

use std::borrow::Cow;
use std::io;
use std::sync::{PoisonError, RwLock};

use super::Backend;
use crate::block::buffers::GuestBuffers;

/// Bytes in memory: borrowed and read-only, or owned and writable.
pub struct MemoryBackend {
    bytes: RwLock<Cow<'static, [u8]>>,
    capacity: u64,
    read_only: bool,
}

impl MemoryBackend {
    /// A read-only disk of `bytes`, padded with zeros to a whole number of sectors (which copies
    /// them; a multiple of 512 bytes is used where it is).
    pub fn read_only(bytes: &'static [u8]) -> Self {
        Self::from_bytes(Cow::Borrowed(bytes), true)
    }

    /// A writable disk of `bytes`, padded with zeros to a whole number of sectors.
    pub fn writable(bytes: Vec<u8>) -> Self {
        Self::from_bytes(Cow::Owned(bytes), false)
    }

    fn from_bytes(mut bytes: Cow<'static, [u8]>, read_only: bool) -> Self {
        if !bytes.len().is_multiple_of(512) {
            let padded = bytes.len().next_multiple_of(512);
            bytes.to_mut().resize(padded, 0);
        }
        let capacity = bytes.len() as u64;
        MemoryBackend {
            bytes: RwLock::new(bytes),
            capacity,
            read_only,
        }
    }

    /// A copy of what is on the disk now.
    pub fn contents(&self) -> Vec<u8> {
        self.bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .to_vec()
    }
}

impl Backend for MemoryBackend {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let range = range(offset, buffers, bytes.len())?;
        buffers.copy_from(&bytes[range]);
        Ok(())
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let range = range(offset, buffers, bytes.len())?;
        buffers.copy_to(&mut bytes.to_mut()[range]);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of a transfer as indices, or UnexpectedEof where it goes past the end.
fn range(offset: u64, buffers: &GuestBuffers, len: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok();
    let end = usize::try_from(buffers.len())
        .ok()
        .and_then(|bytes| start?.checked_add(bytes));
    match (start, end) {
        (Some(start), Some(end)) if end <= len => Ok(start..end),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
