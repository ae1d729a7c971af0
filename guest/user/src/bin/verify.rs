#![no_std]
#![no_main]
//! `verify DISK SEED [OFFSET LEN]`: checks that a disk, or a part of it, holds what `fill` writes.

extern crate alloc;

use alloc::format;
use alloc::string::String;
use iolite_user::core_logic::pattern;
use iolite_user::{Args, Extent, entry, println};

entry!(main);

fn main(args: Args) -> core::result::Result<(), String> {
    let (extent, seed) = Extent::of_args(args, "verify DISK SEED [OFFSET LEN]")?;
    let file = extent.open()?;
    let mut buffer = extent.buffer()?;
    for (offset, len) in extent.blocks() {
        let block = &mut buffer[..len];
        file.pread_exact(block, offset)
            .map_err(|error| extent.failed(offset, error))?;
        if let Some((at, expected)) = pattern::first_difference(block, seed, offset) {
            let found = block[at];
            return Err(format!(
                "{extent} seed {seed}: wrong at byte {}: 0x{found:02x} instead of 0x{expected:02x}",
                offset + at as u64,
            ));
        }
    }
    println!("verify: {extent} seed {seed}: ok");
    Ok(())
}
