//! Asynchronous I/O: what is submitted completes, once, with the right bytes.

use crate::check::{Check, PAGE, Random, SCRATCH, buffer, disk_holds, equal, holds, pattern_of};
use crate::check::{prepare, refused};
use crate::ensure;
use crate::run::Test;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use iolite_user::core_logic::pattern;
use iolite_user::{AsyncIo, Buffer, Completed, Errno, FOREVER, File, Result, Sha256, Thread};

pub const TESTS: &[Test] = &[
    Test::disk("async_reads_and_writes", reads_and_writes),
    Test::disk("async_256_in_flight", many_in_flight),
    Test::disk("async_sizes_up_to_the_largest", sizes),
    Test::disk("async_flush", flush),
    Test::disk("async_wait_for_some", wait_for_some),
    Test::disk("async_poll", poll),
    Test::disk("async_timeouts", timeouts),
    Test::disk("async_and_the_page_cache", page_cache),
    Test::disk("async_beside_blocking_threads", beside_threads),
    Test::disk("async_on_two_disks", two_disks),
    Test::disk("async_work_overlaps", work_overlaps),
    Test::disk("async_random_reads_and_writes", random).slow(),
];

/// Waits for all that is on its way, every one of which has to be good.
fn all(io: &mut AsyncIo) -> core::result::Result<Vec<Completed>, crate::check::Failure> {
    let pending = io.pending();
    let done = io.wait(pending, FOREVER)?;
    equal("completions", done.len(), pending)?;
    equal("still on their way", io.pending(), 0)?;
    for completed in &done {
        let _: usize = completed.result?;
    }
    Ok(done)
}

fn reads_and_writes() -> Check {
    const COUNT: usize = 32;
    prepare(150, 0, COUNT as u64 * PAGE)?;
    let disk = File::open_direct_writable(SCRATCH)?;
    let mut io = AsyncIo::new()?;
    let mut places = BTreeMap::new();
    for (index, buffer) in Buffer::many(COUNT, PAGE as usize)?.into_iter().enumerate() {
        let at = index as u64 * PAGE;
        let id = io.read(&disk, at, buffer, PAGE as usize);
        places.insert(id.number(), at);
    }
    let mut again = BTreeMap::new();
    for done in all(&mut io)? {
        let at = places.remove(&done.id.number()).ok_or(Errno::ENOENT)?;
        let mut buffer = done.buffer.ok_or(Errno::EFAULT)?;
        holds(&buffer, 150, at)?;
        pattern::fill(&mut buffer, 151, at);
        again.insert(at, buffer);
    }
    for (at, buffer) in again {
        io.write(&disk, at, buffer, PAGE as usize);
    }
    for done in all(&mut io)? {
        equal("bytes", done.result, Ok(PAGE as usize))?;
    }
    disk_holds(151, 0, COUNT as u64 * PAGE)
}

fn many_in_flight() -> Check {
    const COUNT: usize = 256;
    prepare(152, 0, COUNT as u64 * PAGE)?;
    let disk = File::open_direct(SCRATCH)?;
    disk.reset_stats()?;
    let mut io = AsyncIo::new()?;
    let mut places = BTreeMap::new();
    for (index, buffer) in Buffer::many(COUNT, PAGE as usize)?.into_iter().enumerate() {
        // From the last to the first: nobody may count on the order.
        let at = (COUNT - 1 - index) as u64 * PAGE;
        places.insert(io.read(&disk, at, buffer, PAGE as usize).number(), at);
    }
    io.submit();
    equal("on their way", io.pending(), COUNT)?;
    for done in all(&mut io)? {
        let at = places.remove(&done.id.number()).ok_or(Errno::ENOENT)?;
        holds(&done.buffer.ok_or(Errno::EFAULT)?, 152, at)?;
    }
    let stats = disk.disk_stats()?;
    equal("reads", stats.reads, COUNT as u64)?;
    ensure!(
        stats.max_in_flight >= 16,
        "{} in flight",
        stats.max_in_flight
    );
    Ok(())
}

fn sizes() -> Check {
    const MOST: usize = iolite_user::abi::MAX_IO_BYTES as usize;
    prepare(153, 0, 2 * MOST as u64)?;
    let disk = File::open_direct(SCRATCH)?;
    let mut io = AsyncIo::new()?;
    let mut wanted = BTreeMap::new();
    let sizes = [512, 1024, 3584, 4096, 4608, 65_536, MOST - 512, MOST];
    for (index, buffer) in Buffer::many(sizes.len(), MOST)?.into_iter().enumerate() {
        let at = index as u64 * 512;
        let id = io.read(&disk, at, buffer, sizes[index]);
        wanted.insert(id.number(), (at, sizes[index]));
    }
    for done in all(&mut io)? {
        let (at, len) = wanted.remove(&done.id.number()).ok_or(Errno::ENOENT)?;
        equal("bytes", done.result, Ok(len))?;
        let buffer = done.buffer.ok_or(Errno::EFAULT)?;
        holds(&buffer[..len], 153, at)?;
        ensure!(
            buffer[len..].iter().all(|byte| *byte == 0),
            "more than {len}"
        );
    }
    Ok(())
}

