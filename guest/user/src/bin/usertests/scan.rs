//! `scan`: the kernel reads for itself, and hands the pages over.

use crate::check::{Check, PAGE, SCRATCH, equal, holds, pattern_of, prepare, refused};
use crate::ensure;
use crate::raw::{self, KERNEL, UNMAPPED};
use crate::run::{PROGRAM, Test};
use iolite_user::abi::{Number, map, prot};
use iolite_user::{Errno, File, MappingMut};

pub const TESTS: &[Test] = &[
    Test::disk("scan_reads_what_is_there", reads_what_is_there),
    Test::disk("scan_ends_short", ends_short),
    Test::disk("scan_wrong_arguments", wrong_arguments),
    Test::disk("scan_sees_cached_writes", sees_cached_writes),
];

fn reads_what_is_there() -> Check {
    const LEN: usize = 256 << 10;
    prepare(140, 0, LEN as u64)?;
    let disk = File::open(SCRATCH)?;
    let mut memory = MappingMut::zeroed(LEN)?;
    disk.reset_stats()?;
    for len in [PAGE as usize, 64 << 10, LEN] {
        // Pages that were touched before, and some that were not.
        memory[..len / 2].fill(0xee);
        equal("bytes", memory.scan(&disk, 0, len)?, len)?;
        holds(&memory[..len], 140, 0)?;
    }
    equal("in flight", disk.disk_stats()?.max_in_flight, 1)?;
    // The pages are this process's own.
    memory.fill(1);
    equal("bytes", memory.scan(&disk, PAGE, LEN / 2)?, LEN / 2)?;
    holds(&memory[..LEN / 2], 140, PAGE)
}

fn ends_short() -> Check {
    let disk = File::open(SCRATCH)?;
    let size = disk.stat()?.size;
    let last = (size - 1) & !(PAGE - 1);
    let mut memory = MappingMut::zeroed(64 << 10)?;
    let wanted = (size - last) as usize;
    equal("at the end", memory.scan(&disk, last, 64 << 10)?, wanted)?;
    let past = size.next_multiple_of(PAGE);
    equal("past it", memory.scan(&disk, past, 4096)?, 0)?;
    equal("far past it", memory.scan(&disk, 1 << 62, 4096)?, 0)?;
    equal("nothing", memory.scan(&disk, 0, 0)?, 0)
}

fn wrong_arguments() -> Check {
    let disk = File::open(SCRATCH)?;
    let program = File::open(PROGRAM)?;
    let fd = disk.fd();
    let good = raw::pages(4)?;
    let read_only = raw::map_pages(u64::MAX, 0, 1, prot::READ, map::PRIVATE)?;
    let of_a_file = raw::map_pages(program.fd(), 0, 1, prot::READ, map::SHARED)?;
    let scan = |buf: u64, len: u64, offset: u64| raw::call(Number::Scan, &[fd, buf, len, offset]);
    refused("buffer", scan(good.address + 512, PAGE, 0), Errno::EINVAL)?;
    refused("offset", scan(good.address, PAGE, 512), Errno::EINVAL)?;
    for buf in [0, UNMAPPED, KERNEL & !4095, raw::NOWHERE] {
        refused("address", scan(buf, PAGE, 0), Errno::EFAULT)?;
    }
    for buf in [
        read_only.address,
        of_a_file.address,
        raw::code_address() & !4095,
    ] {
        let result = scan(buf, PAGE, 0);
        ensure!(
            matches!(result, Err(Errno::EFAULT | Errno::EINVAL)),
            "into {buf:#x}: {result:?}"
        );
    }
    // More than there is: the part that fits, or an error.
    match scan(good.page(2), 4 * PAGE, 0) {
        Ok(bytes) => ensure!(bytes == 2 * PAGE, "{bytes} bytes into two pages"),
        Err(error) => equal("error", error, Errno::EFAULT)?,
    }
    equal("magic", raw::peek(of_a_file.address), 0x7f)
}

fn sees_cached_writes() -> Check {
    prepare(141, 0, 4 * PAGE)?;
    let disk = File::open_writable(SCRATCH)?;
    disk.pwrite_all(&pattern_of(142, PAGE, PAGE as usize), PAGE)?;
    let mut memory = MappingMut::zeroed(4 * PAGE as usize)?;
    memory.scan(&disk, 0, 4 * PAGE as usize)?;
    let page = PAGE as usize;
    holds(&memory[..page], 141, 0)?;
    holds(&memory[page..2 * page], 142, PAGE)?;
    holds(&memory[2 * page..], 141, 2 * PAGE)
}
