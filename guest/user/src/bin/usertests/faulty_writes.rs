//! Disks that fail to write: a sector of `/dev/vdc`, every flush of `/dev/vdd`. Who asks for what he
//! wrote to be durable hears of it, once; what the cache shows afterwards is what the disk holds.
//!
//! Which sector fails is found out by writing back what was read.

use crate::async_errors::{submit, wait};
use crate::check::{Check, FAULTY, Failure, PAGE, SECTOR, UNFLUSHED, buffer, equal, holds};
use crate::check::{pattern_of, refused};
use crate::ensure;
use crate::raw;
use crate::run::Test;
use iolite_user::abi::{FOREVER, IoRequest, io};
use iolite_user::core_logic::pattern;
use iolite_user::{AsyncIo, Errno, File, SharedMapping};

pub const TESTS: &[Test] = &[
    Test::faulty("faulty_direct_write", direct_write),
    Test::faulty("faulty_fsync_says_so_once", fsync_says_so_once),
    Test::faulty("faulty_write_keeps_the_others", keeps_the_others),
    Test::faulty("faulty_msync", msync),
    Test::faulty("faulty_munmap_and_fsync", munmap_and_fsync),
    Test::faulty("faulty_async_write", async_write),
    Test::unflushed("unflushed_fsync", unflushed_fsync),
    Test::unflushed("unflushed_msync", unflushed_msync),
    Test::unflushed("unflushed_async", unflushed_async),
];

/// The first sector that cannot be written, in bytes. Sectors that cannot be read are others.
fn bad_sector() -> Result<u64, Failure> {
    let disk = File::open_direct_writable(FAULTY)?;
    let size = disk.stat()?.size.min(4 << 20);
    let mut page = buffer(PAGE as usize)?;
    for start in (0..size).step_by(PAGE as usize) {
        let len = (size - start).min(PAGE) as usize;
        if disk.pread(&mut page[..len], start) != Ok(len)
            || disk.pwrite(&page[..len], start) == Ok(len)
        {
            continue;
        }
        for at in (0..len).step_by(SECTOR as usize) {
            let sector = &page[at..at + SECTOR as usize];
            match disk.pwrite(sector, start + at as u64) {
                Err(Errno::EIO) => return Ok(start + at as u64),
                other => equal("bytes", other, Ok(SECTOR as usize))?,
            }
        }
    }
    Err(Failure::new(format_args!(
        "no sector of {FAULTY} fails to be written"
    )))
}

fn bad_page() -> Result<u64, Failure> {
    bad_sector().map(|sector| sector & !(PAGE - 1))
}

/// What the disk holds there, read past the cache.
fn on_disk(at: u64) -> Result<[u8; PAGE as usize], Failure> {
    let mut page = buffer(PAGE as usize)?;
    File::open_direct(FAULTY)?.pread_exact(&mut page, at)?;
    let mut bytes = [0; PAGE as usize];
    bytes.copy_from_slice(&page);
    Ok(bytes)
}

fn direct_write() -> Check {
    let bad = bad_sector()?;
    let page = bad & !(PAGE - 1);
    let before = on_disk(page)?;
    let disk = File::open_direct_writable(FAULTY)?;
    let mut sector = buffer(SECTOR as usize)?;
    sector.fill(0x3c);
    for _ in 0..3 {
        refused("the sector", disk.pwrite(&sector, bad), Errno::EIO)?;
    }
    ensure!(on_disk(page)? == before, "something was written");
    disk.fsync()?;
    Ok(())
}

fn fsync_says_so_once() -> Check {
    let bad = bad_page()?;
    let before = on_disk(bad)?;
    let disk = File::open_writable(FAULTY)?;
    disk.fsync()?;
    disk.pwrite_all(&pattern_of(190, bad, PAGE as usize), bad)?;
    refused("fsync", disk.fsync(), Errno::EIO)?;
    equal("fsync again", disk.fsync(), Ok(()))?;
    // What could not be written is not shown as if it had been.
    let mut bytes = [0; PAGE as usize];
    disk.pread_exact(&mut bytes, bad)?;
    ensure!(bytes == before, "the cache shows what the disk has not");
    Ok(())
}