fn flush() -> Check {
    let disk = File::open_direct_writable(SCRATCH)?;
    disk.reset_stats()?;
    let mut io = AsyncIo::new()?;
    let mut block = buffer(4096)?;
    pattern::fill(&mut block, 154, 0);
    io.write(&disk, 0, block, 4096);
    all(&mut io)?;
    let id = io.flush(&disk);
    let done = all(&mut io)?;
    equal("flushes", done.len(), 1)?;
    equal("id", done[0].id, id)?;
    equal("result", done[0].result, Ok(0))?;
    ensure!(done[0].buffer.is_none(), "a flush with a buffer");
    equal("counted", disk.disk_stats()?.flushes, 1)?;
    disk_holds(154, 0, 4096)
}

fn wait_for_some() -> Check {
    const COUNT: usize = 40;
    let disk = File::open_direct(SCRATCH)?;
    let mut io = AsyncIo::new()?;
    for (index, buffer) in Buffer::many(COUNT, 4096)?.into_iter().enumerate() {
        io.read(&disk, index as u64 * PAGE, buffer, 4096);
    }
    let mut left = COUNT;
    for min in [1, 5, 10, 1] {
        let done = io.wait(min, FOREVER)?.len();
        ensure!(done >= min.min(left), "{done} completions, not {min}");
        left -= done;
        equal("pending", io.pending(), left)?;
    }
    equal("the rest", io.wait(COUNT, FOREVER)?.len(), left)
}

fn poll() -> Check {
    let disk = File::open_direct(SCRATCH)?;
    let mut io = AsyncIo::new()?;
    equal("nothing", io.wait(0, FOREVER)?.len(), 0)?;
    for buffer in Buffer::many(8, 4096)? {
        io.read(&disk, 0, buffer, 4096);
    }
    io.submit();
    let (mut done, mut polls) = (0, 0u64);
    while done < 8 {
        done += io.wait(0, 0)?.len();
        polls += 1;
        ensure!(polls < 10_000_000, "{done} of 8 after {polls} polls");
    }
    equal("nothing is left", io.wait(0, 0)?.len(), 0)
}

fn timeouts() -> Check {
    const COUNT: usize = 64;
    const LEN: usize = 64 << 10;
    let disk = File::open_direct(SCRATCH)?;
    let mut io = AsyncIo::new()?;
    for (index, buffer) in Buffer::many(COUNT, LEN)?.into_iter().enumerate() {
        io.read(&disk, (index * LEN) as u64, buffer, LEN);
    }
    io.submit();
    let mut done = 0;
    let mut too_late = 0;
    while done < COUNT {
        // In a nanosecond hardly anything happens: there is nothing, or less than was asked for.
        match io.wait(COUNT, 1) {
            Ok(completed) => done += completed.len(),
            Err(Errno::ETIMEDOUT) => too_late += 1,
            Err(error) => return Err(error.into()),
        }
        ensure!(too_late < 10_000_000, "{done} completions");
    }
    equal("completions", done, COUNT)
}

fn page_cache() -> Check {
    const LEN: usize = 16 << 10;
    prepare(155, 0, LEN as u64)?;
    let cached = File::open_writable(SCRATCH)?;
    let disk = File::open_direct_writable(SCRATCH)?;
    let mut io = AsyncIo::new()?;
    // A write through the cache is seen by an asynchronous read.
    cached.pwrite_all(&pattern_of(156, 0, LEN), 0)?;
    io.read(&disk, 0, buffer(LEN)?, LEN);
    let mut done = all(&mut io)?;
    let mut block = done
        .pop()
        .and_then(|done| done.buffer)
        .ok_or(Errno::EFAULT)?;
    holds(&block, 156, 0)?;
    // And the other way round.
    pattern::fill(&mut block, 157, 0);
    io.write(&disk, 0, block, LEN);
    all(&mut io)?;
    let mut bytes = alloc::vec![0; LEN];
    cached.pread_exact(&mut bytes, 0)?;
    holds(&bytes, 157, 0)
}

