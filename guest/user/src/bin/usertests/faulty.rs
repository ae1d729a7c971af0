//! A disk with sectors that cannot be read, `/dev/vdc`: the error reaches those who asked for these sectors,
//! all of them and nobody else, and no stale byte takes the place of a missing one.
//!
//! Which sectors fail is found out by reading them; at least one of the first 4 MiB has to, and
//! its neighbouring pages must not.

use crate::async_errors::{submit, wait};
use crate::check::{Check, FAULTY, Failure, PAGE, SECTOR, buffer, end_of, equal, refused, start};
use crate::ensure;
use crate::raw;
use crate::run::Test;
use alloc::vec::Vec;
use iolite_user::abi::{FOREVER, IoRequest, io};
use iolite_user::{Ended, Errno, Fault, File, Mapping, MappingMut, Result};

pub const TESTS: &[Test] = &[
    Test::faulty("faulty_direct_read", direct_read),
    Test::faulty("faulty_cached_read", cached_read),
    Test::faulty("faulty_write_into_a_page", write_into_a_page),
    Test::faulty("faulty_page_kills_who_touches_it", kills),
    Test::faulty("faulty_page_kills_all_who_touch_it", kills_all),
    Test::faulty("faulty_page_beside_good_ones", beside_good_ones),
    Test::faulty("faulty_buffer_of_a_system_call", buffer_of_a_call),
    Test::faulty("faulty_async_read", async_read),
    Test::faulty("faulty_scan", scan),
];

/// The first sector that fails, in bytes.
fn bad_sector() -> core::result::Result<u64, Failure> {
    const BLOCK: u64 = 64 << 10;
    let disk = File::open_direct(FAULTY)?;
    let size = disk.stat()?.size.min(4 << 20);
    let mut block = buffer(BLOCK as usize)?;
    for start in (0..size).step_by(BLOCK as usize) {
        let len = (size - start).min(BLOCK);
        let read = disk.pread(&mut block[..len as usize], start);
        if read == Ok(len as usize) {
            continue;
        }
        for at in (start..start + len).step_by(SECTOR as usize) {
            match disk.pread(&mut block[..SECTOR as usize], at) {
                Err(Errno::EIO) => return Ok(at),
                other => equal("bytes", other, Ok(SECTOR as usize))?,
            }
        }
    }
    Err(Failure::new(format_args!("no sector of {FAULTY} fails")))
}

fn bad_page() -> core::result::Result<u64, Failure> {
    bad_sector().map(|sector| sector & !(PAGE - 1))
}

fn direct_read() -> Check {
    let bad = bad_sector()?;
    let disk = File::open_direct(FAULTY)?;
    disk.reset_stats()?;
    let mut block = buffer(4096)?;
    for _ in 0..3 {
        let read = disk.pread(&mut block[..512], bad);
        refused("the sector", read, Errno::EIO)?;
    }
    if bad >= SECTOR {
        equal("before", disk.pread(&mut block[..512], bad - SECTOR)?, 512)?;
    }
    ensure!(disk.disk_stats()?.errors >= 3, "errors are not counted");
    Ok(())
}

fn cached_read() -> Check {
    let bad = bad_page()?;
    let disk = File::open(FAULTY)?;
    let mut bytes = [0; 64];
    for at in [bad, bad + 1, bad + PAGE - 64, bad] {
        refused("the page", disk.pread(&mut bytes, at), Errno::EIO)?;
    }
    if bad >= PAGE {
        // Up to the page, and no further.
        equal("before it", disk.pread(&mut bytes, bad - 32)?, 32)?;
        equal("the page before", disk.pread(&mut bytes, bad - PAGE)?, 64)?;
    }
    Ok(())
}

/// A part of a page cannot be written when the rest of it cannot be read.
fn write_into_a_page() -> Check {
    let bad = bad_page()?;
    let disk = File::open_writable(FAULTY)?;
    refused("pwrite", disk.pwrite(b"some bytes", bad + 5), Errno::EIO)?;
    disk.fsync()?;
    Ok(())
}

