//! Disks that a process drives itself: who may, what it gets, and what becomes of it all when it
//! ends.

use crate::check::{self, Check, PAGE, SCRATCH, disk_holds, end_of, equal, holds, refused};
use crate::ensure;
use crate::raw;
use crate::run::{PROGRAM, Test};
use alloc::vec;
use alloc::vec::Vec;
use iolite_user::abi::{
    FOREVER, IoRequest, MAX_DMA_BYTES, MAX_DMA_MAP_BYTES, MAX_DMA_MAPPED_BYTES, NO_FD, Number, io,
    map, open, prot, rights,
};
use iolite_user::driver::{Operation, Outcome, Segment};
use iolite_user::{Channel, Device, DrivenDisk, Ended, Errno, Fault, File, Mapping, Passing};
use iolite_user::{Process, Result, Thread, port, wait_events};

pub const TESTS: &[Test] = &[
    Test::disk("device_needs_the_right", needs_the_right),
    Test::disk("device_flags_are_checked", flags),
    Test::disk("device_of_the_system_disk", system_disk),
    Test::disk("device_of_a_disk_in_use", in_use),
    Test::disk("device_keeps_others_out", keeps_others_out),
    Test::disk("device_reads_and_writes", reads_and_writes),
    Test::disk("device_goes_with_its_descriptor", goes_with_descriptor),
    Test::disk("device_goes_with_its_process", goes_with_process),
    Test::disk("device_is_reset_before_memory_is_free", reset_before_free),
    Test::disk("device_registers_are_no_buffer", registers_are_no_buffer),
    Test::disk("device_writes_back_before_it_is_lent", written_back),
    Test::disk("device_closed_while_it_starts", closed_while_starting),
    Test::disk("dma_memory_is_bounded", dma_bounded),
    Test::disk("dma_mappings_are_checked", dma_checked),
    Test::disk("dma_only_for_who_drives", dma_only_for_driver),
];

const BLOCK: usize = 4096;
const SEED: u64 = 401;

/// Role: opens the device of the scratch disk without the right to.
pub fn open_device() -> Result<u8> {
    Ok(match Device::open(SCRATCH) {
        Err(Errno::EACCES) => 0,
        _ => 1,
    })
}

fn needs_the_right() -> Check {
    equal("without", end_of("open-device", &[])?, Ended::Exited(0))?;
    let passing = Passing::default().rights(rights::DEVICES);
    let args = ["usertests", "--as", "open-device"];
    let with = Process::spawn_with(PROGRAM, args, &passing)?.wait()?;
    equal("with", with, Ended::Exited(1))?;
    // The right is not inherited, and none that does not exist comes along.
    let passing = Passing::default().rights(!rights::DEVICES);
    let other = Process::spawn_with(PROGRAM, args, &passing)?.wait()?;
    equal("with others", other, Ended::Exited(0))
}

fn flags() -> Check {
    refused("no disk", Device::open("/dev/vdz").map(drop), Errno::ENOENT)?;
    refused(
        "a file",
        Device::open("bin/usertests").map(drop),
        Errno::ENOENT,
    )?;
    for other in [open::WRITE, open::DIRECT, open::WRITE | open::DIRECT] {
        let opened = File::open_with(SCRATCH, open::DEVICE | other);
        refused("with others", opened.map(drop), Errno::EINVAL)?;
    }
    // Others may have it open as long as nobody drives it.
    let _disk = File::open(SCRATCH)?;
    let device = Device::open(SCRATCH)?;
    equal(
        "size",
        device.stat()?.size,
        File::open(SCRATCH)?.stat()?.size,
    )?;
    let fd = raw::call(Number::Open, &[path(&raw::pages(1)?), 8, open::DEVICE])?;
    let buffer = raw::pages(1)?.address;
    for (number, args) in [
        (Number::Read, [fd, buffer, 512, 0]),
        (Number::Pread, [fd, buffer, 512, 0]),
        (Number::Pwrite, [fd, buffer, 512, 0]),
        (Number::Fsync, [fd, 0, 0, 0]),
        (Number::Mmap, [fd, 0, PAGE, prot::READ]),
    ] {
        let result = raw::call(number, &[args[0], args[1], args[2], args[3], map::SHARED]);
        refused("as bytes", result, Errno::ENODEV)?;
    }
    raw::call(Number::Close, &[fd]).map(drop)?;
    Ok(())
}

