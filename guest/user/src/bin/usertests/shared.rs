//! Shared writable mappings: what one writes, all see, and the disk keeps.

use crate::check::{Check, PAGE, SCRATCH, buffer, disk_holds, end_of, equal, holds, pattern_of};
use crate::check::{prepare, start};
use crate::ensure;
use crate::run::Test;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use iolite_user::{Ended, Errno, File, Mapping, SharedMapping};

pub const TESTS: &[Test] = &[
    Test::disk("shared_writes_are_seen_by_reads", seen_by_reads),
    Test::disk("shared_writes_are_seen_by_processes", seen_by_processes),
    Test::disk("processes_add_to_one_word", add_to_one_word),
    Test::disk("msync_is_durable", msync_is_durable),
    Test::disk("munmap_keeps_what_was_written", munmap_keeps),
    Test::disk("write_again_after_msync", write_again),
    Test::disk("more_dirty_pages_than_there_may_be", many_dirty_pages),
];

fn seen_by_reads() -> Check {
    prepare(80, 0, 4 * PAGE)?;
    let disk = File::open_writable(SCRATCH)?;
    let shared = SharedMapping::of(&disk, 0, 4 * PAGE as usize)?;
    let reader = Mapping::of(&disk, 0, 4 * PAGE as usize)?;
    holds(&reader, 80, 0)?;
    shared.write(100, &pattern_of(81, 100, 9000));
    holds(&reader[100..9100], 81, 100)?;
    let mut bytes = buffer(4 * PAGE as usize)?;
    disk.pread_exact(&mut bytes, 0)?;
    holds(&bytes[..100], 80, 0)?;
    holds(&bytes[100..9100], 81, 100)?;
    holds(&bytes[9100..], 80, 9100)?;
    // And the other way round.
    disk.pwrite_all(&pattern_of(82, 0, PAGE as usize), 0)?;
    let mut page = [0; PAGE as usize];
    shared.read(0, &mut page);
    holds(&page, 82, 0)
}

fn seen_by_processes() -> Check {
    prepare(83, 0, 4 * PAGE)?;
    let disk = File::open_writable(SCRATCH)?;
    let reader = Mapping::of(&disk, 0, 4 * PAGE as usize)?;
    holds(&reader, 83, 0)?;
    for (page, seed) in [("0x1000", "84"), ("0x3000", "84")] {
        equal(
            "child",
            end_of("write-shared", &[page, seed])?,
            Ended::Exited(0),
        )?;
    }
    let page = PAGE as usize;
    holds(&reader[..page], 83, 0)?;
    holds(&reader[page..2 * page], 84, PAGE)?;
    holds(&reader[2 * page..3 * page], 83, 2 * PAGE)?;
    holds(&reader[3 * page..], 84, 3 * PAGE)
}

fn add_to_one_word() -> Check {
    let disk = File::open_writable(SCRATCH)?;
    let shared = SharedMapping::of(&disk, 0, PAGE as usize)?;
    shared.word(0).store(0, Ordering::Relaxed);
    let children: Vec<_> = (0..4)
        .map(|_| start("add-shared", &["0", "50"]))
        .collect::<Result<_, Errno>>()?;
    for _ in 0..50 {
        shared.word(0).fetch_add(1, Ordering::Relaxed);
        // Written back in between, which must lose nothing.
        shared.sync()?;
    }
    for child in children {
        equal("child", child.wait()?, Ended::Exited(0))?;
    }
    equal("sum", shared.word(0).load(Ordering::Relaxed), 250)?;
    shared.sync()?;
    let mut sector = buffer(512)?;
    File::open_direct(SCRATCH)?.pread_exact(&mut sector, 0)?;
    equal("on the disk", &sector[..8], &250u64.to_le_bytes())
}

fn msync_is_durable() -> Check {
    const LEN: u64 = 256 << 10;
    prepare(85, 0, LEN)?;
    let disk = File::open_writable(SCRATCH)?;
    let shared = SharedMapping::of(&disk, 0, LEN as usize)?;
    disk.fsync()?;
    disk.reset_stats()?;
    shared.write(0, &pattern_of(86, 0, LEN as usize));
    shared.sync()?;
    let stats = disk.disk_stats()?;
    ensure!(stats.flushes >= 1, "no flush");
    ensure!(stats.written_bytes >= LEN, "{} bytes", stats.written_bytes);
    // The direct read below would write back what is dirty: there is nothing.
    disk.reset_stats()?;
    disk_holds(86, 0, LEN)?;
    equal("writes after msync", disk.disk_stats()?.writes, 0)
}

fn munmap_keeps() -> Check {
    const LEN: u64 = 128 << 10;
    prepare(87, 0, LEN)?;
    let disk = File::open_writable(SCRATCH)?;
    let shared = SharedMapping::of(&disk, 0, LEN as usize)?;
    shared.write(0, &pattern_of(88, 0, LEN as usize));
    drop(shared);
    let mut bytes = buffer(LEN as usize)?;
    disk.pread_exact(&mut bytes, 0)?;
    holds(&bytes, 88, 0)?;
    disk.fsync()?;
    disk_holds(88, 0, LEN)
}

/// A page that has been written back is noticed when it is written again.
fn write_again() -> Check {
    let disk = File::open_writable(SCRATCH)?;
    let shared = SharedMapping::of(&disk, 0, 2 * PAGE as usize)?;
    for seed in 90..100 {
        shared.write(0, &pattern_of(seed, 0, 2 * PAGE as usize));
        shared.sync()?;
        disk_holds(seed, 0, 2 * PAGE)?;
    }
    Ok(())
}

/// The whole disk, or 32 MiB of it, is made dirty faster than it is written.
fn many_dirty_pages() -> Check {
    let disk = File::open_writable(SCRATCH)?;
    let len = disk.stat()?.size.min(32 << 20) & !(PAGE - 1);
    prepare(101, 0, len)?;
    let shared = SharedMapping::of(&disk, 0, len as usize)?;
    for at in (0..len).step_by(PAGE as usize) {
        shared.write(at as usize + 8, &at.to_le_bytes());
    }
    shared.sync()?;
    drop(shared);
    let direct = File::open_direct(SCRATCH)?;
    let mut block = buffer(128 << 10)?;
    for start in (0..len).step_by(block.len()) {
        let part = (len - start).min(block.len() as u64) as usize;
        direct.pread_exact(&mut block[..part], start)?;
        for at in (0..part).step_by(PAGE as usize) {
            let offset = start + at as u64;
            equal("mark", &block[at + 8..at + 16], &offset.to_le_bytes())?;
            holds(&block[at..at + 8], 101, offset)?;
            holds(&block[at + 16..at + PAGE as usize], 101, offset + 16)?;
        }
    }
    Ok(())
}
