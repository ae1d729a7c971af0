//! Devices, ports, channels.

use crate::arch::user_access;
use crate::block::{DiskId, lent};
use crate::fs::file::{File, Files};
use crate::ipc::{channel, port};
use crate::task::process;
use iolite_guest_abi::Errno;

#[inline(never)]
pub fn device_start(fd: u64, to: u64) -> Result<u64, Errno> {
    let grant = lent::start(device(fd)?)?;
    user_access::write_value(to, &grant).map(|()| 0)
}

#[inline(never)]
pub fn dma_alloc(fd: u64, bytes: u64, to: u64) -> Result<u64, Errno> {
    user_access::check_range(to, size_of::<u64>() as u64)?;
    let (address, physical) = lent::alloc(device(fd)?, bytes)?;
    user_access::write_value(to, &physical).map(|()| address)
}

#[inline(never)]
pub fn dma_map(fd: u64, address: u64, bytes: u64, to: u64) -> Result<u64, Errno> {
    lent::map(device(fd)?, address, bytes, |physical| {
        user_access::write_values(to, physical)
    })
}

#[inline(never)]
pub fn dma_unmap(fd: u64, address: u64) -> Result<u64, Errno> {
    lent::unmap(device(fd)?, address)
}

#[inline(never)]
pub fn port_create(to: u64) -> Result<u64, Errno> {
    user_access::check_range(to, size_of::<[u32; 2]>() as u64)?;
    let (accepting, connecting) = port::new()?;
    let first = add(File::Port(accepting)).inspect_err(|_| connecting.release())?;
    let second = match add(File::Port(connecting)) {
        Ok(fd) => fd,
        Err(error) => {
            crate::fs::file::close(first)?;
            return Err(error);
        }
    };
    user_access::write_value(to, &[first as u32, second as u32]).map(|()| 0)
}

#[inline(never)]
pub fn connect(fd: u64, bytes: u64) -> Result<u64, Errno> {
    let port = port(fd)?;
    if !process::current().files.has_room() {
        return Err(Errno::EMFILE);
    }
    let channel = port.connect(bytes)?;
    add(File::Channel(channel))
}

#[inline(never)]
pub fn accept(fd: u64) -> Result<u64, Errno> {
    let port = port(fd)?;
    if !process::current().files.has_room() {
        // The channel stays where it is.
        return Err(Errno::EMFILE);
    }
    add(File::Channel(port.accept()?))
}

#[inline(never)]
pub fn channel_notify(fd: u64) -> Result<u64, Errno> {
    channel(fd)?.notify()
}

/// Adds a descriptor for what has been counted for it, and lets go of that if there is no room.
fn add(file: File) -> Result<u64, Errno> {
    let added = process::current().files.add(file);
    added.inspect_err(|_| file.release())
}

fn device(fd: u64) -> Result<DiskId, Errno> {
    match get(fd)? {
        File::Device(disk) => Ok(disk),
        _ => Err(Errno::ENODEV),
    }
}

fn port(fd: u64) -> Result<port::End, Errno> {
    match get(fd)? {
        File::Port(end) => Ok(end),
        _ => Err(Errno::ENODEV),
    }
}

fn channel(fd: u64) -> Result<channel::End, Errno> {
    match get(fd)? {
        File::Channel(end) => Ok(end),
        _ => Err(Errno::ENODEV),
    }
}

fn get(fd: u64) -> Result<File, Errno> {
    let process = process::current();
    let files: &Files = &process.files;
    files.get(fd)
}
