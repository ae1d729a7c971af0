#![no_std]
#![no_main]
//! `copy SOURCE DISK`: copies a file or a disk to the start of a disk, and flushes.
//!
//! Whole sectors go past the page cache where the source is a disk. A file's last sector is filled
//! up with zeroes.

extern crate alloc;

use alloc::format;
use alloc::string::String;
use iolite_user::{Args, Errno, File, MappingMut, Result, entry, kind, println};

const BLOCK_BYTES: usize = 128 << 10;
const SECTOR_BYTES: usize = 512;

entry!(main);

fn main(mut args: Args) -> core::result::Result<(), String> {
    let (Some(source), Some(target), None) = (args.next(), args.next(), args.next()) else {
        return Err(String::from("usage: copy SOURCE DISK"));
    };
    let bytes = copy(source, target).map_err(|error| format!("{source} to {target}: {error}"))?;
    println!("copy: {bytes} bytes from {source} to {target}");
    Ok(())
}

/// Gives the number of bytes copied, without the filling.
fn copy(source: &str, target: &str) -> Result<u64> {
    let input = File::open(source)?;
    let size = input.stat()?.size;
    let input = match input.stat()?.kind {
        kind::DISK => File::open_direct(source)?,
        _ => input,
    };
    let output = File::open_direct_writable(target)?;
    if output.stat()?.size < size.next_multiple_of(SECTOR_BYTES as u64) {
        return Err(Errno::ENOSPC);
    }

    let mut buffer = MappingMut::zeroed(BLOCK_BYTES)?;
    for offset in (0..size).step_by(BLOCK_BYTES) {
        let len = (size - offset).min(BLOCK_BYTES as u64) as usize;
        let whole = len.next_multiple_of(SECTOR_BYTES);
        input.pread_exact(&mut buffer[..len], offset)?;
        buffer[len..whole].fill(0);
        output.pwrite_all(&buffer[..whole], offset)?;
    }
    output.fsync()?;
    Ok(size)
}
