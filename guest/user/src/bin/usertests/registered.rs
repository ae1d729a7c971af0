//! Registered buffers: what may be registered, what requests may name, and who holds the memory.

use crate::async_errors::{submit, wait};
use crate::check::{
    Check, PAGE, SCRATCH, disk_holds, end_of, equal, holds, pattern_of, prepare, refused,
};
use crate::ensure;
use crate::raw::{self, Pages};
use crate::run::Test;
use alloc::vec;
use alloc::vec::Vec;
use iolite_user::abi::{
    FOREVER, IoRequest, MAX_IO_BUFFER_BYTES, MAX_IO_BUFFERS, Number, io, map, prot,
};
use iolite_user::{Ended, Errno, File, Result};

pub const TESTS: &[Test] = &[
    Test::disk("registered_reads_and_writes", reads_and_writes),
    Test::disk("registered_wrong_memory", wrong_memory),
    Test::plain("registered_wrong_numbers", wrong_numbers),
    Test::disk("registered_wrong_requests", wrong_requests),
    // Named by who has a slow disk for it: a fast one is done before it can be seen to be busy.
    Test::disk("registered_busy_while_in_flight", busy_in_flight).slow(),
    Test::disk(
        "registered_memory_outlives_its_mapping",
        outlives_its_mapping,
    ),
    Test::disk("registered_exit_in_flight", exit),
];

fn register(address: u64, len: u64) -> Result<u64> {
    raw::call(Number::IoRegister, &[address, len])
}

fn unregister(buffer: u64) -> Result<u64> {
    raw::call(Number::IoUnregister, &[buffer])
}

fn register_pages(pages: &Pages) -> Result<u64> {
    register(pages.address, pages.len as u64)
}

/// `operation` between `len` bytes at `at` of a buffer and the disk at `offset`.
fn request(disk: &File, operation: u32, buffer: u64, at: u64, len: u64, offset: u64) -> IoRequest {
    IoRequest {
        operation: io::in_buffer(operation, buffer as u16),
        fd: disk.fd() as u32,
        buf: at,
        len,
        offset,
        user_data: offset,
    }
}

/// Submits requests, and waits for all of them to succeed.
fn do_all(requests: &[IoRequest]) -> Check {
    let count = requests.len();
    equal("submitted", submit(requests)?, count as u64)?;
    for done in wait(count, count, FOREVER)? {
        let request = requests.iter().find(|one| one.user_data == done.user_data);
        let len = request.ok_or(Errno::ENOENT)?.len;
        equal("result", done.result, len as i64)?;
    }
    Ok(())
}

/// Sectors, whole pages, and runs over several pages.
const PARTS: [(u64, u64); 5] = [
    (0, PAGE),
    (PAGE, 512),
    (PAGE + 512, 1024),
    (2 * PAGE, 3 * PAGE),
    (5 * PAGE + 512, 2 * PAGE + 512),
];

fn reads_and_writes() -> Check {
    prepare(300, 0, 16 * PAGE)?;
    let disk = File::open_direct_writable(SCRATCH)?;
    let pages = raw::pages(8)?;
    let buffer = register_pages(&pages)?;
    let parts = |operation, shift| {
        PARTS.map(|(at, len)| request(&disk, operation, buffer, at, len, at + shift))
    };
    do_all(&parts(io::READ, 0))?;
    for (at, len) in PARTS {
        let mut bytes = vec![0; len as usize];
        pages.read(at as usize, &mut bytes);
        holds(&bytes, 300, at)?;
    }
    pages.write(0, &pattern_of(301, 8 * PAGE, pages.len));
    do_all(&parts(io::WRITE, 8 * PAGE))?;
    for (at, len) in PARTS {
        disk_holds(301, 8 * PAGE + at, len)?;
    }
    unregister(buffer).map(drop)?;
    Ok(())
}

fn wrong_memory() -> Check {
    let pages = raw::pages(4)?;
    let disk = File::open_writable(SCRATCH)?;
    let rw = prot::READ | prot::WRITE;
    let cached = raw::map_pages(disk.fd(), 0, 1, rw, map::SHARED)?;
    let copied = raw::map_pages(disk.fd(), 0, 1, rw, map::PRIVATE)?;
    let (address, len) = (pages.address, pages.len as u64);
    for (what, address, len, wanted) in [
        ("nothing", address, 0, Errno::EINVAL),
        ("a part of a page", address, 512, Errno::EINVAL),
        ("an odd address", address + 512, PAGE, Errno::EINVAL),
        (
            "too much",
            address,
            MAX_IO_BUFFER_BYTES + PAGE,
            Errno::EINVAL,
        ),
        ("all there is", address, !(PAGE - 1), Errno::EINVAL),
        ("more than is mapped", address, len + PAGE, Errno::EFAULT),
        ("page 0", 0, PAGE, Errno::EFAULT),
        ("the kernel", raw::KERNEL & !(PAGE - 1), PAGE, Errno::EFAULT),
        ("the last page", !(PAGE - 1), 2 * PAGE, Errno::EFAULT),
        (
            "text",
            raw::code_address() & !(PAGE - 1),
            PAGE,
            Errno::EFAULT,
        ),
        ("a page of the cache", cached.address, PAGE, Errno::EFAULT),
        ("a page to be copied", copied.address, PAGE, Errno::EFAULT),
    ] {
        refused(what, register(address, len), wanted)?;
    }
    Ok(())
}

