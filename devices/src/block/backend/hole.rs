//! Giving ranges of a file or block device back to the host, and filling them with zeros, by the
//! cheapest way that its file system offers.
//!
//! `fallocate` is asked first; it does both on files and on block devices. Where it says that it
//! cannot, zeros are written, and a discard does nothing.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};

use super::transfer;
use crate::block::retries::patiently;

/// The range loses its place on the disk, and reads as zeros.
const PUNCH: libc::c_int = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
/// The range keeps its place, and reads as zeros.
const ZERO: libc::c_int = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

/// Gives back the `len` bytes from `offset` on, if that is possible.
pub(super) fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, PUNCH, offset, len).map(|_| ())
}

/// Zeros the `len` bytes from `offset` on; they may lose their place with `unmap`.
pub(super) fn write_zeroes(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    match allocate_zeroes(file, offset, len, unmap)? {
        true => Ok(()),
        false => write(file, offset, len),
    }
}

/// As [`write_zeroes`]; but false where zeros have to be written.
pub(super) fn allocate_zeroes(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<bool> {
    let done = unmap && allocate(file, PUNCH, offset, len)?;
    Ok(done || allocate(file, ZERO, offset, len)?)
}

/// Calls `fallocate`; false if it is not possible on this file, or not for this range (a block
/// device whose blocks are larger).
fn allocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<bool> {
    let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    patiently(|| {
        // SAFETY: the descriptor is open during the call, which takes nothing but numbers.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV) => Ok(false),
            _ => Err(error),
        }
    })
}

/// Zeros to write.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

fn write(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let piece = &ZEROS[..len.min(ZEROS.len() as u64) as usize];
        transfer::write_bytes(file, offset, piece)?;
        offset += piece.len() as u64;
        len -= piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    const LEN: usize = 1 << 20;

    fn full_file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0x77; LEN], 0).unwrap();
        file.sync_all().unwrap();
        file
    }

    /// The file's bytes: those of `zeros` are zero, the others as they were.
    #[track_caller]
    fn assert_zeros(file: &File, zeros: std::ops::Range<usize>) {
        let mut bytes = vec![1; LEN];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut wanted = vec![0x77; LEN];
        wanted[zeros].fill(0);
        assert!(bytes == wanted);
        assert_eq!(file.metadata().unwrap().len(), LEN as u64);
    }

    #[test]
    fn zeros_are_exact_whatever_the_alignment() {
        for unmap in [false, true] {
            for (offset, len) in [(512, 512), (4096, 8192), (3584, 200 << 10), (0, LEN)] {
                let file = full_file();
                write_zeroes(&file, offset as u64, len as u64, unmap).unwrap();
                assert_zeros(&file, offset..offset + len);
            }
        }
    }

    #[test]
    fn zeros_are_written_where_nothing_else_helps() {
        let file = full_file();
        write(&file, 512, 100 << 10).unwrap();
        assert_zeros(&file, 512..512 + (100 << 10));
    }

    #[test]
    fn only_unmapping_gives_blocks_back() {
        let blocks = |file: &File| file.metadata().unwrap().blocks();
        let file = full_file();
        let full = blocks(&file);
        write_zeroes(&file, 0, LEN as u64, false).unwrap();
        assert_eq!(blocks(&file), full);
        if !allocate(&file, PUNCH, 0, 4096).unwrap() {
            return; // A file system without holes.
        }
        write_zeroes(&file, 0, LEN as u64 / 2, true).unwrap();
        assert!(blocks(&file) <= full / 2 + 8);
        discard(&file, LEN as u64 / 2, LEN as u64 / 2).unwrap();
        assert!(blocks(&file) <= 8);
    }

    #[test]
    fn what_is_not_possible_is_told_from_what_goes_wrong() {
        let (reader, _writer) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(reader));
        assert!(allocate(&pipe, PUNCH, 0, 512).is_err());
        let file = full_file();
        assert!(!allocate(&file, PUNCH, 0, 0).unwrap(), "an empty range");
        assert!(allocate(&file, PUNCH, u64::MAX, 512).is_err());
    }
}
