//! The page cache and direct access show one disk.

use crate::check::{Check, PAGE, SCRATCH, buffer, disk_holds, equal, holds, pattern_of, prepare};
use crate::ensure;
use crate::run::Test;
use iolite_user::core_logic::pattern;
use iolite_user::{File, Mapping, MappingMut, cpu_stats, sleep};

pub const TESTS: &[Test] = &[
    Test::disk(
        "direct_read_sees_cached_write",
        direct_read_sees_cached_write,
    ),
    Test::disk(
        "cached_read_sees_direct_write",
        cached_read_sees_direct_write,
    ),
    Test::disk("mapping_sees_cached_write", mapping_sees_cached_write),
    Test::disk("mapping_sees_direct_write", mapping_sees_direct_write),
    Test::disk(
        "fsync_writes_back_and_flushes",
        fsync_writes_back_and_flushes,
    ),
    Test::disk("cached_reads_read_once", cached_reads_read_once),
    Test::disk("private_mapping_keeps_its_copies", private_keeps_its_copies),
    Test::disk("flusher_writes_back_in_time", flusher_writes_back),
];

const LEN: u64 = 64 << 10;

fn direct_read_sees_cached_write() -> Check {
    prepare(30, 0, LEN)?;
    let disk = File::open_writable(SCRATCH)?;
    disk.pwrite_all(&pattern_of(31, 0, LEN as usize), 0)?;
    disk_holds(31, 0, LEN)?;
    // A few bytes in the middle of a page count as much.
    disk.pwrite_all(b"middle", 10_000)?;
    let mut sector = buffer(512)?;
    File::open_direct(SCRATCH)?.pread_exact(&mut sector, 10_000 & !511)?;
    equal("bytes", &sector[10_000 % 512..][..6], b"middle")
}

fn cached_read_sees_direct_write() -> Check {
    prepare(32, 0, LEN)?;
    let disk = File::open(SCRATCH)?;
    let mut bytes = buffer(LEN as usize)?;
    for seed in 33..38 {
        disk.pread_exact(&mut bytes, 0)?;
        holds(&bytes, seed - 1, 0)?;
        prepare(seed, 0, LEN)?;
    }
    // One sector of a cached page.
    disk.pread_exact(&mut bytes, 0)?;
    prepare(50, 4096 + 512, 512)?;
    disk.pread_exact(&mut bytes, 0)?;
    holds(&bytes[..4096 + 512], 37, 0)?;
    holds(&bytes[4096 + 512..4096 + 1024], 50, 4096 + 512)?;
    holds(&bytes[4096 + 1024..], 37, 4096 + 1024)
}

fn mapping_sees_cached_write() -> Check {
    prepare(38, 0, LEN)?;
    let disk = File::open_writable(SCRATCH)?;
    let mapping = Mapping::of(&disk, 0, LEN as usize)?;
    holds(&mapping, 38, 0)?;
    disk.pwrite_all(&pattern_of(39, 100, 9000), 100)?;
    holds(&mapping[..100], 38, 0)?;
    holds(&mapping[100..9100], 39, 100)?;
    holds(&mapping[9100..], 38, 9100)
}

fn mapping_sees_direct_write() -> Check {
    prepare(40, 0, LEN)?;
    let disk = File::open(SCRATCH)?;
    let mapping = Mapping::of(&disk, 0, LEN as usize)?;
    for seed in 41..45 {
        holds(&mapping, seed - 1, 0)?;
        prepare(seed, 0, LEN)?;
    }
    holds(&mapping, 44, 0)
}

fn fsync_writes_back_and_flushes() -> Check {
    prepare(45, 0, LEN)?;
    let disk = File::open_writable(SCRATCH)?;
    disk.fsync()?;
    disk.reset_stats()?;
    disk.pwrite_all(&pattern_of(46, 0, LEN as usize), 0)?;
    disk.fsync()?;
    let stats = disk.disk_stats()?;
    ensure!(stats.flushes >= 1, "no flush");
    equal("bytes written", stats.written_bytes, LEN)?;
    equal("pages", stats.pages_written_back, LEN / PAGE)?;
    ensure!(stats.writes <= LEN / PAGE, "{} writes", stats.writes);
    disk.reset_stats()?;
    disk_holds(46, 0, LEN)?;
    // Nothing is left to be written.
    disk.fsync()?;
    equal("writes", disk.disk_stats()?.writes, 0)
}

fn cached_reads_read_once() -> Check {
    prepare(47, 0, LEN)?;
    let disk = File::open(SCRATCH)?;
    let mut bytes = buffer(LEN as usize)?;
    disk.pread_exact(&mut bytes, 0)?;
    disk.reset_stats()?;
    for _ in 0..3 {
        disk.pread_exact(&mut bytes, 0)?;
        holds(&bytes, 47, 0)?;
    }
    equal("reads", disk.disk_stats()?.reads, 0)
}

fn private_keeps_its_copies() -> Check {
    prepare(48, 0, 2 * PAGE)?;
    let disk = File::open_writable(SCRATCH)?;
    let mut copy = MappingMut::private(&disk, 0, 2 * PAGE as usize)?;
    pattern::fill(&mut copy[..PAGE as usize], 49, 0);
    disk.pwrite_all(&pattern_of(51, 0, PAGE as usize), 0)?;
    holds(&copy[..PAGE as usize], 49, 0)?;
    holds(&copy[PAGE as usize..], 48, PAGE)?;
    let mut bytes = buffer(PAGE as usize)?;
    disk.pread_exact(&mut bytes, 0)?;
    holds(&bytes, 51, 0)?;
    drop(copy);
    disk.fsync()?;
    disk_holds(51, 0, PAGE)
}

/// Who never asks for it gets his bytes to the disk as well.
fn flusher_writes_back() -> Check {
    prepare(52, 0, LEN)?;
    let disk = File::open_writable(SCRATCH)?;
    disk.fsync()?;
    disk.reset_stats()?;
    disk.pwrite_all(&pattern_of(53, 0, LEN as usize), 0)?;
    for _ in 0..100 {
        if disk.disk_stats()?.pages_written_back == LEN / PAGE {
            break;
        }
        sleep(100_000_000);
    }
    equal(
        "pages written back",
        disk.disk_stats()?.pages_written_back,
        LEN / PAGE,
    )?;
    equal("dirty pages", cpu_stats()?.dirty_pages, 0)
}
