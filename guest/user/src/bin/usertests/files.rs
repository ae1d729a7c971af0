//! Reading and writing: positions, ends, offsets and lengths of every kind.

use crate::check::{Check, PAGE, Random, SCRATCH, SECTOR, buffer, disk_holds, equal, holds};
use crate::check::{pattern_of, prepare, refused};
use crate::ensure;
use crate::run::{PROGRAM, Test};
use iolite_user::core_logic::pattern;
use iolite_user::{Errno, File};

pub const TESTS: &[Test] = &[
    Test::plain("file_reads_end_short", file_reads_end_short),
    Test::plain("read_moves_the_position", read_moves_the_position),
    Test::plain("files_cannot_be_written", files_cannot_be_written),
    Test::disk("disk_reads_end_short", disk_reads_end_short),
    Test::disk("disk_writes_end_short", disk_writes_end_short),
    Test::disk("offsets_past_every_end", offsets_past_every_end),
    Test::disk("unaligned_reads", unaligned_reads),
    Test::disk("unaligned_writes", unaligned_writes),
    Test::disk("write_moves_the_position", write_moves_the_position),
    Test::disk("direct_wants_alignment", direct_wants_alignment),
    Test::disk("direct_sectors_and_large_blocks", direct_sizes),
    Test::disk("direct_over_page_borders", direct_over_page_borders),
    Test::disk("whole_disk_in_every_way", whole_disk).slow(),
];

fn file_reads_end_short() -> Check {
    let file = File::open(PROGRAM)?;
    let size = file.stat()?.size;
    let mut bytes = [0; 100];
    equal("before the end", file.pread(&mut bytes, size - 40)?, 40)?;
    equal("at the end", file.pread(&mut bytes, size)?, 0)?;
    equal("past the end", file.pread(&mut bytes, size + 1)?, 0)?;
    equal("far past it", file.pread(&mut bytes, u64::MAX)?, 0)
}

fn read_moves_the_position() -> Check {
    let by_position = File::open(PROGRAM)?;
    let by_offset = File::open(PROGRAM)?;
    let size = by_position.stat()?.size;
    let (mut a, mut b) = (alloc::vec![0; 9001], alloc::vec![0; 9001]);
    let mut at = 0;
    for len in [1, 2, 511, 512, 513, 4095, 4096, 4097, 9001]
        .into_iter()
        .cycle()
    {
        let read = by_position.read(&mut a[..len])?;
        equal("bytes", read, by_offset.pread(&mut b[..len], at)?)?;
        ensure!(a[..read] == b[..read], "bytes differ at {at}");
        at += read as u64;
        if read == 0 {
            break;
        }
    }
    equal("the end", at, size)?;
    equal("after the end", by_position.read(&mut a)?, 0)
}

fn files_cannot_be_written() -> Check {
    let file = File::open(PROGRAM)?;
    refused("write", file.write(b"x"), Errno::EROFS)?;
    refused("pwrite", file.pwrite(b"x", 0), Errno::EROFS)?;
    let disk = File::open("/dev/vda")?;
    refused("pwrite", disk.pwrite(b"x", 0), Errno::EROFS)
}

fn disk_reads_end_short() -> Check {
    let mut block = buffer(8192)?;
    for disk in [File::open(SCRATCH)?, File::open_direct(SCRATCH)?] {
        let size = disk.stat()?.size;
        equal("last sector", disk.pread(&mut block, size - SECTOR)?, 512)?;
        equal("at the end", disk.pread(&mut block, size)?, 0)?;
        equal("past it", disk.pread(&mut block, size + 4096)?, 0)?;
    }
    let disk = File::open(SCRATCH)?;
    let size = disk.stat()?.size;
    equal("last bytes", disk.pread(&mut block, size - 3)?, 3)
}

fn disk_writes_end_short() -> Check {
    let mut block = buffer(8192)?;
    for (disk, seed) in [
        (File::open_writable(SCRATCH)?, 20),
        (File::open_direct_writable(SCRATCH)?, 21),
    ] {
        let last = disk.stat()?.size - SECTOR;
        pattern::fill(&mut block, seed, last);
        equal("last sector", disk.pwrite(&block, last)?, 512)?;
        refused("at the end", disk.pwrite(&block, last + 512), Errno::ENOSPC)?;
        disk_holds(seed, last, SECTOR)?;
    }
    Ok(())
}

fn offsets_past_every_end() -> Check {
    let mut block = buffer(512)?;
    for disk in [
        File::open_writable(SCRATCH)?,
        File::open_direct_writable(SCRATCH)?,
    ] {
        for offset in [1 << 40, 1 << 62, 1 << 63, u64::MAX - 511, !4095] {
            equal("pread", disk.pread(&mut block, offset)?, 0)?;
            refused("pwrite", disk.pwrite(&block, offset), Errno::ENOSPC)?;
        }
    }
    Ok(())
}

