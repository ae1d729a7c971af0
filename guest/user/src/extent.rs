//! A part of a disk that a program works through block by block: the arguments
//! `DISK SEED [OFFSET LEN]` of `fill` and `verify`.

use crate::{Errno, File, MappingMut, number_argument};
use alloc::format;
use alloc::string::String;
use core::fmt;

const BLOCK_BYTES: u64 = 128 << 10;
const SECTOR_BYTES: u64 = 512;

/// A part of a disk.
pub struct Extent {
    path: &'static str,
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

type Result<T> = core::result::Result<T, String>;

impl Extent {
    /// Reads the arguments `DISK SEED [OFFSET LEN]`; gives the extent and the seed. The whole disk if
    /// offset and length are left out.
    ///
    /// # Errors
    ///
    /// A line that says which argument is wrong, or `usage`.
    pub fn of_args(args: impl Iterator<Item = &'static str>, usage: &str) -> Result<(Extent, u64)> {
        let args: alloc::vec::Vec<&'static str> = args.collect();
        let (path, seed, offset, len) = match args[..] {
            [path, seed] => (path, seed, "0", None),
            [path, seed, offset, len] => (path, seed, offset, Some(len)),
            _ => return Err(format!("usage: {usage}")),
        };
        let (seed, offset) = (
            number_argument("SEED", seed)?,
            number_argument("OFFSET", offset)?,
        );
        let len = match len {
            Some(len) => number_argument("LEN", len)?,
            None => size_of(path).map_err(|error| format!("{path}: {error}"))?,
        };
        if offset.checked_add(len).is_none() {
            return Err(format!(
                "OFFSET {offset} and LEN {len} are too large together"
            ));
        }
        Ok((Extent { path, offset, len }, seed))
    }

    /// Opens it for reading: past the page cache if it is made of whole sectors.
    ///
    /// # Errors
    ///
    /// A line with the path and the reason.
    pub fn open(&self) -> Result<File> {
        let file = match self.is_aligned() {
            true => File::open_direct(self.path),
            false => File::open(self.path),
        };
        file.map_err(|error| format!("{}: {error}", self.path))
    }

    /// Opens it for reading and writing; otherwise as [`Extent::open`].
    ///
    /// # Errors
    ///
    /// A line with the path and the reason.
    pub fn open_writable(&self) -> Result<File> {
        let file = match self.is_aligned() {
            true => File::open_direct_writable(self.path),
            false => return self.open_cached_writable(),
        };
        file.map_err(|error| format!("{}: {error}", self.path))
    }

    /// Opens it for reading and writing through the page cache.
    ///
    /// # Errors
    ///
    /// A line with the path and the reason.
    pub fn open_cached_writable(&self) -> Result<File> {
        File::open_writable(self.path).map_err(|error| format!("{}: {error}", self.path))
    }

    /// A buffer for one block.
    ///
    /// # Errors
    ///
    /// A line that says that there is no memory.
    pub fn buffer(&self) -> Result<MappingMut> {
        MappingMut::zeroed(BLOCK_BYTES as usize).map_err(|error| format!("buffer: {error}"))
    }

    /// Offset and length of each block, in order.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, usize)> {
        let end = self.offset + self.len;
        (self.offset..end)
            .step_by(BLOCK_BYTES as usize)
            .map(move |offset| (offset, (end - offset).min(BLOCK_BYTES) as usize))
    }

    /// The line for an operation at `offset` that failed.
    pub fn failed(&self, offset: u64, error: Errno) -> String {
        format!("{} at byte {offset}: {error}", self.path)
    }

    fn is_aligned(&self) -> bool {
        self.offset.is_multiple_of(SECTOR_BYTES) && self.len.is_multiple_of(SECTOR_BYTES)
    }
}

fn size_of(path: &str) -> crate::Result<u64> {
    Ok(File::open(path)?.stat()?.size)
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}+{}", self.path, self.offset, self.len)
    }
}