fn wrong_numbers() -> Check {
    let pages = raw::pages(1)?;
    for number in [0, 1, MAX_IO_BUFFERS as u64 + 1, 1 << 16 | 1, u64::MAX] {
        refused("none", unregister(number), Errno::EINVAL)?;
    }
    let all: Result<Vec<u64>> = (0..MAX_IO_BUFFERS)
        .map(|_| register_pages(&pages))
        .collect();
    let all = all?;
    refused("one more", register_pages(&pages), Errno::ENOMEM)?;
    unregister(all[3]).map(drop)?;
    refused("once more", unregister(all[3]), Errno::EINVAL)?;
    equal("its number", register_pages(&pages)?, all[3])
}

fn wrong_requests() -> Check {
    let disk = File::open_direct_writable(SCRATCH)?;
    let buffer = register_pages(&raw::pages(2)?)?;
    let size = disk.stat()?.size;
    let good = request(&disk, io::READ, buffer, 0, PAGE, 0);
    for (what, wrong, wanted) in [
        (
            "no buffer",
            request(&disk, io::READ, buffer + 1, 0, PAGE, 0),
            Errno::EINVAL,
        ),
        (
            "no number",
            request(&disk, io::READ, 0xffff, 0, PAGE, 0),
            Errno::EINVAL,
        ),
        (
            "operation",
            request(&disk, 7, buffer, 0, PAGE, 0),
            Errno::EINVAL,
        ),
        (
            "flush",
            request(&disk, io::FLUSH, buffer, 0, 0, 0),
            Errno::EINVAL,
        ),
        (
            "past it",
            IoRequest {
                buf: 2 * PAGE,
                ..good
            },
            Errno::EFAULT,
        ),
        (
            "over its end",
            IoRequest {
                buf: PAGE,
                len: 2 * PAGE,
                ..good
            },
            Errno::EFAULT,
        ),
        (
            "far past it",
            IoRequest { buf: !511, ..good },
            Errno::EFAULT,
        ),
        ("odd", IoRequest { buf: 100, ..good }, Errno::EINVAL),
        ("empty", IoRequest { len: 0, ..good }, Errno::EINVAL),
        (
            "far too long",
            IoRequest { len: !511, ..good },
            Errno::EINVAL,
        ),
        (
            "the disk's end",
            IoRequest {
                offset: size,
                ..good
            },
            Errno::ENOSPC,
        ),
    ] {
        refused(what, submit(&[wrong]), wanted)?;
        // In the middle of a run it ends the run.
        equal("submitted", submit(&[good, good, wrong, good])?, 2)?;
        equal("came", wait(2, 2, FOREVER)?.len(), 2)?;
    }
    // A buffer is its process's own.
    equal("a child", end_of("use-buffer", &["1"])?, Ended::Exited(0))
}

/// The role: has no buffer of this number.
pub fn use_buffer(buffer: u64) -> Result<u8> {
    let disk = File::open_direct(SCRATCH)?;
    let submitted = submit(&[request(&disk, io::READ, buffer, 0, PAGE, 0)]);
    let both = (submitted, unregister(buffer));
    Ok(u8::from(both != (Err(Errno::EINVAL), Err(Errno::EINVAL))))
}

/// So many requests of four pages that some wait for room in the disk's queue.
fn many(disk: &File, buffer: u64) -> Vec<IoRequest> {
    (0..400)
        .map(|index| request(disk, io::READ, buffer, 0, 4 * PAGE, index * 4 * PAGE))
        .collect()
}

/// A request that is on its way keeps its buffer, and no other. A disk may be quicker than the next
/// system call, but not always.
fn busy_in_flight() -> Check {
    const LEN: u64 = 32 * PAGE;
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages(32)?;
    for _ in 0..200 {
        let buffers = [register_pages(&memory)?, register_pages(&memory)?];
        let read = request(&disk, io::READ, buffers[0], 0, LEN, 0);
        equal("submitted", submit(&[read])?, 1)?;
        let unregistered = unregister(buffers[0]);
        unregister(buffers[1]).map(drop)?;
        equal("result", wait(1, 1, FOREVER)?[0].result, LEN as i64)?;
        if unregistered.is_err() {
            refused("in flight", unregistered, Errno::EBUSY)?;
            unregister(buffers[0]).map(drop)?;
            return refused("gone", submit(&[read]), Errno::EINVAL).map(drop);
        }
    }
    ensure!(false, "never busy");
    Ok(())
}

/// The device writes to memory that nobody else has got, mapped or not.
fn outlives_its_mapping() -> Check {
    prepare(302, 0, 8 * PAGE)?;
    let disk = File::open_direct_writable(SCRATCH)?;
    let pages = raw::pages(4)?;
    let buffer = register_pages(&pages)?;
    pages.unmap(0, 4)?;
    let others = raw::pages(64)?;
    (0..64).for_each(|index| raw::poke(others.page(index), 0x77));
    do_all(&[request(&disk, io::READ, buffer, 0, 4 * PAGE, 0)])?;
    do_all(&[request(&disk, io::WRITE, buffer, 0, 4 * PAGE, 4 * PAGE)])?;
    let mut bytes = vec![0; 4 * PAGE as usize];
    File::open(SCRATCH)?.pread_exact(&mut bytes, 4 * PAGE)?;
    holds(&bytes, 302, 0)?;
    for index in 0..64 {
        equal("byte", raw::peek(others.page(index)), 0x77)?;
    }
    Ok(())
}

/// What it held and what was in flight is gone with the process: the harness looks.
fn exit() -> Check {
    equal("ended", end_of("registered-exit", &[])?, Ended::Exited(0))
}

/// The role: ends with requests in flight and others that wait.
pub fn exit_in_flight() -> Result<u8> {
    let disk = File::open_direct(SCRATCH)?;
    let buffer = register_pages(&raw::pages(4)?)?;
    let requests = many(&disk, buffer);
    let submitted = submit(&requests)?;
    // Where ring 0 is slow these may all have ended by now; one more will not have.
    Ok(u8::from(submitted + submit(&requests[..1])? != 401))
}
