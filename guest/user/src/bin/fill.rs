#![no_std]
#![no_main]
//! `fill DISK SEED [OFFSET LEN]`: writes the pattern of `iolite_guest_core::pattern` to a disk, or to
//! a part of it, and flushes. `verify` checks it, and so can the host.

extern crate alloc;

use alloc::string::String;
use iolite_user::core_logic::pattern;
use iolite_user::{Args, Extent, entry, println};

entry!(main);

fn main(args: Args) -> core::result::Result<(), String> {
    let (extent, seed) = Extent::of_args(args, "fill DISK SEED [OFFSET LEN]")?;
    let file = extent.open_writable()?;
    let mut buffer = extent.buffer()?;
    for (offset, len) in extent.blocks() {
        pattern::fill(&mut buffer[..len], seed, offset);
        file.pwrite_all(&buffer[..len], offset)
            .map_err(|error| extent.failed(offset, error))?;
    }
    file.fsync()
        .map_err(|error| extent.failed(extent.offset, error))?;
    println!("fill: {extent} seed {seed}: written and flushed");
    Ok(())
}
