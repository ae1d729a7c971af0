//! The system-call gate: the only place where a program traps into the kernel.
//!
//! `int 0x80` with the number in `rax` and arguments in `rdi`, `rsi`, `rdx`, `r10`, `r8`; the result
//! comes back in `rax`; the registers that a call may change are gone (iolite-guest-abi).
#![allow(unsafe_code)]

use crate::Result;
use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;
use iolite_guest_abi::{
    DeviceGrant, Errno, Event, IoCompletion, IoRequest, Number, PAGE_BYTES, SpawnOptions,
};

/// The lowest result that is a negated error number.
const FIRST_ERROR: i64 = -4095;

/// Traps into the kernel.
///
/// # Safety
///
/// Addresses among `args` are those of memory that the call may read or write in the way, and for as
/// long as, its description in [`Number`] says.
pub unsafe fn syscall(number: Number, args: [u64; 5]) -> Result<u64> {
    let result: i64;
    // SAFETY: the gate keeps what a call keeps; the caller answers for what the system call touches.
    unsafe {
        asm!(
            "int 0x80",
            inlateout("rax") number as u64 => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
            lateout("rcx") _,
            lateout("r9") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    match result {
        FIRST_ERROR..0 => Err(Errno::from_raw(-result as i32).unwrap_or(Errno::ENOSYS)),
        value => Ok(value as u64),
    }
}

/// A call that takes no addresses and ends nothing, so that any arguments are sound.
macro_rules! plain {
    ($number:ident $(, $arg:expr)*) => {{
        #[allow(unused_mut)]
        let mut args = [0u64; 5];
        let values: &[u64] = &[$($arg),*];
        args[..values.len()].copy_from_slice(values);
        // SAFETY: the call takes no addresses.
        unsafe { syscall(Number::$number, args) }
    }};
}

/// Ends the process.
pub fn exit(status: u8) -> ! {
    let _ = plain!(Exit, u64::from(status));
    unreachable!("exit does not return")
}

pub fn close(fd: u64) -> Result<()> {
    plain!(Close, fd).map(drop)
}

pub fn fsync(fd: u64) -> Result<()> {
    plain!(Fsync, fd).map(drop)
}

pub fn sleep(nanoseconds: u64) -> Result<()> {
    plain!(Sleep, nanoseconds).map(drop)
}

pub fn yield_now() {
    let _ = plain!(Yield);
}

pub fn thread_exit(status: u64) -> ! {
    let _ = plain!(ThreadExit, status);
    unreachable!("thread_exit does not return")
}

pub fn thread_join(thread: u64) -> Result<u64> {
    plain!(ThreadJoin, thread)
}

pub fn wait(process: u64) -> Result<u64> {
    plain!(Wait, process)
}

pub fn read(fd: u64, buffer: &mut [u8]) -> Result<usize> {
    let args = [fd, buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0];
    // SAFETY: the kernel writes into this buffer only, and before the call returns.
    unsafe { syscall(Number::Read, args) }.map(|bytes| bytes as usize)
}

pub fn write(fd: u64, bytes: &[u8]) -> Result<usize> {
    let args = [fd, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0];
    // SAFETY: the kernel reads from these bytes only, and before the call returns.
    unsafe { syscall(Number::Write, args) }.map(|bytes| bytes as usize)
}

pub fn pread(fd: u64, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let args = [
        fd,
        buffer.as_mut_ptr() as u64,
        buffer.len() as u64,
        offset,
        0,
    ];
    // SAFETY: the kernel writes into this buffer only, and before the call returns.
    unsafe { syscall(Number::Pread, args) }.map(|bytes| bytes as usize)
}

pub fn pwrite(fd: u64, bytes: &[u8], offset: u64) -> Result<usize> {
    let args = [fd, bytes.as_ptr() as u64, bytes.len() as u64, offset, 0];
    // SAFETY: the kernel reads from these bytes only, and before the call returns.
    unsafe { syscall(Number::Pwrite, args) }.map(|bytes| bytes as usize)
}

pub fn open(path: &str, flags: u64) -> Result<u64> {
    let args = [path.as_ptr() as u64, path.len() as u64, flags, 0, 0];
    // SAFETY: the kernel reads from the path only, and before the call returns.
    unsafe { syscall(Number::Open, args) }
}

pub fn spawn(path: &str, args: &[u8], options: &SpawnOptions) -> Result<u64> {
    let args = [
        path.as_ptr() as u64,
        path.len() as u64,
        args.as_ptr() as u64,
        args.len() as u64,
        core::ptr::from_ref(options) as u64,
    ];
    // SAFETY: the kernel reads from these three only, and before the call returns.
    unsafe { syscall(Number::Spawn, args) }
}

/// Starts requests.
///
/// # Safety
///
/// The buffers of `requests` are as the request says, until each one's completion: memory that the
/// device may read, or that it may write and that nobody else looks at.
pub unsafe fn io_submit(requests: &[IoRequest]) -> Result<usize> {
    let args = [requests.as_ptr() as u64, requests.len() as u64, 0, 0, 0];
    // SAFETY: the kernel reads the requests before the call returns; the caller answers for what
    // they say.
    unsafe { syscall(Number::IoSubmit, args) }.map(|count| count as usize)
}

/// Registers memory as a buffer for requests, and gives its number.
///
/// # Safety
///
/// A request may have the device write there, as long as the buffer is registered.
pub unsafe fn io_register(address: u64, bytes: usize) -> Result<u16> {
    // SAFETY: the call itself changes no memory; the caller answers for the requests.
    unsafe { syscall(Number::IoRegister, [address, bytes as u64, 0, 0, 0]) }.map(|n| n as u16)
}

pub fn io_unregister(buffer: u16) -> Result<()> {
    plain!(IoUnregister, u64::from(buffer)).map(drop)
}

pub fn io_wait(to: &mut [IoCompletion], min: usize, timeout_ns: u64) -> Result<usize> {
    let (at, max) = (to.as_mut_ptr() as u64, to.len() as u64);
    // SAFETY: the kernel writes completions into this slice only, and before the call returns.
    unsafe { syscall(Number::IoWait, [at, max, min as u64, timeout_ns, 0]) }
        .map(|count| count as usize)
}

pub fn io_cancel(user_data: u64) -> Result<()> {
    plain!(IoCancel, user_data).map(drop)
}

/// The address of the ring.
pub fn trace_ring() -> Result<u64> {
    // Another one than other calls: only the kernel knows where there is room.
    plain!(TraceRing)
}

pub fn device_start(fd: u64) -> Result<DeviceGrant> {
    fill(Number::DeviceStart, fd, 0)
}

/// The address of the memory, and its physical one.
pub fn dma_alloc(fd: u64, bytes: usize) -> Result<(u64, u64)> {
    let mut physical = 0u64;
    // SAFETY: the kernel writes a word there, before the call returns, and maps new memory.
    let address = unsafe {
        let to = &raw mut physical as u64;
        syscall(Number::DmaAlloc, [fd, bytes as u64, to, 0, 0])
    }?;
    Ok((address, physical))
}

/// The physical addresses of the `bytes` bytes of pages at `address`, one for each.
pub fn dma_map(fd: u64, address: u64, bytes: usize) -> Result<Vec<u64>> {
    let mut physical = vec![0; bytes / PAGE_BYTES];
    let to = physical.as_mut_ptr() as u64;
    // SAFETY: the kernel writes a word for each page there, and before the call returns. What the
    // device does with the pages is the driver's to answer for.
    unsafe { syscall(Number::DmaMap, [fd, address, bytes as u64, to, 0]) }?;
    Ok(physical)
}

pub fn dma_unmap(fd: u64, address: u64) -> Result<()> {
    plain!(DmaUnmap, fd, address).map(drop)
}

pub fn port_create() -> Result<[u32; 2]> {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two numbers there, and before the call returns.
    unsafe { syscall(Number::PortCreate, [fds.as_mut_ptr() as u64, 0, 0, 0, 0]) }?;
    Ok(fds)
}

pub fn connect(port: u64, bytes: usize) -> Result<u64> {
    plain!(Connect, port, bytes as u64)
}

pub fn accept(port: u64) -> Result<u64> {
    plain!(Accept, port)
}

pub fn channel_notify(channel: u64) -> Result<()> {
    plain!(ChannelNotify, channel).map(drop)
}

pub fn wait_events(events: &mut [Event], timeout_ns: u64) -> Result<usize> {
    let (at, count) = (events.as_mut_ptr() as u64, events.len() as u64);
    // SAFETY: the kernel reads and writes these events only, and before the call returns.
    unsafe { syscall(Number::WaitEvents, [at, count, timeout_ns, 0, 0]) }.map(|n| n as usize)
}

/// A call whose second argument is where the kernel puts a structure of the ABI, for which any bit
/// pattern is valid.
fn fill<T: Default>(number: Number, first: u64, third: u64) -> Result<T> {
    let mut value = T::default();
    // SAFETY: the kernel writes a `T` there, and before the call returns.
    unsafe { syscall(number, [first, &raw mut value as u64, third, 0, 0]) }?;
    Ok(value)
}

pub fn stat(fd: u64) -> Result<iolite_guest_abi::Stat> {
    fill(Number::Stat, fd, 0)
}

pub fn list(index: u64) -> Result<iolite_guest_abi::DirEntry> {
    fill(Number::List, index, 0)
}

pub fn disk_stats(fd: u64, flags: u64) -> Result<iolite_guest_abi::DiskStats> {
    fill(Number::DiskStats, fd, flags)
}

pub fn cpu_stats() -> Result<iolite_guest_abi::CpuStats> {
    let mut value = iolite_guest_abi::CpuStats::default();
    // SAFETY: the kernel writes a `CpuStats` there, and before the call returns.
    unsafe { syscall(Number::CpuStats, [&raw mut value as u64, 0, 0, 0, 0]) }?;
    Ok(value)
}
