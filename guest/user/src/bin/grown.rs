#![no_std]
#![no_main]
//! `grown [--served] DISK SEED`: waits until a disk that it has open becomes larger, and checks that
//! every way of reading sees the pattern of `fill` to the new end. `--served` has a block server drive
//! the disk.

extern crate alloc;

use alloc::format;
use alloc::string::String;
use iolite_user::core_logic::{pattern, words};
use iolite_user::{
    Args, AsyncIo, BlockClient, Buffer, Device, Errno, FOREVER, File, Mapping, Passing, Process,
    Result, entry, port, println, sleep,
};

const APART_NS: u64 = 10_000_000;
const BLOCK: usize = 4096;

entry!(main);

fn main(args: Args) -> core::result::Result<(), String> {
    let mut args = args.peekable();
    let served = args.next_if_eq(&"--served").is_some();
    let (Some(disk), Some(seed)) = (args.next(), args.next().and_then(words::number)) else {
        return Err(String::from("usage: grown [--served] DISK SEED"));
    };
    let checked = match served {
        true => through_server(disk, seed),
        false => open(disk, seed),
    };
    checked.map_err(|error| format!("{disk}: {error}"))
}

fn open(path: &str, seed: u64) -> Result<()> {
    let (direct, cached) = (File::open_direct(path)?, File::open_writable(path)?);
    let before = direct.stat()?.size;
    // The end of the disk is in the cache, changed, and mapped.
    let mut block = [0; BLOCK];
    let end = before - 512;
    pattern::fill(&mut block[..512], seed, end);
    cached.pwrite_all(&block[..512], end)?;
    let last_page = end - end % BLOCK as u64;
    let mapping = Mapping::of(&cached, last_page, BLOCK)?;
    mapping.touch(0);
    println!("grown: {before} bytes");

    while direct.stat()?.size == before {
        sleep(APART_NS);
    }
    let size = direct.stat()?.size;
    agrees("mapped before", &mapping, seed, last_page)?;
    let mut io = AsyncIo::new()?;
    for offset in (last_page..size).step_by(BLOCK) {
        let len = (size - offset).min(BLOCK as u64) as usize;
        cached.pread_exact(&mut block[..len], offset)?;
        agrees("cached", &block[..len], seed, offset)?;
        let mut buffer = Buffer::many(1, BLOCK)?.pop().ok_or(Errno::ENOMEM)?;
        direct.pread_exact(&mut buffer[..len], offset)?;
        agrees("direct", &buffer[..len], seed, offset)?;
        io.read(&direct, offset, buffer, len);
        let done = io.wait(1, FOREVER)?.into_iter().next().ok_or(Errno::EIO)?;
        done.result?;
        let buffer = done.buffer.ok_or(Errno::EIO)?;
        agrees("asynchronous", &buffer[..len], seed, offset)?;
    }
    let whole = Mapping::of(&direct, 0, size as usize)?;
    agrees("mapped", &whole, seed, 0)?;
    if direct.pread(&mut block, size)? != 0 {
        return Err(Errno::EINVAL);
    }
    println!("grown: {before} bytes, now {size}: ok");
    Ok(())
}

fn through_server(path: &str, seed: u64) -> Result<()> {
    let device = Device::open(path)?;
    let (listener, connector) = port()?;
    let passing = listener.pass(device.pass(Passing::default()));
    let server = Process::spawn_with("bin/block_server", ["block_server"], &passing)?;
    drop((device, listener));
    let mut client = BlockClient::connect(&connector, 1, BLOCK)?;
    let before = client.info(FOREVER)?.bytes;
    client.read(0, before, 0, 512)?;
    let refused = client.wait(1, FOREVER)?;
    if refused.iter().any(|done| done.result != Err(Errno::ENOSPC)) {
        return Err(Errno::EINVAL);
    }
    println!("grown: {before} bytes");

    while client.info(FOREVER)?.bytes == before {
        sleep(APART_NS);
    }
    let size = client.info(FOREVER)?.bytes;
    let mut block = [0; BLOCK];
    for offset in (before - before % BLOCK as u64..size).step_by(BLOCK) {
        let len = (size - offset).min(BLOCK as u64) as usize;
        client.read(0, offset, 0, len)?;
        for done in client.wait(1, FOREVER)? {
            done.result?;
        }
        client.copy_from(0, &mut block[..len]);
        agrees("served", &block[..len], seed, offset)?;
    }
    drop((client, connector));
    server.wait()?;
    // The kernel has the disk again, and sees what the server saw.
    let kernels = File::open(path)?.stat()?.size;
    println!("grown: {before} bytes, now {size}, then {kernels}: ok");
    Ok(())
}

fn agrees(how: &str, bytes: &[u8], seed: u64, offset: u64) -> Result<()> {
    match pattern::first_difference(bytes, seed, offset) {
        None => Ok(()),
        Some((at, _)) => {
            println!("grown: {how}: wrong at byte {}", offset + at as u64);
            Err(Errno::EIO)
        }
    }
}
