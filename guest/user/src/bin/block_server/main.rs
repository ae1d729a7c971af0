#![no_std]
#![no_main]
//! `block_server [--crash-after N]`: owns a disk and serves it to other processes, as the part of a
//! microkernel would that is called the disk driver. It is started with two descriptors: the disk's
//! device as 3, and the side of a port that accepts as 4.
//!
//! One thread, and nothing that blocks but the wait for events: an interrupt of the device, a client
//! that has submitted, a client that connects, a client that went. In between, requests go from the
//! clients' rings to the device's as long as it has room, a few of each client in turn, and their
//! completions back, in whatever order they come. The device reads and writes the memory that a
//! client shares with the server: no byte is copied here.
//!
//! It ends when nobody is connected and nobody can connect any more. `--crash-after N` ends the process the hard way when it has been asked for N requests, with those
//! before it in flight: what the kernel and the clients make of that is for tests to see.

extern crate alloc;

mod client;
mod server;

use iolite_user::core_logic::words;
use iolite_user::{Args, Device, Listener, entry, println};
use server::Server;

const DEVICE: u64 = 3;
const PORT: u64 = 4;
const USAGE: &str = "usage: block_server [--crash-after N], started with the device of a disk as \
                     descriptor 3 and the accepting side of a port as 4";

entry!(main);

fn main(mut args: Args) -> u8 {
    let crash_after = match (args.next(), args.next(), args.next()) {
        (None, ..) => None,
        (Some("--crash-after"), Some(count), None) if words::number(count).is_some() => {
            words::number(count)
        }
        _ => {
            println!("{USAGE}");
            return 2;
        }
    };
    let disk = match Device::from_fd(DEVICE).drive() {
        Ok(disk) => disk,
        Err(error) => {
            println!("block_server: descriptor 3 cannot be driven: {error}");
            println!("{USAGE}");
            return 2;
        }
    };
    match Server::new(disk, Listener::from_fd(PORT), crash_after).run() {
        Ok(()) => 0,
        Err(error) => {
            println!("block_server: {error}");
            1
        }
    }
}
