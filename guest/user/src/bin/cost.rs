#![no_std]
#![no_main]
//! `cost DISK OPERATIONS`: does each kind of I/O that many times on a disk of at least
//! `DISK_BYTES`, of which nothing is in the page cache. The lines it prints are for
//! `iolite bench cost`, which looks at KVM's counters when each of the first two arrives:
//!
//! ```text
//! cost: begin NAME
//! cost: end NAME
//! cost: result NAME operations=N ns=N asleep_ns=N
//! ```
//!
//! The first section, `nothing`, is what the lines themselves cost.

extern crate alloc;

use alloc::vec::Vec;
use iolite_user::core_logic::words;
use iolite_user::{
    Args, AsyncIo, Buffer, Ended, Errno, FOREVER, File, Instant, Mapping, Process, Result,
};
use iolite_user::{PAGE_BYTES, cpu_stats, entry, println, yield_now};

/// How many asynchronous reads are submitted, and waited for, at once.
const BATCH: usize = 32;
/// Each kind has a part of the disk of its own, of this many pages.
const PART_PAGES: usize = 1024;
/// How much of the disk is read.
const DISK_BYTES: u64 = (5 * PART_PAGES * PAGE_BYTES) as u64;

/// This program, and what has it end at once.
const PROGRAM: &str = "bin/cost";
const EXIT: &str = "exit";

entry!(main);

fn main(mut args: Args) -> Result<()> {
    let path = args.next().ok_or(Errno::EINVAL)?;
    if path == EXIT {
        return Ok(());
    }
    let operations = args.next().and_then(words::number).ok_or(Errno::EINVAL)? as usize;
    let direct = File::open_direct(path)?;
    let cached = File::open(path)?;
    if operations == 0 || operations > PART_PAGES || direct.stat()?.size < DISK_BYTES {
        return Err(Errno::EINVAL);
    }
    section("nothing", || Ok(1))?;
    section("yield", || {
        (0..operations).for_each(|_| yield_now());
        Ok(operations)
    })?;
    blocking_reads(&direct, operations)?;
    let buffers = Buffer::many(BATCH, PAGE_BYTES)?;
    asynchronous_reads("async-read", &direct, operations, buffers)?;
    let buffers = Buffer::registered(BATCH, PAGE_BYTES)?;
    asynchronous_reads("async-read-registered", &direct, operations, buffers)?;
    page_ins(&cached, operations)?;
    processes(operations.div_ceil(16))
}

/// Does `work` between two lines that the host waits for, and says how long it took.
fn section(name: &str, work: impl FnOnce() -> Result<usize>) -> Result<()> {
    println!("cost: begin {name}");
    let idle = cpu_stats()?.idle;
    let start = Instant::now();
    let operations = work()?;
    let end = Instant::now();
    let asleep = Instant::from_ticks(idle).ns_until(Instant::from_ticks(cpu_stats()?.idle));
    println!("cost: end {name}");
    let ns = start.ns_until(end);
    println!("cost: result {name} operations={operations} ns={ns} asleep_ns={asleep}");
    Ok(())
}

/// One `pread` of a page after the other.
fn blocking_reads(disk: &File, operations: usize) -> Result<()> {
    let mut buffer = Buffer::many(1, PAGE_BYTES)?.pop().ok_or(Errno::ENOMEM)?;
    let mut read = |number| disk.pread_exact(&mut buffer, offset(0, number));
    read(PART_PAGES - 1)?; // the buffer's page has to be there
    section("blocking-read", || {
        (0..operations).try_for_each(read)?;
        Ok(operations)
    })
}

/// Batches of reads: submitted together, collected together.
fn asynchronous_reads(
    name: &str,
    disk: &File,
    operations: usize,
    mut buffers: Vec<Buffer>,
) -> Result<()> {
    let mut io = AsyncIo::new()?;
    let mut batch = |first: usize| {
        for (number, buffer) in buffers.drain(..).enumerate() {
            io.read(
                disk,
                offset(1, (first + number) % PART_PAGES),
                buffer,
                PAGE_BYTES,
            );
        }
        for done in io.wait(BATCH, FOREVER)? {
            done.result?;
            buffers.extend(done.buffer);
        }
        Ok(())
    };
    batch(0)?;
    let batches = operations.div_ceil(BATCH);
    section(name, || {
        (0..batches).try_for_each(|number| batch(number * BATCH))?;
        Ok(batches * BATCH)
    })
}

/// Touches pages: each alone and out of order; each once more, through another mapping, when all
/// are in the cache; and in order, with the kernel reading ahead.
fn page_ins(disk: &File, operations: usize) -> Result<()> {
    let len = PART_PAGES * PAGE_BYTES;
    let alone = Mapping::without_read_ahead(disk, offset(2, 0), len)?;
    // An odd step: every page once, none after its neighbour.
    touch("page-in", &alone, operations, 389)?;
    for at in (0..len).step_by(PAGE_BYTES) {
        alone.touch(at);
    }
    let again = Mapping::of(disk, offset(2, 0), len)?;
    touch("page-in-ready", &again, operations, 1)?;
    let ahead = Mapping::of(disk, offset(3, 0), len)?;
    touch("page-in-ahead", &ahead, operations, 1)
}

/// Touches the first byte of every `step`-th page.
fn touch(name: &str, mapping: &Mapping, operations: usize, step: usize) -> Result<()> {
    section(name, || {
        for number in 0..operations {
            mapping.touch(number * step % PART_PAGES * PAGE_BYTES);
        }
        Ok(operations)
    })
}

/// Starts a process after the other, which do nothing, and waits for the end of each.
fn processes(operations: usize) -> Result<()> {
    let start_and_end = |_| {
        let ended = Process::spawn(PROGRAM, ["cost", EXIT])?.wait()?;
        (ended == Ended::Exited(0)).then_some(()).ok_or(Errno::EIO)
    };
    start_and_end(0)?;
    section("process", || {
        (0..operations).try_for_each(start_and_end)?;
        Ok(operations)
    })
}

/// Where page `number` of a part of the disk is.
fn offset(part: usize, number: usize) -> u64 {
    ((part * PART_PAGES + number) * PAGE_BYTES) as u64
}
