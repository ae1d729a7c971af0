#![no_std]
#![no_main]
//! `memory SIZE`: writes to every page of SIZE bytes of new memory (`64M`), and then looks whether each
//! still holds what was written there.

extern crate alloc;

use alloc::format;
use alloc::string::String;
use iolite_user::abi::PAGE_BYTES;
use iolite_user::core_logic::cmdline;
use iolite_user::{Args, MappingMut, entry, println};

entry!(main);

fn main(mut args: Args) -> core::result::Result<(), String> {
    let size = args.next().and_then(cmdline::size).filter(|size| *size > 0);
    let size = size.ok_or_else(|| String::from("usage: memory SIZE, like 64M"))?;
    let memory = MappingMut::zeroed(size as usize);
    let mut memory = memory.map_err(|error| format!("{size} bytes: {error}"))?;
    for (number, page) in memory.chunks_mut(PAGE_BYTES).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            return Err(format!(
                "page {number} of {size} bytes is not zero at first"
            ));
        }
        // At both ends: two pages that are one would differ from either.
        let mark = (number as u64).to_le_bytes();
        let len = mark.len().min(page.len());
        page[..len].copy_from_slice(&mark[..len]);
        let last = page.len() - len;
        page[last..].copy_from_slice(&mark[..len]);
    }
    for (number, page) in memory.chunks(PAGE_BYTES).enumerate() {
        let mark = (number as u64).to_le_bytes();
        let len = mark.len().min(page.len());
        if page[..len] != mark[..len] || page[page.len() - len..] != mark[..len] {
            return Err(format!("page {number} of {size} bytes has changed"));
        }
    }
    println!("memory: {size} bytes: ok");
    Ok(())
}
