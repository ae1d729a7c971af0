//! Addresses that are not the process's to give: every call that takes one refuses them, and nothing
//! happens.

use crate::check::{Check, PAGE, SCRATCH, equal, holds, pattern_of, prepare, refused};
use crate::ensure;
use crate::raw::{self, KERNEL, NOWHERE, UNMAPPED};
use crate::run::{PROGRAM, Test};
use iolite_user::abi::{Number, map, prot};
use iolite_user::{Errno, File};

pub const TESTS: &[Test] = &[
    Test::disk("transfers_to_bad_addresses", transfers_to_bad_addresses),
    Test::disk("lengths_past_the_user_half", lengths_past_the_user_half),
    Test::disk("read_into_read_only_memory", read_into_read_only_memory),
    Test::disk("transfers_over_the_end_of_memory", transfers_over_the_end),
    Test::disk("structures_at_bad_addresses", structures_at_bad_addresses),
    Test::disk("write_from_unmapped_changes_nothing", write_from_unmapped),
    Test::plain("spawn_with_bad_addresses", spawn_with_bad_addresses),
    Test::disk("empty_transfers", empty_transfers),
    Test::disk("buffers_that_are_not_touched_yet", untouched_buffers),
];

/// Addresses that nothing can be read from or written to.
const BAD: [u64; 7] = [0, 8, 4096, UNMAPPED, NOWHERE, KERNEL, u64::MAX - 4095];

fn transfers_to_bad_addresses() -> Check {
    let cached = File::open_writable(SCRATCH)?;
    let direct = File::open_direct_writable(SCRATCH)?;
    for address in BAD {
        for (kind, fd) in [("cached", cached.fd()), ("direct", direct.fd())] {
            for number in [Number::Read, Number::Write, Number::Pread, Number::Pwrite] {
                // Aligned, so that only the address can be wrong.
                let address = address & !511;
                let what = alloc::format!("{kind} {number:?} at {address:#x}");
                refused(
                    &what,
                    raw::call(number, &[fd, address, 512, 0]),
                    Errno::EFAULT,
                )?;
            }
        }
        let to_console = raw::call(Number::Write, &[1, address, 16]);
        refused("console write", to_console, Errno::EFAULT)?;
    }
    Ok(())
}

fn lengths_past_the_user_half() -> Check {
    let disk = File::open_writable(SCRATCH)?;
    let page = raw::pages(1)?.address;
    for len in [u64::MAX, u64::MAX - page, 1 << 63, 1 << 47] {
        for number in [Number::Pread, Number::Pwrite] {
            let result = raw::call(number, &[disk.fd(), page, len, 0]);
            refused("transfer", result, Errno::EFAULT)?;
        }
        let to_console = raw::call(Number::Write, &[1, page, len]);
        refused("console write", to_console, Errno::EFAULT)?;
    }
    Ok(())
}

fn read_into_read_only_memory() -> Check {
    prepare(5, 0, PAGE)?;
    let disk = File::open(SCRATCH)?;
    let direct = File::open_direct(SCRATCH)?;
    let program = File::open(PROGRAM)?;
    let constants = raw::map_pages(program.fd(), 0, 1, prot::READ, map::PRIVATE)?;
    let shared = raw::map_pages(program.fd(), 0, 1, prot::READ, map::SHARED)?;
    let anonymous = raw::map_pages(u64::MAX, 0, 1, prot::READ, map::PRIVATE)?;
    let mut before = [0; 64];
    constants.read(0, &mut before);
    for address in [
        raw::code_address() & !4095,
        constants.address,
        shared.address,
        anonymous.address,
    ] {
        for fd in [disk.fd(), direct.fd()] {
            let read = raw::call(Number::Pread, &[fd, address, 512, 0]);
            refused("pread", read, Errno::EFAULT)?;
        }
    }
    let mut after = [0; 64];
    constants.read(0, &mut after);
    equal("the file", after, before)?;
    // To write from there is all right.
    let writable = File::open_writable(SCRATCH)?;
    raw::call(Number::Pwrite, &[writable.fd(), constants.address, 64, 0])?;
    Ok(())
}

/// Two pages are asked for where one is mapped: an error, or the first page.
fn transfers_over_the_end() -> Check {
    prepare(6, 0, 4 * PAGE)?;
    let cached = File::open_writable(SCRATCH)?;
    let direct = File::open_direct_writable(SCRATCH)?;
    for fd in [cached.fd(), direct.fd()] {
        let pages = raw::pages(2)?;
        pages.unmap(1, 1)?;
        match raw::call(Number::Pread, &[fd, pages.address, 2 * PAGE, 0]) {
            Err(Errno::EFAULT) => {}
            Ok(PAGE) => {
                let mut bytes = [0; PAGE as usize];
                pages.read(0, &mut bytes);
                holds(&bytes, 6, 0)?;
            }
            other => ensure!(false, "pread gave {other:?}"),
        }
        pages.write(0, &pattern_of(6, 0, PAGE as usize));
        match raw::call(Number::Pwrite, &[fd, pages.address, 2 * PAGE, 0]) {
            Err(Errno::EFAULT) | Ok(PAGE) => {}
            other => ensure!(false, "pwrite gave {other:?}"),
        }
        // What was not there to be written has changed nothing.
        let mut bytes = crate::check::buffer(4 * PAGE as usize)?;
        File::open(SCRATCH)?.pread_exact(&mut bytes, 0)?;
        holds(&bytes, 6, 0)?;
    }
    Ok(())
}

