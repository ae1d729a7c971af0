#![no_std]
#![no_main]
//! `fill [--no-sync] DISK SEED [OFFSET LEN]`: writes the pattern of `iolite_guest_core::pattern` to a
//! disk, or to a part of it, and flushes. `verify` checks it, and so can the host.
//!
//! `--no-sync` writes to the page cache, and leaves it to the kernel to write that back: at the latest
//! when the machine stops.

extern crate alloc;

use alloc::string::String;
use iolite_user::core_logic::pattern;
use iolite_user::{Args, Extent, entry, println};

entry!(main);

fn main(args: Args) -> core::result::Result<(), String> {
    let mut args = args.peekable();
    let sync = args.next_if_eq(&"--no-sync").is_none();
    let (extent, seed) = Extent::of_args(args, "fill [--no-sync] DISK SEED [OFFSET LEN]")?;
    let file = match sync {
        true => extent.open_writable()?,
        false => extent.open_cached_writable()?,
    };
    let mut buffer = extent.buffer()?;
    for (offset, len) in extent.blocks() {
        pattern::fill(&mut buffer[..len], seed, offset);
        file.pwrite_all(&buffer[..len], offset)
            .map_err(|error| extent.failed(offset, error))?;
    }
    if sync {
        file.fsync()
            .map_err(|error| extent.failed(extent.offset, error))?;
    }
    let how = if sync {
        "written and flushed"
    } else {
        "written"
    };
    println!("fill: {extent} seed {seed}: {how}");
    Ok(())
}
