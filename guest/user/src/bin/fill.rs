#![no_std]
#![no_main]
//! `fill [--no-sync | --map] DISK SEED [OFFSET LEN]`: writes the pattern of `iolite_guest_core::pattern` to a
//! disk, or to a part of it, and flushes. `verify` checks it, and so can the host.
//!
//! `--no-sync` writes to the page cache, and leaves it to the kernel to write that back: at the latest
//! when the machine stops. `--map` does the same through a mapping of the disk.

extern crate alloc;

use alloc::string::String;
use iolite_user::core_logic::pattern;
use iolite_user::{Args, Extent, SharedMapping, entry, println};

entry!(main);

fn main(args: Args) -> core::result::Result<(), String> {
    let mut args = args.peekable();
    let map = args.next_if_eq(&"--map").is_some();
    let sync = !map && args.next_if_eq(&"--no-sync").is_none();
    let usage = "fill [--no-sync | --map] DISK SEED [OFFSET LEN]";
    let (extent, seed) = Extent::of_args(args, usage)?;
    let file = match sync {
        true => extent.open_writable()?,
        false => extent.open_cached_writable()?,
    };
    let mut buffer = extent.buffer()?;
    let end = extent.offset + extent.len;
    let mapping = match map {
        true => Some(SharedMapping::of(&file, 0, end as usize)),
        false => None,
    };
    let mapping = mapping.transpose();
    let mapping = mapping.map_err(|error| extent.failed(extent.offset, error))?;
    for (offset, len) in extent.blocks() {
        pattern::fill(&mut buffer[..len], seed, offset);
        if let Some(mapping) = &mapping {
            mapping.write(offset as usize, &buffer[..len]);
            continue;
        }
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
