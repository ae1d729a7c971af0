//! More pages than the cache has places for: they come and go, and none is wrong. With the cache as
//! large as it is by default the scratch disk may fit into it; `cache=1M` on the kernel's command line
//! makes sure that it does not.

use crate::check::{Check, PAGE, Random, SCRATCH, SECTOR, buffer, disk_holds, equal, holds};
use crate::check::{pattern_of, prepare};
use crate::ensure;
use crate::run::Test;
use alloc::vec::Vec;
use iolite_user::core_logic::pattern;
use iolite_user::{Errno, File, Mapping, MappingMut, SharedMapping, Thread, cpu_stats};

pub const TESTS: &[Test] = &[
    Test::disk("eviction_with_every_page_verified", every_page),
    Test::disk("eviction_of_dirty_pages", dirty_pages),
    Test::disk("eviction_beside_threads", beside_threads).slow(),
    Test::disk("memory_pressure", memory_pressure).slow(),
];

fn size(disk: &File) -> Result<u64, Errno> {
    Ok(disk.stat()?.size.min(64 << 20) & !(PAGE - 1))
}

fn every_page() -> Check {
    let disk = File::open(SCRATCH)?;
    let len = size(&disk)?;
    prepare(130, 0, len)?;
    disk.reset_stats()?;
    let mapping = Mapping::of(&disk, 0, len as usize)?;
    holds(&mapping, 130, 0)?;
    let mut numbers = Random::new(130);
    for _ in 0..500 {
        let at = numbers.below(len / PAGE) * PAGE;
        holds(&mapping[at as usize..(at + PAGE) as usize], 130, at)?;
    }
    holds(&mapping, 130, 0)?;
    let cached = cpu_stats()?.cached_pages;
    let evicted = disk.disk_stats()?.pages_evicted;
    let missing = (len / PAGE).saturating_sub(cached);
    ensure!(
        evicted >= missing,
        "{evicted} pages evicted, {missing} missing"
    );
    Ok(())
}

/// Pages that were written are given up as well, after they were written back.
fn dirty_pages() -> Check {
    let disk = File::open_writable(SCRATCH)?;
    let len = size(&disk)?;
    prepare(131, 0, len)?;
    let shared = SharedMapping::of(&disk, 0, len as usize)?;
    let mut numbers = Random::new(131);
    let mut written = alloc::vec![false; (len / PAGE) as usize];
    for _ in 0..written.len() / 2 {
        let page = numbers.below(len / PAGE);
        written[page as usize] = true;
        let at = page * PAGE;
        shared.write(at as usize, &pattern_of(132, at, SECTOR as usize));
    }
    let mut bytes = [0; SECTOR as usize];
    for (page, written) in written.iter().enumerate() {
        let at = page as u64 * PAGE;
        shared.read(at as usize, &mut bytes);
        holds(&bytes, if *written { 132 } else { 131 }, at)?;
    }
    shared.sync()?;
    let direct = File::open_direct(SCRATCH)?;
    let mut block = buffer(PAGE as usize)?;
    for (page, written) in written.iter().enumerate() {
        let at = page as u64 * PAGE;
        direct.pread_exact(&mut block, at)?;
        let (head, tail) = block.split_at(SECTOR as usize);
        holds(head, if *written { 132 } else { 131 }, at)?;
        holds(tail, 131, at + SECTOR)?;
    }
    Ok(())
}

/// Readers and writers of the same disk, each in a part of its own, by mapping and by call.
fn beside_threads() -> Check {
    const THREADS: u64 = 8;
    let len = (size(&File::open(SCRATCH)?)? / THREADS) & !(PAGE - 1);
    prepare(133, 0, THREADS * len)?;
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            Thread::spawn(move || -> Check {
                let disk = File::open_writable(SCRATCH)?;
                let start = index * len;
                let mut bytes = alloc::vec![0; 10_000];
                let mapping = Mapping::of(&disk, start, len as usize)?;
                for round in 0..3 {
                    let (old, new) = (133 + round, 134 + round);
                    for at in (start..start + len).step_by(bytes.len()) {
                        let part = ((start + len - at) as usize).min(bytes.len());
                        holds(&mapping[(at - start) as usize..][..part], old, at)?;
                        pattern::fill(&mut bytes[..part], new, at);
                        disk.pwrite_all(&bytes[..part], at)?;
                    }
                    holds(&mapping, new, start)?;
                }
                Ok(())
            })
        })
        .collect::<Result<_, Errno>>()?;
    for thread in threads {
        thread.join()??;
    }
    File::open(SCRATCH)?.fsync()?;
    disk_holds(136, 0, THREADS * len)
}

/// Little memory is left beside the cache, and nothing goes wrong.
fn memory_pressure() -> Check {
    let free = cpu_stats()?.free_frames;
    let mut memory = MappingMut::zeroed((free * 3 / 4 * PAGE) as usize)?;
    for at in (0..memory.len()).step_by(PAGE as usize) {
        memory[at] = at as u8 | 1;
    }
    every_page()?;
    for at in (0..memory.len()).step_by(PAGE as usize) {
        equal("byte", memory[at], at as u8 | 1)?;
    }
    Ok(())
}
