#![no_std]
#![no_main]
//! `bench DISK [queues=N] [neighbour=DISK]`: drives a disk from ring 3 as fast as it goes, by up to N
//! queues, and measures. The program owns the device: its registers, the memory that it reads and
//! writes, its interrupt; between two requests the kernel has nothing to do. A neighbour is kept busy
//! meanwhile.
//!
//! What to measure is typed on the console, a line for each cell of a matrix, and answered by a line
//! (guest/core, `bench`). The host does this: `iolite bench`.

extern crate alloc;

mod blocks;
mod failure;
mod load;
mod neighbour;
mod span;

use alloc::boxed::Box;
use alloc::string::String;
use iolite_user::core_logic::bench::{Cell, MAX_QUEUES};
use iolite_user::{Args, Device, Errno, Result, console, entry, println};
use load::Load;
use neighbour::Neighbour;

/// Longest line of the host's in bytes.
const LINE_BYTES: usize = 255;

entry!(main);

fn main(args: Args) -> u8 {
    let Some(options) = Options::parse(args) else {
        println!("usage: bench DISK [queues=1 to {MAX_QUEUES}] [neighbour=DISK]");
        return 2;
    };
    match serve(&options) {
        Ok(()) => 0,
        Err(error) => {
            println!("bench: failed error={error}");
            1
        }
    }
}

/// What the command line chooses.
struct Options {
    disk: &'static str,
    queues: usize,
    neighbour: Option<&'static str>,
}

impl Options {
    fn parse(mut args: Args) -> Option<Options> {
        let mut options = Options {
            disk: args.next()?,
            queues: 1,
            neighbour: None,
        };
        for arg in args {
            match arg.split_once('=')? {
                ("queues", count) => options.queues = count.parse().ok()?,
                ("neighbour", disk) => options.neighbour = Some(disk),
                _ => return None,
            }
        }
        (1..=MAX_QUEUES)
            .contains(&options.queues)
            .then_some(options)
    }
}

/// Measures one cell after the other until the input ends.
fn serve(options: &Options) -> failure::Result<()> {
    let disk = Device::open(options.disk)?.drive_queues(options.queues)?;
    let neighbour = match options.neighbour {
        Some(path) => Some(Neighbour::new(Device::open(path)?.drive()?)?),
        None => None,
    };
    let mut load = Box::new(Load::new(disk, neighbour));
    let ready = load.ready();
    println!("{ready}");
    while let Some(line) = read_line()? {
        let cell = Cell::parse(&line).filter(|cell| ready.has_room_for(cell));
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