/// The scratch disk's path, written to a page.
fn path(page: &raw::Pages) -> u64 {
    page.write(0, SCRATCH.as_bytes());
    page.address
}

fn system_disk() -> Check {
    let device = Device::open("/dev/vda")?;
    refused("drive", device.drive().map(drop), Errno::EBUSY)
}

fn in_use() -> Check {
    let disk = File::open(SCRATCH)?;
    refused("open", drive().map(drop), Errno::EBUSY)?;
    let mapping = Mapping::of(&disk, 0, BLOCK)?;
    drop(disk);
    refused("mapped", drive().map(drop), Errno::EBUSY)?;
    drop(mapping);
    drive().map(drop)?;
    Ok(())
}

fn drive() -> Result<DrivenDisk> {
    Device::open(SCRATCH)?.drive()
}

fn keeps_others_out() -> Check {
    let disk = drive()?;
    refused("open", File::open(SCRATCH).map(drop), Errno::EBUSY)?;
    refused("direct", File::open_direct(SCRATCH).map(drop), Errno::EBUSY)?;
    refused("drive", drive().map(drop), Errno::EBUSY)?;
    drop(disk);
    File::open(SCRATCH).map(drop)?;
    drive().map(drop)?;
    Ok(())
}

/// Memory that a driven disk reaches: a channel with nobody at its other side.
struct Memory {
    channel: Channel,
    segments: Vec<Segment>,
}

impl Memory {
    fn of(disk: &DrivenDisk, pages: usize) -> Result<Memory> {
        let (listener, connector) = port()?;
        let channel = connector.connect(pages * BLOCK)?;
        drop(listener);
        let mapped = disk.map(&channel)?;
        let segments = (0..pages as u64)
            .filter_map(|page| mapped.segments::<1>(page * PAGE, BLOCK as u32))
            .map(|([segment], _)| segment)
            .collect();
        Ok(Memory { channel, segments })
    }
}

fn one(disk: &mut DrivenDisk, operation: Operation, segment: Segment) -> Result<Outcome> {
    let segments = match operation {
        Operation::Flush => &[][..],
        _ => &[segment][..],
    };
    let submitted = disk.driver.submit(operation, segments, 7);
    submitted.map_err(|_| Errno::EAGAIN)?;
    disk.driver.notify();
    loop {
        if let Some(done) = disk.driver.harvest() {
            return Ok(done.outcome);
        }
        wait_events([&*disk as &dyn iolite_user::Pollable], FOREVER)?;
        disk.driver.acknowledge();
    }
}

fn reads_and_writes() -> Check {
    check::prepare(SEED, 0, 64 << 10)?;
    {
        let mut disk = drive()?;
        let memory = Memory::of(&disk, 2)?;
        let mut block = vec![0; BLOCK];
        for index in 0..8 {
            let outcome = one(
                &mut disk,
                Operation::Read { sector: 8 * index },
                memory.segments[0],
            )?;
            equal("read", outcome, Outcome::Ok)?;
            memory.channel.read(0, &mut block);
            holds(&block, SEED, index * PAGE)?;
        }
        memory
            .channel
            .write(BLOCK, &check::pattern_of(SEED + 1, 0, BLOCK));
        equal(
            "write",
            one(
                &mut disk,
                Operation::Write { sector: 0 },
                memory.segments[1],
            )?,
            Outcome::Ok,
        )?;
        if disk.driver.info().flush {
            let outcome = one(&mut disk, Operation::Flush, memory.segments[0])?;
            equal("flush", outcome, Outcome::Ok)?;
        }
        let beyond = disk.driver.info().sectors;
        let outcome = one(
            &mut disk,
            Operation::Read { sector: beyond },
            memory.segments[0],
        )?;
        equal("past the end", outcome, Outcome::Failed)?;
    }
    disk_holds(SEED + 1, 0, PAGE)?;
    disk_holds(SEED, PAGE, 15 * PAGE)
}