fn structures_at_bad_addresses() -> Check {
    let disk = File::open(SCRATCH)?;
    let fd = disk.fd();
    let ends = raw::pages(2)?;
    ends.unmap(1, 1)?;
    let over_the_end = ends.page(1) - 8;
    let code = raw::code_address() & !4095;
    for address in BAD.into_iter().chain([over_the_end, code]) {
        for (number, args) in [
            (Number::Stat, [fd, address, 0]),
            (Number::List, [0, address, 0]),
            (Number::DiskStats, [fd, address, 0]),
            (Number::CpuStats, [address, 0, 0]),
        ] {
            let what = alloc::format!("{number:?} at {address:#x}");
            refused(&what, raw::call(number, &args), Errno::EFAULT)?;
        }
    }
    let bad_flags = raw::call(Number::DiskStats, &[fd, ends.address, 2]);
    refused("unknown flags", bad_flags, Errno::EINVAL)
}

fn write_from_unmapped() -> Check {
    prepare(7, 0, 2 * PAGE)?;
    let disk = File::open_writable(SCRATCH)?;
    for offset in [0, 100, PAGE - 4] {
        let result = raw::call(Number::Pwrite, &[disk.fd(), UNMAPPED, 64, offset]);
        refused("pwrite", result, Errno::EFAULT)?;
    }
    let mut bytes = crate::check::buffer(2 * PAGE as usize)?;
    disk.pread_exact(&mut bytes, 0)?;
    holds(&bytes, 7, 0)
}

fn spawn_with_bad_addresses() -> Check {
    let path = (PROGRAM.as_ptr() as u64, PROGRAM.len() as u64);
    for address in BAD {
        let bad_path = raw::call(Number::Spawn, &[address, 8, path.0, 1]);
        refused("path", bad_path, Errno::EFAULT)?;
        let bad_args = raw::call(Number::Spawn, &[path.0, path.1, address, 8]);
        refused("arguments", bad_args, Errno::EFAULT)?;
    }
    Ok(())
}

/// Nothing is asked for, and nothing happens, wherever the buffer is within the user's half.
fn empty_transfers() -> Check {
    let cached = File::open_writable(SCRATCH)?;
    let direct = File::open_direct_writable(SCRATCH)?;
    let page = raw::pages(1)?.address;
    for fd in [cached.fd(), direct.fd()] {
        for number in [Number::Read, Number::Write, Number::Pread, Number::Pwrite] {
            for offset in [0, 1 << 62] {
                let moved = raw::call(number, &[fd, page, 0, offset])?;
                equal("bytes", moved, 0)?;
            }
        }
    }
    equal("console read", raw::call(Number::Read, &[0, page, 0])?, 0)?;
    equal("console write", raw::call(Number::Write, &[1, page, 0])?, 0)
}

/// Buffers whose pages the kernel has to bring in: zeroes, a private copy, another part of the disk.
fn untouched_buffers() -> Check {
    prepare(8, 0, 4 * PAGE)?;
    prepare(9, 1 << 20, 4 * PAGE)?;
    let cached = File::open_writable(SCRATCH)?;
    let direct = File::open_direct(SCRATCH)?;
    for fd in [cached.fd(), direct.fd()] {
        let rights = prot::READ | prot::WRITE;
        let zeroes = raw::pages(4)?;
        let copies = raw::map_pages(cached.fd(), 1 << 20, 4, rights, map::PRIVATE)?;
        for pages in [zeroes, copies] {
            let read = raw::call(Number::Pread, &[fd, pages.address, 4 * PAGE, 0])?;
            equal("bytes", read, 4 * PAGE)?;
            let mut bytes = [0; 4 * PAGE as usize];
            pages.read(0, &mut bytes);
            holds(&bytes, 8, 0)?;
        }
    }
    // From one part of the disk to another, by mapping and writing.
    let source = raw::map_pages(cached.fd(), 1 << 20, 4, prot::READ, map::SHARED)?;
    let written = raw::call(
        Number::Pwrite,
        &[cached.fd(), source.address, 4 * PAGE, 2 << 20],
    )?;
    equal("bytes", written, 4 * PAGE)?;
    let mut bytes = crate::check::buffer(4 * PAGE as usize)?;
    cached.pread_exact(&mut bytes, 2 << 20)?;
    ensure!(
        bytes[..] == pattern_of(9, 1 << 20, 4 * PAGE as usize)[..],
        "the copy differs"
    );
    Ok(())
}
