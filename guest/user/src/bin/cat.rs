#![no_std]
#![no_main]
//! `cat PATH...`: writes files or disks to the console as they are.

extern crate alloc;

use alloc::format;
use alloc::string::String;
use iolite_user::{Args, File, Result, console, entry};

entry!(main);

fn main(args: Args) -> core::result::Result<(), String> {
    for path in args {
        show(path).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

fn show(path: &str) -> Result<()> {
    let file = File::open(path)?;
    let mut buffer = [0; 4096];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            len => console::write(&buffer[..len]),
        }
    }
}
