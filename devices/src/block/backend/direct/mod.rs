//! Direct I/O: between the disk and guest memory, past the host's page cache (O_DIRECT).
//!
//! The file system asks for aligned memory, positions and lengths. A request that is so aligned goes
//! straight to its memory. Any other goes through memory of our own, a piece at a time; where it
//! begins or ends within a block, the block's other bytes are read first and written back with it,
//! which excludes every other write meanwhile. Nothing goes through the page cache: mixed with direct
//! I/O, it could bring back old bytes.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{PoisonError, RwLock};

use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::{hole, transfer};
use crate::block::buffers::{GuestBuffers, zero};

/// How much memory of our own a request gets at most, in bytes.
const BOUNCE: u64 = 1 << 20;

/// What a file asks of direct I/O.
pub(super) struct Direct {
    /// Alignment of memory in bytes.
    memory: u64,
    /// Alignment of positions and lengths in bytes, at least a sector.
    block: u64,
    /// Held for reading while whole blocks are written, for writing while parts of some are changed.
    blocks: RwLock<()>,
}

/// What lies in one piece of our own memory.
struct Piece<'a> {
    /// Whole blocks.
    memory: VolatileSlice<'a>,
    /// Where they are in the file.
    at: u64,
    /// The part of them that the request is about.
    part: VolatileSlice<'a>,
    /// Where that part begins in the request.
    done: u64,
}

impl Direct {
    /// Asks the file system of `file`, which was opened with O_DIRECT; none if it has no direct I/O.
    pub(super) fn of(file: &File) -> Option<Self> {
        // SAFETY: a statx is plain data, for which zero is valid.
        let mut found: libc::statx = unsafe { std::mem::zeroed() };
        let (fd, mask) = (file.as_raw_fd(), libc::STATX_DIOALIGN);
        // SAFETY: an empty path with this flag means the descriptor, which is open; the other
        // pointer is valid for the duration of the call.
        let failed =
            unsafe { libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, mask, &mut found) } != 0;
        if failed || found.stx_mask & mask == 0 {
            // The host's kernel is older than 6.1, or the file system does not say: pages are enough
            // for everybody.
            return Some(Self::aligned(4096, 4096));
        }
        let (memory, block) = (found.stx_dio_mem_align, found.stx_dio_offset_align);
        (memory > 0 && block > 0).then(|| Self::aligned(memory, block))
    }

    fn aligned(memory: u32, block: u32) -> Self {
        Direct {
            memory: memory.into(),
            block: u64::from(block).max(512),
            blocks: RwLock::new(()),
        }
    }

    /// Alignments in bytes: of memory, of positions and lengths.
    pub(super) fn alignment(&self) -> (u64, u64) {
        (self.memory, self.block)
    }

    /// Alignment of positions and lengths in bytes, at least a sector.
    pub(super) fn block(&self) -> u64 {
        self.block
    }

    /// Fills `buffers` from byte `offset` of `file` on.
    pub(super) fn read(&self, file: &File, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        if self.suits(offset, buffers) {
            return transfer::read(file, offset, buffers);
        }
        self.by_pieces(offset, buffers.len(), |piece| {
            transfer::read_slice(file, piece.at, piece.memory)?;
            let len = piece.part.len() as u64;
            buffers.part(piece.done, len).copy_from_memory(piece.part);
            Ok(())
        })
    }

    /// Writes `buffers` to `file` from byte `offset` on.
    pub(super) fn write(&self, file: &File, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        if self.suits(offset, buffers) {
            let whole = || transfer::write(file, offset, buffers);
            return self.locked(offset, buffers.len(), whole);
        }
        self.write_pieces(file, offset, buffers.len(), |piece| {
            let len = piece.part.len() as u64;
            buffers.part(piece.done, len).copy_to_memory(piece.part);
        })
    }

    /// Gives back the `len` bytes from `offset` on, if that is possible.
    pub(super) fn discard(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        self.locked(offset, len, || hole::discard(file, offset, len))
    }

    /// Zeros the `len` bytes from `offset` on.
    pub(super) fn write_zeroes(
        &self,
        file: &File,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> io::Result<()> {
        let allocate = || hole::allocate_zeroes(file, offset, len, unmap);
        if self.locked(offset, len, allocate)? {
            return Ok(());
        }
        self.write_pieces(file, offset, len, |piece| zero(&piece.part))
    }

    /// Whether position, length and every piece of memory are aligned.
    fn suits(&self, offset: u64, buffers: &GuestBuffers) -> bool {
        let mut iovecs = buffers.iovecs().iter();
        let whole = offset.is_multiple_of(self.block) && buffers.len().is_multiple_of(self.block);
        whole
            && iovecs.all(|iovec| {
                (iovec.iov_base as u64).is_multiple_of(self.memory)
                    // Pieces follow one another on the disk.
                    && (iovec.iov_len as u64).is_multiple_of(self.block.max(self.memory))
            })
    }

    /// Writes the `len` bytes from `offset` on, which `fill` puts into their places.
    fn write_pieces(
        &self,
        file: &File,
        offset: u64,
        len: u64,
        fill: impl Fn(&Piece<'_>),
    ) -> io::Result<()> {
        let write = |piece: Piece<'_>| {
            if piece.part.len() < piece.memory.len() {
                transfer::read_slice(file, piece.at, piece.memory)?;
            }
            fill(&piece);
            transfer::write_slice(file, piece.at, piece.memory)
        };
        self.locked(offset, len, || self.by_pieces(offset, len, write))
    }

    /// Changes the `len` bytes from `offset` on by `change`: alone, if there are parts of blocks.
    fn locked<T>(&self, offset: u64, len: u64, change: impl FnOnce() -> T) -> T {
        if offset.is_multiple_of(self.block) && len.is_multiple_of(self.block) {
            let _beside_others = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
            change()
        } else {
            let _alone = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
            change()
        }
    }

    /// Calls `serve` for each piece of the blocks in which the `len` bytes from `offset` on lie.
    fn by_pieces(
        &self,
        offset: u64,
        len: u64,
        mut serve: impl FnMut(Piece<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset + len;
        let mut at = offset - offset % self.block;
        let size = (end.next_multiple_of(self.block) - at).min(BOUNCE);
        let region = MmapRegion::<()>::new(size as usize).map_err(io::Error::other)?;
        while at < end {
            let bytes = (end.next_multiple_of(self.block) - at).min(size);
            let (first, last) = (at.max(offset), (at + bytes).min(end));
            let slice = |from: u64, len: u64| {
                let slice = region.get_slice(from as usize, len as usize);
                slice.map_err(io::Error::other)
            };
            serve(Piece {
                memory: slice(0, bytes)?,
                at,
                part: slice(first - at, last - first)?,
                done: first - offset,
            })?;
            at += bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