fn beside_threads() -> Check {
    const COUNT: usize = 64;
    prepare(158, 0, 2 << 20)?;
    let threads: Vec<_> = (0..4)
        .map(|index| {
            Thread::spawn(move || -> Check {
                let disk = File::open_direct(SCRATCH)?;
                let mut block = buffer(4096)?;
                for round in 0..32 {
                    let at = (1 << 20) + (index * 32 + round) * PAGE;
                    disk.pread_exact(&mut block, at)?;
                    holds(&block, 158, at)?;
                }
                Ok(())
            })
        })
        .collect::<Result<_>>()?;
    let disk = File::open_direct(SCRATCH)?;
    let mut io = AsyncIo::new()?;
    for _ in 0..3 {
        let mut places = BTreeMap::new();
        for (index, buffer) in Buffer::many(COUNT, 4096)?.into_iter().enumerate() {
            let at = index as u64 * PAGE;
            places.insert(io.read(&disk, at, buffer, 4096).number(), at);
        }
        for done in all(&mut io)? {
            let at = places.remove(&done.id.number()).ok_or(Errno::ENOENT)?;
            holds(&done.buffer.ok_or(Errno::EFAULT)?, 158, at)?;
        }
    }
    for thread in threads {
        thread.join()??;
    }
    Ok(())
}

fn two_disks() -> Check {
    let (a, b) = (File::open_direct("/dev/vda")?, File::open_direct(SCRATCH)?);
    prepare(159, 0, 8 * PAGE)?;
    let mut io = AsyncIo::new()?;
    let mut from_a = Vec::new();
    for (index, buffer) in Buffer::many(16, 4096)?.into_iter().enumerate() {
        let at = (index as u64 / 2) * PAGE;
        if index % 2 == 0 {
            from_a.push(io.read(&a, at, buffer, 4096));
        } else {
            io.read(&b, at, buffer, 4096);
        }
    }
    let mut seen = 0;
    for done in all(&mut io)? {
        let found = done.buffer.ok_or(Errno::EFAULT)?;
        if from_a.contains(&done.id) {
            continue;
        }
        let fits = (0..8).any(|page| holds(&found, 159, page * PAGE).is_ok());
        ensure!(fits, "bytes from the wrong disk");
        seen += 1;
    }
    equal("reads of the second disk", seen, 8)?;
    refused("another one", AsyncIo::new().map(drop), Errno::EBUSY)
}

/// While reads are in flight the process computes, and the kernel counts it as overlap.
fn work_overlaps() -> Check {
    const COUNT: usize = 32;
    const LEN: usize = 128 << 10;
    let disk = File::open_direct(SCRATCH)?;
    let mut io = AsyncIo::new()?;
    disk.reset_stats()?;
    let mut hash = Sha256::new();
    let data = pattern_of(160, 0, 64 << 10);
    for (index, buffer) in Buffer::many(COUNT, LEN)?.into_iter().enumerate() {
        io.read(&disk, (index * LEN) as u64 % (4 << 20), buffer, LEN);
        io.submit();
        hash.update(&data);
    }
    all(&mut io)?;
    core::hint::black_box(hash.finish());
    let stats = disk.disk_stats()?;
    ensure!(stats.in_flight_ticks > 0, "no time in flight");
    ensure!(
        stats.work_ticks > 0 && stats.work_ticks <= stats.in_flight_ticks,
        "{} ticks of work in {}",
        stats.work_ticks,
        stats.in_flight_ticks
    );
    Ok(())
}

/// Pages are written with ever new patterns and read again, many at a time, no two at one place.
fn random() -> Check {
    const PAGES: u64 = 512;
    const AT_ONCE: usize = 64;
    prepare(161, 0, PAGES * PAGE)?;
    let disk = File::open_direct_writable(SCRATCH)?;
    let mut seeds = alloc::vec![161; PAGES as usize];
    let mut io = AsyncIo::new()?;
    let mut spare = Buffer::many(AT_ONCE, PAGE as usize)?;
    let mut busy: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
    let mut numbers = Random::new(161);
    for round in 0..1000u64 {
        while let Some(mut buffer) = spare.pop() {
            let page = numbers.below(PAGES);
            if busy.values().any(|(other, _)| *other == page) {
                spare.push(buffer);
                break;
            }
            let (at, len) = (page * PAGE, PAGE as usize);
            let write = numbers.below(2) == 0;
            let id = if write {
                seeds[page as usize] = 1000 + round;
                pattern::fill(&mut buffer, 1000 + round, at);
                io.write(&disk, at, buffer, len)
            } else {
                io.read(&disk, at, buffer, len)
            };
            busy.insert(id.number(), (page, write));
        }
        for done in io.wait(1, FOREVER)? {
            let (page, write) = busy.remove(&done.id.number()).ok_or(Errno::ENOENT)?;
            equal("bytes", done.result, Ok(PAGE as usize))?;
            let buffer = done.buffer.ok_or(Errno::EFAULT)?;
            if !write {
                holds(&buffer, seeds[page as usize], page * PAGE)?;
            }
            spare.push(buffer);
        }
    }
    drop(io);
    for page in 0..PAGES {
        disk_holds(seeds[page as usize], page * PAGE, PAGE)?;
    }
    Ok(())
}
