#![no_std]
#![no_main]
//! `bench DISK`: drives a disk from ring 3 as fast as it goes, and measures. The program owns the
//! device: its registers, the memory that it reads and writes, its interrupt; between two requests
//! the kernel has nothing to do.
//!
//! What to measure is typed on the console, a line for each cell of a matrix, and answered by a line
//! (guest/core, `bench`). The host does this: `iolite bench`.

extern crate alloc;

mod blocks;
mod load;

use alloc::boxed::Box;
use alloc::string::String;
use iolite_user::core_logic::bench::{Cell, MAX_DEPTH};
use iolite_user::{Args, Device, Errno, Result, console, entry, println};
use load::{Failure, Load};

/// Longest line of the host's in bytes.
const LINE_BYTES: usize = 255;

entry!(main);

fn main(mut args: Args) -> u8 {
    let (Some(path), None) = (args.next(), args.next()) else {
        println!("usage: bench DISK");
        return 2;
    };
    match serve(path) {
        Ok(()) => 0,
        Err(error) => {
            println!("bench: failed error={error}");
            1
        }
    }
}

/// Measures one cell after the other until the input ends.
fn serve(path: &str) -> core::result::Result<(), Failure> {
    let mut load = Box::new(Load::new(Device::open(path)?.drive()?));
    let info = *load.info();
    let most = usize::from(info.max_in_flight).min(MAX_DEPTH);
    println!("bench: ready sectors={} max_depth={most}", info.sectors);
    while let Some(line) = read_line()? {
        let cell = Cell::parse(&line).filter(|cell| cell.depth <= most);
        let measured = load.run(&cell.ok_or(Errno::EINVAL)?)?;
        println!("{measured}");
    }
    Ok(())
}

/// The next line; None at the end of the input. The host sends a line and waits, so that nothing
/// comes behind it.
fn read_line() -> Result<Option<String>> {
    let mut line = String::new();
    let mut piece = [0; 64];
    loop {
        let len = console::read(&mut piece)?;
        if len == 0 || line.len() > LINE_BYTES {
            return Ok(None);
        }
        for &byte in &piece[..len] {
            match byte {
                b'\r' | b'\n' => return Ok(Some(line)),
                byte => line.push(char::from(byte)),
            }
        }
    }
}