fn goes_with_descriptor() -> Check {
    equal(
        "peek",
        end_of_driver("peek-registers", &[])?,
        Ended::Killed(Fault::BadAddress),
    )?;
    // One descriptor of two is not the last.
    let memory = raw::pages(1)?;
    let fd = raw::call(Number::Open, &[path(&memory), 8, open::DEVICE])?;
    let second = raw::call(Number::Open, &[path(&memory), 8, open::DEVICE])?;
    raw::call(Number::DeviceStart, &[fd, memory.address])?;
    raw::call(Number::Close, &[fd])?;
    refused("open", File::open(SCRATCH).map(drop), Errno::EBUSY)?;
    raw::call(Number::Close, &[second])?;
    File::open(SCRATCH).map(drop)?;
    Ok(())
}

/// Role: reads a register of a disk that it does not drive any more.
pub fn peek_registers() -> Result<u8> {
    let memory = raw::pages(1)?;
    let fd = raw::call(Number::Open, &[path(&memory), 8, open::DEVICE])?;
    raw::call(Number::DeviceStart, &[fd, memory.address])?;
    let mut grant = [0; 8];
    memory.read(0, &mut grant);
    let registers = u64::from_le_bytes(grant);
    raw::peek(registers);
    raw::call(Number::Close, &[fd])?;
    raw::peek(registers);
    Ok(2)
}

fn end_of_driver(role: &str, args: &[&str]) -> Result<Ended> {
    let all: Vec<&str> = ["usertests", "--as", role]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
    let passing = Passing::default().rights(rights::DEVICES);
    Process::spawn_with(PROGRAM, all, &passing)?.wait()
}

/// Role: drives the scratch disk and ends with `count` reads in flight, by a fault.
pub fn drive_and_crash(count: u64) -> Result<u8> {
    let mut disk = drive()?;
    let memory = Memory::of(&disk, (count as usize).max(1))?;
    for (index, segment) in memory.segments.iter().take(count as usize).enumerate() {
        let sector = 8 * index as u64;
        let submitted = disk
            .driver
            .submit(Operation::Read { sector }, &[*segment], 0);
        submitted.map_err(|_| Errno::EAGAIN)?;
    }
    disk.driver.notify();
    raw::poke(0, 0);
    Ok(0)
}

fn goes_with_process() -> Check {
    check::prepare(SEED, 0, 1 << 20)?;
    for count in ["0", "1", "64"] {
        let ended = end_of_driver("drive-and-crash", &[count])?;
        equal("driver", ended, Ended::Killed(Fault::BadAddress))?;
        disk_holds(SEED, 0, 64 << 10)?;
    }
    drive().map(drop)?;
    Ok(())
}

/// Frames that the driver had, and that its device wrote to, are ours now: nobody writes to them.
fn reset_before_free() -> Check {
    check::prepare(SEED, 0, 1 << 20)?;
    for _ in 0..4 {
        end_of_driver("drive-and-crash", &["128"])?;
        let memory = raw::pages(256)?;
        for index in 0..256 {
            raw::poke(memory.page(index), 0);
        }
        iolite_user::sleep(2_000_000);
        for index in 0..256 {
            let mut bytes = [1; 64];
            memory.read(index * BLOCK, &mut bytes);
            ensure!(bytes == [0; 64], "somebody wrote to page {index}");
        }
        memory.unmap(0, 256)?;
    }
    Ok(())
}

