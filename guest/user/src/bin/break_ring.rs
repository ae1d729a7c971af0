#![no_std]
#![no_main]
//! `break_ring DISK OTHER`: has the device of OTHER, which this process drives, write nonsense into the
//! ring by which the kernel drives DISK, while requests are in flight there. DISK's device then serves
//! nothing until it is reset. Each request has to end all the same, and the next one to succeed.
//!
//! There is no IOMMU: who may drive a device can do this. It is a test of what the kernel does about a
//! device that gives up.

extern crate alloc;

use alloc::vec::Vec;
use iolite_user::driver::{Operation, Outcome, Segment};
use iolite_user::{
    Args, AsyncIo, Buffer, Device, DmaMemory, DrivenDisk, Errno, FOREVER, File, Result, entry,
    println, sleep, wait_events,
};

/// Where the kernel's driver may have its memory.
const SEARCHED: core::ops::Range<u64> = 0x10_0000..0x200_0000;
const CHUNK: usize = 64 << 10;
const PAGE: u64 = 4096;
/// A sector that nobody else reads.
const MARK: u64 = 1021;
const REQUESTS: u64 = 24;
const TRIES: usize = 1000;

entry!(main);

fn main(mut args: Args) -> Result<()> {
    let (disk, other) = (args.next(), args.next());
    let disk = File::open_direct(disk.ok_or(Errno::EINVAL)?)?;
    let mut tool = Device::open(other.ok_or(Errno::EINVAL)?)?.drive()?;
    let mut memory = tool.allocate(CHUNK)?;
    disk.pread_exact(&mut Buffer::many(1, 512)?[0], MARK * 512)?;
    // A request's header, and its descriptor, which names the table behind the header.
    let header = find(&mut tool, &mut memory, |words, at| {
        words
            .get(..5)
            .is_some_and(|w| w[0] == 0 && w[1] == MARK && w[4] == at)
    })?;
    let descriptor = find(&mut tool, &mut memory, |words, _| words[0] == header + 32)?;
    let available = descriptor - descriptor % PAGE + PAGE;
    println!("break_ring: found");

    let mut io = AsyncIo::new()?;
    for (buffer, number) in Buffer::many(REQUESTS as usize, 512)?.into_iter().zip(0..) {
        io.read(&disk, number * 512, buffer, 512);
    }
    let mut ended = io.wait(1, FOREVER)?;
    copy(&mut tool, available, &memory, true)?;
    let index = u16::from_le_bytes([memory[2], memory[3]]).wrapping_add(5000);
    memory[2..4].copy_from_slice(&index.to_le_bytes());
    copy(&mut tool, available, &memory, false)?;
    while ended.len() < REQUESTS as usize {
        ended.extend(io.wait(1, FOREVER)?);
    }
    let failed = ended
        .iter()
        .filter(|done| done.result == Err(Errno::EIO))
        .count();
    let fine = ended.iter().filter(|done| done.result == Ok(512)).count();
    if failed + fine != REQUESTS as usize || failed == 0 || fine == 0 {
        println!("break_ring: {failed} failed, {fine} succeeded");
        return Err(Errno::EINVAL);
    }
    // What comes while the device is reset fails too.
    let buffer = &mut Buffer::many(1, 512)?[0];
    let mut read = disk.pread_exact(buffer, 0);
    for _ in 0..TRIES {
        if read != Err(Errno::EIO) {
            break;
        }
        sleep(1_000_000);
        read = disk.pread_exact(buffer, 0);
    }
    read.inspect_err(|_| println!("break_ring: the disk stays broken"))?;
    println!("break_ring: some failed, and the disk is there again");
    Ok(())
}

/// The physical address of the words that `is_it`, which is given what follows them and that address.
fn find(
    tool: &mut DrivenDisk,
    memory: &mut DmaMemory,
    is_it: impl Fn(&[u64], u64) -> bool,
) -> Result<u64> {
    for start in SEARCHED.step_by(CHUNK) {
        if start == memory.physical() {
            continue;
        }
        through_disk(tool, start, memory.physical(), CHUNK as u32)?;
        let words = memory
            .chunks_exact(8)
            .map(|word| word.try_into().unwrap_or([0; 8]));
        let words: Vec<u64> = words.map(u64::from_le_bytes).collect();
        for place in (0..words.len()).step_by(2) {
            let at = start + 8 * place as u64;
            if is_it(&words[place..], at) {
                return Ok(at);
            }
        }
    }
    println!("break_ring: the kernel's ring is not where it was looked for");
    Err(Errno::ENOENT)
}

/// A sector's worth of physical memory at `at` into ours, or back.
fn copy(tool: &mut DrivenDisk, at: u64, memory: &DmaMemory, to_us: bool) -> Result<()> {
    let (from, to) = match to_us {
        true => (at, memory.physical()),
        false => (memory.physical(), at),
    };
    through_disk(tool, from, to, 512)
}

/// Copies physical memory by way of the tool's first sectors.
fn through_disk(tool: &mut DrivenDisk, from: u64, to: u64, bytes: u32) -> Result<()> {
    let sector = 0;
    for (operation, physical) in [
        (Operation::Write { sector }, from),
        (Operation::Read { sector }, to),
    ] {
        let segment = Segment { physical, bytes };
        tool.submit(operation, &[segment], 1)
            .map_err(|_| Errno::EINVAL)?;
        tool.notify();
        let done = loop {
            if let Some(done) = tool.harvest() {
                break done;
            }
            wait_events([&*tool as _], FOREVER)?;
            tool.driver.acknowledge();
        };
        if done.outcome != Outcome::Ok {
            return Err(Errno::EIO);
        }
    }
    Ok(())
}
