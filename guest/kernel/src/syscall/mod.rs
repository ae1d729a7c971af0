//! System calls: from registers to a call, and from its result to a register. What the arguments
//! mean is written in guest/abi.

mod ipc;
mod memory;
mod tasks;

use crate::arch::user_access;
use crate::block;
use crate::fs::file::{self, File};
use crate::fs::{async_io, directory, scan, transfer};
use crate::ipc::events;
use crate::task::{fault, process, scheduler};
use crate::trace;
use iolite_guest_abi::{Errno, Number, PATH_BYTES, stats};

/// Does the system call `number` and gives what goes into `rax`.
#[inline(always)]
pub fn dispatch(number: u64, args: [u64; 5]) -> u64 {
    match call(number, args) {
        Ok(value) => value,
        Err(error) => (-(error as i64)) as u64,
    }
}

#[inline(always)]
fn call(number: u64, [a, b, c, d, e]: [u64; 5]) -> Result<u64, Errno> {
    match Number::from_raw(number).ok_or(Errno::ENOSYS)? {
        Number::Pread => transfer::read_at(a, b, c, d),
        Number::Pwrite => transfer::write_at(a, b, c, d),
        Number::Read => transfer::read(a, b, c),
        Number::Write => transfer::write(a, b, c),
        Number::IoSubmit => async_io::submit(a, b),
        Number::IoWait => async_io::wait(a, b, c, d),
        Number::IoCancel => async_io::cancel(a),
        Number::IoRegister => async_io::register(a, b),
        Number::IoUnregister => async_io::unregister(a),
        Number::Scan => scan::scan(a, b, c, d),
        Number::Fsync => file::sync(a),
        Number::Open => with_path(a, b, |path| file::open(path, c)),
        Number::Close => file::close(a),
        Number::Stat => file::stat(a).and_then(|stat| give(b, &stat)),
        Number::List => {
            let entry = directory::entry(a as usize).ok_or(Errno::ENOENT)?;
            give(b, &entry)
        }
        Number::Mmap => memory::mmap(a, b, c, d, e),
        Number::Munmap => memory::munmap(a, b),
        Number::Msync => memory::msync(a, b),
        Number::Exit => tasks::exit(a),
        Number::ThreadSpawn => tasks::thread_spawn(a, b, c),
        Number::ThreadExit => process::exit_thread(a),
        Number::ThreadJoin => tasks::thread_join(a),
        Number::Yield => {
            scheduler::yield_now();
            Ok(0)
        }
        Number::Sleep => tasks::sleep(a),
        Number::Spawn => tasks::spawn(a, b, c, d, e),
        Number::Wait => tasks::wait(a),
        Number::DiskStats => disk_stats(a, b, c),
        Number::DeviceStart => ipc::device_start(a, b),
        Number::DmaAlloc => ipc::dma_alloc(a, b, c),
        Number::DmaMap => ipc::dma_map(a, b, c, d),
        Number::DmaUnmap => ipc::dma_unmap(a, b),
        Number::PortCreate => ipc::port_create(a),
        Number::Connect => ipc::connect(a, b),
        Number::Accept => ipc::accept(a),
        Number::ChannelNotify => ipc::channel_notify(a),
        Number::WaitEvents => events::wait(a, b, c),
        Number::FaultHandler => fault::set_handler(a),
        Number::FaultUnhandled => fault::unhandled(a),
        Number::TraceRing => trace::lend_ring(),
        Number::CpuStats => give(a, &scheduler::stats()),
        Number::ThreadId => Ok(u64::from(scheduler::current().number())),
        Number::ProcessId => {
            Ok(scheduler::current_process().map_or(0, |id| u64::from(id.number())))
        }
    }
}

fn disk_stats(fd: u64, to: u64, flags: u64) -> Result<u64, Errno> {
    if flags & !stats::RESET != 0 {
        return Err(Errno::EINVAL);
    }
    let file = process::current().files.get(fd)?;
    let disk = match file {
        File::Object(file) => file.extent.disk,
        File::Device(disk) => disk,
        _ => return Err(Errno::ENODEV),
    };
    give(to, &block::stats(disk, flags & stats::RESET != 0))
}

fn give<T: user_access::Plain>(to: u64, value: &T) -> Result<u64, Errno> {
    user_access::write_value(to, value).map(|()| 0)
}

/// Calls `action` with the path of `len` bytes at `address`.
fn with_path<T>(
    address: u64,
    len: u64,
    action: impl FnOnce(&str) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut bytes = [0; PATH_BYTES];
    let bytes = bytes.get_mut(..len as usize).ok_or(Errno::ENOENT)?;
    user_access::read(bytes, address)?;
    action(core::str::from_utf8(bytes).map_err(|_| Errno::ENOENT)?)
}