fn registers_are_no_buffer() -> Check {
    let page = raw::pages(1)?;
    let fd = raw::call(Number::Open, &[path(&page), 8, open::DEVICE])?;
    raw::call(Number::DeviceStart, &[fd, page.address])?;
    let mut grant = [0; 8];
    page.read(0, &mut grant);
    let registers = u64::from_le_bytes(grant);
    let system = File::open_direct("/dev/vda")?;
    let read = raw::call(Number::Pread, &[system.fd(), registers, 512, 0]);
    refused("a device's buffer", read, Errno::EFAULT)?;
    let request = IoRequest {
        operation: io::READ,
        fd: system.fd() as u32,
        buf: registers,
        len: 512,
        ..IoRequest::default()
    };
    refused(
        "asynchronously",
        crate::async_errors::submit(&[request]),
        Errno::EFAULT,
    )?;
    let physical = raw::pages(1)?.address;
    let in_pages = registers & !(PAGE - 1);
    let mapped = raw::call(Number::DmaMap, &[fd, in_pages, PAGE, physical]);
    refused("for the device", mapped, Errno::EFAULT)?;
    let scanned = raw::call(Number::Scan, &[system.fd(), in_pages, PAGE, 0]);
    refused("a scan", scanned, Errno::EFAULT)?;
    raw::call(Number::Munmap, &[in_pages, PAGE])?;
    raw::call(Number::Close, &[fd]).map(drop)?;
    Ok(())
}

/// What was written through the page cache is on the disk when a driver reads it.
fn written_back() -> Check {
    check::prepare(SEED, 0, 64 << 10)?;
    File::open_writable(SCRATCH)?.pwrite_all(&check::pattern_of(SEED + 2, 0, 3 * BLOCK), 0)?;
    let mut disk = drive()?;
    let memory = Memory::of(&disk, 1)?;
    let mut block = vec![0; BLOCK];
    for (index, seed) in [(0, SEED + 2), (2, SEED + 2), (3, SEED)] {
        one(
            &mut disk,
            Operation::Read { sector: 8 * index },
            memory.segments[0],
        )?;
        memory.channel.read(0, &mut block);
        holds(&block, seed, index * PAGE)?;
    }
    Ok(())
}

/// What the kernel writes back before it lends a disk gives another thread the time to close it.
fn closed_while_starting() -> Check {
    for _ in 0..3 {
        let memory = raw::pages(1)?;
        File::open_writable(SCRATCH)?.pwrite_all(&check::pattern_of(SEED, 0, 8 * BLOCK), 0)?;
        let fd = raw::call(Number::Open, &[path(&memory), 8, open::DEVICE])?;
        let closer = Thread::spawn(move || raw::call(Number::Close, &[fd]))?;
        let started = raw::call(Number::DeviceStart, &[fd, memory.address]);
        closer.join()??;
        if started.is_err() {
            refused("start", started, Errno::EBADF)?;
        }
        File::open(SCRATCH).map(drop)?;
    }
    drive().map(drop)?;
    Ok(())
}

struct Started {
    fd: u64,
    page: raw::Pages,
}

impl Started {
    fn new() -> Result<Started> {
        let page = raw::pages(2)?;
        let fd = raw::call(Number::Open, &[path(&page), 8, open::DEVICE])?;
        raw::call(Number::DeviceStart, &[fd, page.address])?;
        Ok(Started { fd, page })
    }

    fn alloc(&self, bytes: u64) -> Result<u64> {
        raw::call(Number::DmaAlloc, &[self.fd, bytes, self.page.address])
    }

    fn map(&self, address: u64, bytes: u64) -> Result<u64> {
        raw::call(
            Number::DmaMap,
            &[self.fd, address, bytes, self.page.address],
        )
    }

    fn unmap(&self, address: u64) -> Result<u64> {
        raw::call(Number::DmaUnmap, &[self.fd, address])
    }
}

fn dma_bounded() -> Check {
    let started = Started::new()?;
    refused("nothing", started.alloc(0), Errno::EINVAL)?;
    refused("too much", started.alloc(MAX_DMA_BYTES + 1), Errno::EINVAL)?;
    refused("far too much", started.alloc(u64::MAX), Errno::EINVAL)?;
    let first = started.alloc(5 * PAGE)?;
    let mut physical = [0; 8];
    started.page.read(0, &mut physical);
    equal("aligned", u64::from_le_bytes(physical) % PAGE, 0)?;
    for page in 0..5 {
        equal("zero", raw::peek(first + page * PAGE), 0)?;
        raw::poke(first + page * PAGE, 1);
    }
    let more = (0..).map_while(|_| started.alloc(PAGE).ok()).count();
    ensure!((1..64).contains(&more), "{more} more pieces");
    refused("another", started.alloc(PAGE), Errno::ENOMEM)?;
    let bad = raw::call(Number::DmaAlloc, &[started.fd, PAGE, raw::UNMAPPED]);
    ensure!(bad.is_err(), "an address that is not mapped: {bad:?}");
    Ok(())
}

