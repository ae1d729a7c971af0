//! Disks that are lent to a process: it maps the device's registers, has memory that the device can
//! reach, and is told of its interrupts. The kernel lets go of the disk before, and takes it back
//! when the process ends or closes it: the device is reset first, and only then is the memory that it
//! could reach given back. There is no IOMMU, so whoever drives a device is trusted with memory; a
//! crash is what the reset is for.
//!
//! ```text
//!   ours -- start: no one uses it; write back, forget, reset --> lent
//!   lent -- close or end of the process: reset, give memory back, initialise anew --> ours
//! ```

use super::{DiskId, disk};
use crate::fs::{file, growth, pinned};
use crate::ipc::events::{self, Watch};
use crate::mm::cache::{self, write_back};
use crate::mm::frame::{self, Frame};
use crate::mm::layout::PAGE;
use crate::println;
use crate::sync::CpuCell;
use crate::task::process::{self, ProcessId};
use crate::task::scheduler;
use crate::trace;
use alloc::vec::Vec;
use iolite_guest_abi::{
    DeviceGrant, Errno, MAX_DMA_BYTES, MAX_DMA_MAP_BYTES, MAX_DMA_MAPPED_BYTES, ready,
};

/// How often the kernel looks whether a device has been reset.
const RESET_POLL_NS: u64 = 1_000_000;
/// Most pieces of memory of a driver.
const MAX_PIECES: usize = 64;
/// Devices are watched from here on.
const FIRST_WATCH: usize = 32;

struct Lent {
    disk: DiskId,
    process: ProcessId,
    /// An interrupt has come since the driver was last told.
    interrupted: bool,
    /// Where the driver sees the registers.
    registers: u64,
    register_bytes: u64,
    pieces: Vec<Piece>,
    mapped: Vec<Mapped>,
}

/// Contiguous memory, made for the driver.
struct Piece {
    address: u64,
    first: Frame,
    count: u32,
}

/// Pages of the process, held for the device.
struct Mapped {
    address: u64,
    frames: Vec<Frame>,
}

static LENT: CpuCell<Vec<Lent>> = CpuCell::new(Vec::new());

/// Lends `disk` to the running process. Blocks until the device has been reset.
pub fn start(disk: DiskId) -> Result<DeviceGrant, Errno> {
    let id = scheduler::current_process().ok_or(Errno::ESRCH)?;
    let window = disk.window();
    if super::system_disk() == Some(disk) || disk.is_lent() || file::in_use(disk) {
        return Err(Errno::EBUSY);
    }
    // From here on nobody can open it. What is on its way still has to end.
    disk::set_closing(disk, true);
    if let Err(error) = forget(disk) {
        disk::set_closing(disk, false);
        return Err(error);
    }
    reset(disk);
    disk::lend(disk);
    trace::lend(disk.number(), id.number());
    LENT.borrow_mut().push(Lent {
        disk,
        process: id,
        interrupted: false,
        registers: 0,
        register_bytes: 0,
        pieces: Vec::new(),
        mapped: Vec::new(),
    });
    // QEMU's microvm has eight windows in a page: neighbours' registers come along. Who may drive a
    // device can reach all memory by it anyway (`rights::DEVICES`).
    let start = window.address - window.address % PAGE;
    let bytes = (window.address - start + window.bytes).next_multiple_of(PAGE);
    let mapped = {
        let mut process = process::current();
        // Another thread may have closed the device meanwhile: nobody would ever take it back.
        match process.files.has_device(disk) {
            true => process.space.map_registers(start, bytes),
            false => Err(Errno::EBADF),
        }
    };
    match mapped {
        Ok(address) => {
            with(disk, |lent| {
                lent.registers = address;
                lent.register_bytes = bytes;
            })?;
            Ok(DeviceGrant {
                registers: address + window.address % PAGE,
                register_bytes: window.bytes,
                disk: disk.number() as u64,
            })
        }
        Err(error) => {
            take_back(disk);
            Err(error)
        }
    }
}

/// Ends whatever the kernel itself does with the disk.
fn forget(disk: DiskId) -> Result<(), Errno> {
    let object = file::object_of(disk);
    write_back::sync_if_dirty(object)?;
    cache::drop_all(object);
    while disk::requests(disk) > 0 {
        scheduler::pause(RESET_POLL_NS);
    }
    Ok(())
}

/// Resets the device, and waits until it has let go of everything (section 4.2.2, Status).
fn reset(disk: DiskId) {
    disk::start_reset(disk);
    while !disk::is_reset(disk) {
        scheduler::pause(RESET_POLL_NS);
    }
}

/// The running process has closed a descriptor of the device: was it the last one?
pub fn closed(disk: DiskId) {
    let id = scheduler::current_process();
    let drives = LENT
        .borrow()
        .iter()
        .any(|lent| lent.disk == disk && Some(lent.process) == id);
    if drives && !process::current().files.has_device(disk) {
        take_back(disk);
    }
}