/// The role: maps the page at `at` and touches it.
pub fn touch(at: u64) -> Result<u8> {
    let disk = File::open(FAULTY)?;
    let mapping = Mapping::of(&disk, at, PAGE as usize)?;
    mapping.touch(17);
    Ok(0)
}

fn kills() -> Check {
    let bad = bad_page()?;
    let text = alloc::format!("{bad}");
    for _ in 0..3 {
        let ended = end_of("touch-faulty", &[&text])?;
        equal("ended", ended, Ended::Killed(Fault::Io))?;
    }
    Ok(())
}

fn kills_all() -> Check {
    let text = alloc::format!("{}", bad_page()?);
    let children: Vec<_> = (0..20)
        .map(|_| start("touch-faulty", &[&text]))
        .collect::<Result<_>>()?;
    for child in children {
        equal("ended", child.wait()?, Ended::Killed(Fault::Io))?;
    }
    Ok(())
}

/// Read-ahead may run into the bad page: who does not touch it does not notice.
fn beside_good_ones() -> Check {
    let bad = bad_page()?;
    let disk = File::open(FAULTY)?;
    let size = disk.stat()?.size & !(PAGE - 1);
    if bad > 0 {
        let before = Mapping::of(&disk, 0, bad as usize)?;
        let sum: u64 = before.iter().map(|byte| u64::from(*byte)).sum();
        core::hint::black_box(sum);
        // All of it in one mapping, up to the page.
        let all = Mapping::of(&disk, 0, size as usize)?;
        for at in (0..bad).step_by(PAGE as usize) {
            all.touch(at as usize);
        }
    }
    Ok(())
}

/// The kernel cannot bring in the page that a buffer lies in.
fn buffer_of_a_call() -> Check {
    use iolite_user::abi::{Number, map, prot};
    let bad = bad_page()?;
    let disk = File::open(FAULTY)?;
    let page = raw::map_pages(disk.fd(), bad, 1, prot::READ, map::SHARED)?;
    let write = raw::call(Number::Write, &[1, page.address, 16]);
    ensure!(
        matches!(write, Err(Errno::EIO | Errno::EFAULT)),
        "write from it gave {write:?}"
    );
    Ok(())
}

fn async_read() -> Check {
    const AROUND: u64 = 8;
    let bad = bad_page()?;
    let disk = File::open_direct(FAULTY)?;
    let last = disk.stat()?.size / PAGE;
    let first = (bad / PAGE).saturating_sub(AROUND);
    let pages: Vec<u64> = (first..(first + 2 * AROUND).min(last)).collect();
    let memory = raw::pages(pages.len())?;
    let requests: Vec<_> = pages
        .iter()
        .enumerate()
        .map(|(index, page)| IoRequest {
            operation: io::READ,
            fd: disk.fd() as u32,
            buf: memory.page(index),
            len: PAGE,
            offset: page * PAGE,
            user_data: page * PAGE,
        })
        .collect();
    equal("submitted", submit(&requests)?, pages.len() as u64)?;
    let done = wait(pages.len(), pages.len(), FOREVER)?;
    equal("completions", done.len(), pages.len())?;
    let mut failed = 0;
    for completion in done {
        match completion.result {
            result if result == PAGE as i64 => {
                ensure!(completion.user_data != bad, "the page was read");
            }
            result => {
                equal("result", result, -(Errno::EIO as i64))?;
                failed += 1;
            }
        }
    }
    ensure!(failed >= 1, "no read failed");
    Ok(())
}

fn scan() -> Check {
    let bad = bad_page()?;
    let disk = File::open(FAULTY)?;
    let mut memory = MappingMut::zeroed(64 << 10)?;
    refused("scan", memory.scan(&disk, bad, PAGE as usize), Errno::EIO)?;
    if bad >= PAGE {
        let before = memory.scan(&disk, bad - PAGE, 2 * PAGE as usize)?;
        equal("up to the page", before, PAGE as usize)?;
    }
    Ok(())
}