fn dma_checked() -> Check {
    let started = Started::new()?;
    let memory = raw::pages(4)?;
    for (what, address, bytes, wanted) in [
        ("nothing", memory.address, 0, Errno::EINVAL),
        ("between pages", memory.address + 1, PAGE, Errno::EINVAL),
        ("half a page", memory.address, 512, Errno::EINVAL),
        (
            "too much",
            memory.address,
            MAX_DMA_MAP_BYTES + PAGE,
            Errno::EINVAL,
        ),
        ("past the end", memory.page(3), 2 * PAGE, Errno::EFAULT),
        ("unmapped", raw::UNMAPPED, PAGE, Errno::EFAULT),
        (
            "the kernel's",
            raw::KERNEL & !(PAGE - 1),
            PAGE,
            Errno::EFAULT,
        ),
        ("nowhere", raw::NOWHERE, PAGE, Errno::EFAULT),
        ("the last page", !(PAGE - 1), PAGE, Errno::EFAULT),
    ] {
        refused(what, started.map(address, bytes), wanted)?;
    }
    // A page of the cache is not the process's own.
    let program = File::open("bin/usertests")?;
    let shared = raw::map_pages(program.fd(), 0, 1, prot::READ, map::SHARED)?;
    refused("a file", started.map(shared.address, PAGE), Errno::EFAULT)?;
    let private = raw::map_pages(program.fd(), 0, 1, prot::READ | prot::WRITE, map::PRIVATE)?;
    refused(
        "a copy of a file",
        started.map(private.address, PAGE),
        Errno::EFAULT,
    )?;
    let only_read = raw::map_pages(NO_FD, 0, 1, prot::READ, map::PRIVATE)?;
    refused(
        "for reading",
        started.map(only_read.address, PAGE),
        Errno::EFAULT,
    )?;

    equal("pages", started.map(memory.address, 4 * PAGE)?, 4)?;
    refused("twice", started.map(memory.address, PAGE), Errno::EBUSY)?;
    refused("another", started.unmap(memory.page(1)), Errno::EINVAL)?;
    equal("unmapped", started.unmap(memory.address)?, 0)?;
    refused("again", started.unmap(memory.address), Errno::EINVAL)?;
    let bad = raw::call(
        Number::DmaMap,
        &[started.fd, memory.address, PAGE, raw::UNMAPPED],
    );
    refused("nowhere to write", bad, Errno::EFAULT)?;
    refused(
        "nothing came of it",
        started.unmap(memory.address),
        Errno::EINVAL,
    )?;
    // The kernel holds the pages, whatever becomes of the mapping.
    started.map(memory.address, 4 * PAGE)?;
    memory.unmap(0, 4)?;
    let most = MAX_DMA_MAPPED_BYTES / MAX_DMA_MAP_BYTES;
    ensure!(most < 64, "{most} mappings");
    Ok(())
}

fn dma_only_for_driver() -> Check {
    let page = raw::pages(2)?;
    let fd = raw::call(Number::Open, &[path(&page), 8, open::DEVICE])?;
    let calls = [
        (Number::DmaAlloc, [fd, PAGE, page.address, 0]),
        (Number::DmaMap, [fd, page.page(1), PAGE, page.address]),
        (Number::DmaUnmap, [fd, page.page(1), 0, 0]),
    ];
    for (number, args) in calls {
        refused("not started", raw::call(number, &args), Errno::EACCES)?;
        let console = [0, args[1], args[2], args[3]];
        refused("console", raw::call(number, &console), Errno::ENODEV)?;
        let closed = [31, args[1], args[2], args[3]];
        refused("closed", raw::call(number, &closed), Errno::EBADF)?;
    }
    let started = raw::call(Number::DeviceStart, &[fd, raw::UNMAPPED]);
    refused("nowhere to write", started, Errno::EFAULT)?;
    raw::call(Number::Close, &[fd]).map(drop)?;
    Ok(())
}