/// The pages after it are written, or not if they were in the request that failed; in any case
/// whole, and the next time for certain.
fn keeps_the_others() -> Check {
    let bad = bad_page()?;
    let disk = File::open_writable(FAULTY)?;
    let end = (bad + 3 * PAGE).min(disk.stat()?.size & !(PAGE - 1));
    disk.fsync()?;
    let others = || (bad + PAGE..end).step_by(PAGE as usize);
    for at in others() {
        disk.pwrite_all(&pattern_of(191, at, PAGE as usize), at)?;
    }
    disk.fsync()?;
    for at in [bad].into_iter().chain(others()) {
        disk.pwrite_all(&pattern_of(192, at, PAGE as usize), at)?;
    }
    refused("fsync", disk.fsync(), Errno::EIO)?;
    for at in others() {
        let bytes = on_disk(at)?;
        if holds(&bytes, 191, at).is_err() {
            holds(&bytes, 192, at)?;
        }
        disk.pwrite_all(&pattern_of(193, at, PAGE as usize), at)?;
    }
    disk.fsync()?;
    for at in others() {
        holds(&on_disk(at)?, 193, at)?;
    }
    Ok(())
}

fn msync() -> Check {
    let bad = bad_page()?;
    let before = on_disk(bad)?;
    let disk = File::open_writable(FAULTY)?;
    disk.fsync()?;
    let shared = SharedMapping::of(&disk, bad, PAGE as usize)?;
    shared.write(0, &pattern_of(193, bad, PAGE as usize));
    refused("msync", shared.sync(), Errno::EIO)?;
    drop(shared);
    ensure!(on_disk(bad)? == before, "something was written");
    equal("fsync", disk.fsync(), Ok(()))
}

fn munmap_and_fsync() -> Check {
    let bad = bad_page()?;
    let disk = File::open_writable(FAULTY)?;
    disk.fsync()?;
    let shared = SharedMapping::of(&disk, bad, PAGE as usize)?;
    shared.write(0, b"never to be seen");
    drop(shared);
    refused("fsync", disk.fsync(), Errno::EIO)
}

fn async_write() -> Check {
    let bad = bad_page()?;
    let disk = File::open_direct_writable(FAULTY)?;
    let size = disk.stat()?.size & !(PAGE - 1);
    let memory = raw::pages(1)?;
    let mut page = [0; PAGE as usize];
    let good = match bad + PAGE < size {
        true => bad + PAGE,
        false => bad - PAGE,
    };
    pattern::fill(&mut page, 194, good);
    memory.write(0, &page);
    let requests = [bad, good, bad, good].map(|offset| IoRequest {
        operation: io::WRITE,
        fd: disk.fd() as u32,
        buf: memory.address,
        len: PAGE,
        offset,
        user_data: offset,
    });
    equal("submitted", submit(&requests)?, 4)?;
    let done = wait(4, 4, FOREVER)?;
    equal("completions", done.len(), 4)?;
    for completion in done {
        let wanted = match completion.user_data == bad {
            true => -(Errno::EIO as i64),
            false => PAGE as i64,
        };
        equal("result", completion.result, wanted)?;
    }
    holds(&on_disk(good)?, 194, good)
}

fn unflushed_fsync() -> Check {
    let disk = File::open_writable(UNFLUSHED)?;
    for seed in 195..198 {
        disk.pwrite_all(&pattern_of(seed, 0, PAGE as usize), 0)?;
        refused("fsync", disk.fsync(), Errno::EIO)?;
        // Written it was, as far as one can know.
        let mut bytes = [0; PAGE as usize];
        disk.pread_exact(&mut bytes, 0)?;
        holds(&bytes, seed, 0)?;
    }
    Ok(())
}

fn unflushed_msync() -> Check {
    let disk = File::open_writable(UNFLUSHED)?;
    let shared = SharedMapping::of(&disk, 0, PAGE as usize)?;
    shared.write(0, b"bytes");
    refused("msync", shared.sync(), Errno::EIO)
}

fn unflushed_async() -> Check {
    let disk = File::open_direct_writable(UNFLUSHED)?;
    let mut aio = AsyncIo::new()?;
    let id = aio.flush(&disk);
    let done = aio.wait(1, FOREVER)?;
    equal("completions", done.len(), 1)?;
    equal("flush", (done[0].id, done[0].result), (id, Err(Errno::EIO)))
}