/// Takes a disk back from the running process.
#[inline(never)]
fn take_back(disk: DiskId) {
    reset(disk);
    trace::lend(disk.number(), 0);
    let lent = {
        let mut all = LENT.borrow_mut();
        let Some(place) = all.iter().position(|lent| lent.disk == disk) else {
            return;
        };
        all.swap_remove(place)
    };
    {
        let mut process = process::get(lent.process);
        let registers = lent.registers..lent.registers + lent.register_bytes;
        let pieces = lent
            .pieces
            .iter()
            .map(|piece| piece.address..piece.address + u64::from(piece.count) * PAGE);
        for range in core::iter::once(registers).chain(pieces) {
            // At most parts of an area are left: there is always room for them.
            let _ = process.space.unmap(range.start, range.end);
        }
    }
    for piece in lent.pieces {
        frame::release_contiguous(piece.first, piece.count);
    }
    for frame in lent.mapped.into_iter().flat_map(|mapped| mapped.frames) {
        frame::release(frame);
    }
    match disk::restart(disk) {
        Ok(()) => growth::adopt(disk),
        Err(error) => println!("iolite: a disk cannot be used any more: {error:?}"),
    }
}

/// The device of a lent disk has interrupted: called by the interrupt handler.
pub fn interrupt(disk: DiskId) {
    let mut all = LENT.borrow_mut();
    if let Some(lent) = all.iter_mut().find(|lent| lent.disk == disk) {
        lent.interrupted = true;
        drop(all);
        events::wake(watch(disk));
    }
}

/// What a thread that waits for the device's interrupt watches.
pub fn watch(disk: DiskId) -> Watch {
    Watch::of(FIRST_WATCH + disk.number())
}

/// Has the device interrupted since this was last asked? `ready::*`; nothing for those who do not
/// drive it.
pub fn take_interrupt(disk: DiskId) -> u32 {
    let interrupted = with(disk, |lent| core::mem::take(&mut lent.interrupted));
    match interrupted {
        Ok(true) => ready::EVENT,
        _ => 0,
    }
}

/// Contiguous memory for the driver: its address there, and its physical one.
pub fn alloc(disk: DiskId, bytes: u64) -> Result<(u64, u64), Errno> {
    if bytes == 0 || bytes > MAX_DMA_BYTES {
        return Err(Errno::EINVAL);
    }
    if with(disk, |lent| lent.pieces.len())? == MAX_PIECES {
        return Err(Errno::ENOMEM);
    }
    let count = bytes.div_ceil(PAGE) as u32;
    let first = frame::alloc_contiguous(count).ok_or(Errno::ENOMEM)?;
    let physical = first.physical();
    let frames = (0..count).map(|i| Frame::containing(physical + u64::from(i) * PAGE));
    let mapped = process::current().space.map_frames(frames, true);
    match mapped {
        Ok(address) => with(disk, |lent| {
            lent.pieces.push(Piece {
                address,
                first,
                count,
            });
            (address, physical)
        }),
        Err(error) => {
            frame::release_contiguous(first, count);
            Err(error)
        }
    }
}

/// Holds pages of the process for the device, and hands their physical addresses to `tell`.
pub fn map(
    disk: DiskId,
    address: u64,
    bytes: u64,
    tell: impl FnOnce(&[u64]) -> Result<(), Errno>,
) -> Result<u64, Errno> {
    if bytes == 0 || bytes > MAX_DMA_MAP_BYTES || !(address | bytes).is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let pages = (bytes / PAGE) as usize;
    with(disk, |lent| {
        let held: usize = lent.mapped.iter().map(|mapped| mapped.frames.len()).sum();
        let again = lent.mapped.iter().any(|mapped| mapped.address == address);
        if again {
            Err(Errno::EBUSY)
        } else if (held + pages) as u64 * PAGE > MAX_DMA_MAPPED_BYTES {
            Err(Errno::ENOMEM)
        } else {
            Ok(())
        }
    })??;
    let frames = pinned::hold_own(address, pages)?;
    let physical: Vec<u64> = frames.iter().map(|frame| frame.physical()).collect();
    if let Err(error) = tell(&physical) {
        frames.into_iter().for_each(frame::release);
        return Err(error);
    }
    with(disk, |lent| lent.mapped.push(Mapped { address, frames }))?;
    Ok(pages as u64)
}

/// Ends a [`map`].
pub fn unmap(disk: DiskId, address: u64) -> Result<u64, Errno> {
    let mapped = with(disk, |lent| {
        let place = lent
            .mapped
            .iter()
            .position(|mapped| mapped.address == address)?;
        Some(lent.mapped.swap_remove(place))
    })?;
    let frames = mapped.ok_or(Errno::EINVAL)?.frames;
    frames.into_iter().for_each(frame::release);
    Ok(0)
}

/// What was lent to the running process; EACCES if it does not drive the disk.
fn with<T>(disk: DiskId, action: impl FnOnce(&mut Lent) -> T) -> Result<T, Errno> {
    let id = scheduler::current_process();
    let mut all = LENT.borrow_mut();
    let lent = all
        .iter_mut()
        .find(|lent| lent.disk == disk && Some(lent.process) == id)
        .ok_or(Errno::EACCES)?;
    Ok(action(lent))
}