fn unaligned_reads() -> Check {
    const LEN: u64 = 64 << 10;
    prepare(22, 0, LEN)?;
    let disk = File::open(SCRATCH)?;
    let mut random = Random::new(22);
    let mut bytes = alloc::vec![0; 3 * PAGE as usize];
    for _ in 0..60 {
        let offset = random.below(LEN - 3 * PAGE);
        let len = 1 + random.below(3 * PAGE - 1) as usize;
        equal("bytes", disk.pread(&mut bytes[..len], offset)?, len)?;
        holds(&bytes[..len], 22, offset)?;
    }
    Ok(())
}

/// Pieces of another pattern are written over the first one: they and nothing else change.
fn unaligned_writes() -> Check {
    const LEN: usize = 64 << 10;
    prepare(23, 0, LEN as u64)?;
    let mut wanted = pattern_of(23, 0, LEN);
    let disk = File::open_writable(SCRATCH)?;
    let mut random = Random::new(23);
    for _ in 0..60 {
        let offset = random.below(LEN as u64 - 3 * PAGE);
        let len = 1 + random.below(3 * PAGE - 1) as usize;
        let piece = pattern_of(24, offset, len);
        disk.pwrite_all(&piece, offset)?;
        wanted[offset as usize..][..len].copy_from_slice(&piece);
    }
    let mut found = buffer(LEN)?;
    disk.pread_exact(&mut found, 0)?;
    ensure!(found[..] == wanted[..], "the cache differs");
    disk.fsync()?;
    File::open_direct(SCRATCH)?.pread_exact(&mut found, 0)?;
    ensure!(found[..] == wanted[..], "the disk differs");
    Ok(())
}

fn write_moves_the_position() -> Check {
    let disk = File::open_writable(SCRATCH)?;
    let bytes = pattern_of(25, 0, 20_000);
    let mut at = 0;
    for len in [1, 511, 4096, 5000, 7, 10_385] {
        equal("bytes", disk.write(&bytes[at..at + len])?, len)?;
        at += len;
    }
    equal("all", at, bytes.len())?;
    let mut found = alloc::vec![0; bytes.len()];
    File::open(SCRATCH)?.pread_exact(&mut found, 0)?;
    holds(&found, 25, 0)?;
    // Reading goes on where writing stopped.
    disk.pwrite_all(b"next", 20_000)?;
    let mut next = [0; 4];
    disk.read(&mut next)?;
    equal("next", &next, b"next")
}

fn direct_wants_alignment() -> Check {
    let disk = File::open_direct_writable(SCRATCH)?;
    let mut block = buffer(4096)?;
    for (start, len, offset) in [
        (0, 511, 0),
        (0, 1, 0),
        (0, 4095, 0),
        (1, 512, 0),
        (256, 512, 0),
        (0, 512, 1),
        (0, 512, 256),
    ] {
        let part = &mut block[start..start + len];
        refused("pread", disk.pread(part, offset), Errno::EINVAL)?;
        refused("pwrite", disk.pwrite(part, offset), Errno::EINVAL)?;
    }
    Ok(())
}

fn direct_sizes() -> Check {
    const LEN: usize = 1 << 20;
    prepare(26, 0, LEN as u64)?;
    let disk = File::open_direct(SCRATCH)?;
    let mut block = buffer(LEN)?;
    for len in [
        512,
        1024,
        4096,
        4096 + 512,
        65_536,
        131_072,
        131_072 + 512,
        LEN,
    ] {
        block.fill(0);
        equal("bytes", disk.pread(&mut block[..len], 0)?, len)?;
        holds(&block[..len], 26, 0)?;
        ensure!(
            block[len..].iter().all(|byte| *byte == 0),
            "more than {len}"
        );
    }
    Ok(())
}

fn direct_over_page_borders() -> Check {
    const LEN: u64 = 64 << 10;
    prepare(27, 0, LEN)?;
    let disk = File::open_direct_writable(SCRATCH)?;
    let mut block = buffer(LEN as usize)?;
    for start in [512, 1024, 3584] {
        for offset in [0, 512, 3584, 8192 - 512] {
            let part = &mut block[start..start + 9 * 512];
            disk.pread_exact(part, offset)?;
            holds(part, 27, offset)?;
            disk.pwrite_all(part, offset)?;
        }
    }
    disk_holds(27, 0, LEN)
}

/// Everything is written in one way and read in another.
fn whole_disk() -> Check {
    let disk = File::open_writable(SCRATCH)?;
    let size = disk.stat()?.size.min(64 << 20);
    let mut block = alloc::vec![0; 10_007];
    for at in (0..size).step_by(block.len()) {
        let len = (size - at).min(block.len() as u64) as usize;
        pattern::fill(&mut block[..len], 28, at);
        disk.pwrite_all(&block[..len], at)?;
    }
    disk.fsync()?;
    disk_holds(28, 0, size)?;
    prepare(29, 0, size)?;
    for at in (0..size).step_by(block.len()) {
        let len = (size - at).min(block.len() as u64) as usize;
        disk.pread_exact(&mut block[..len], at)?;
        holds(&block[..len], 29, at)?;
    }
    Ok(())
}
