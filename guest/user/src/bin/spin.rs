#![no_std]
#![no_main]
//! `spin [MILLISECONDS]`: computes without ever calling the kernel, for that long or for good. Others
//! must get their turn all the same.

extern crate alloc;

use alloc::string::String;
use iolite_user::{Args, Instant, entry, number_argument};

const NS_PER_MS: u64 = 1_000_000;

entry!(main);

fn main(mut args: Args) -> core::result::Result<(), String> {
    let end = match args.next() {
        Some(text) => number_argument("MILLISECONDS", text)?.saturating_mul(NS_PER_MS),
        None => u64::MAX,
    };
    let started = Instant::now();
    while started.elapsed_ns() < end {
        core::hint::spin_loop();
    }
    Ok(())
}
