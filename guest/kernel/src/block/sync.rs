//! Synchronous I/O: `submit` + wait.

use super::{DiskId, Owner, disk, notify, submit, submit_at_once_and_notify, wait_for_room};
use crate::mm::frame::{self, Frame};
use crate::task::scheduler;
use iolite_devices_abi::blk::{ID_BYTES, SECTOR_SIZE};
use iolite_guest_abi::Errno;
use iolite_virtio_driver::{Operation, Segment, SubmitError};

/// Does one request and blocks the running thread until it has completed. The caller holds what
/// the segments name.
#[inline(always)]
pub fn transfer(disk: DiskId, operation: Operation, segments: &[Segment]) -> Result<(), Errno> {
    let owner = Owner::Thread(scheduler::current());
    if submit_at_once_and_notify(disk, operation, segments, owner).is_err() {
        submit_when_there_is_room(disk, operation, segments, owner)?;
    }
    if scheduler::wait_for_request() {
        Ok(())
    } else {
        Err(Errno::EIO)
    }
}

#[cold]
fn submit_when_there_is_room(
    disk: DiskId,
    operation: Operation,
    segments: &[Segment],
    owner: Owner,
) -> Result<(), Errno> {
    while let Err(error) = submit(disk, operation, segments, owner) {
        if error == SubmitError::TooManySegments {
            return Err(Errno::EINVAL);
        }
        wait_for_room(disk);
    }
    notify(disk);
    Ok(())
}

/// Makes durable what was written to the disk. A disk without a flush has no cache that the driver
/// knows of: what has been written is as safe as the device ever makes it (virtio 1.2, section
/// 5.2.5.1).
pub fn flush(disk: DiskId) -> Result<(), Errno> {
    if disk.has_flush() {
        transfer(disk, Operation::Flush, &[])
    } else {
        Ok(())
    }
}

/// Reads one sector to the beginning of a frame.
pub fn read_sector(disk: DiskId, sector: u64, frame: Frame) -> Result<(), Errno> {
    let segment = Segment {
        physical: frame.physical(),
        bytes: SECTOR_SIZE as u32,
    };
    transfer(disk, Operation::Read { sector }, &[segment])
}

/// The disk's identification string, NUL-padded. ETIMEDOUT if it has answered without an interrupt
/// that says so: its line is not what it is said to be.
pub fn identify(disk: DiskId) -> Result<[u8; ID_BYTES], Errno> {
    let frame = frame::alloc_zeroed().ok_or(Errno::ENOMEM)?;
    let segment = Segment {
        physical: frame.physical(),
        bytes: ID_BYTES as u32,
    };
    let owner = Owner::Thread(scheduler::current());
    let submitted = submit_at_once_and_notify(disk, Operation::GetId, &[segment], owner);
    let interrupted = submitted.is_err() || wait_for_interrupt(disk);
    let ok = submitted.is_ok() && !scheduler::take_failed();
    let id = frame::read::<ID_BYTES>(frame);
    frame::release(frame);
    match (interrupted, ok) {
        (false, _) => Err(Errno::ETIMEDOUT),
        (true, false) => Err(Errno::EIO),
        (true, true) => Ok(id),
    }
}

/// Waits until the one request in flight has ended: a slow disk may take its time. `false` if it has,
/// and no interrupt has come.
fn wait_for_interrupt(disk: DiskId) -> bool {
    const SHORTEST_NS: u64 = 1_000_000;
    const LONGEST_NS: u64 = 128_000_000;
    const LOOK_AFTER_NS: u64 = 1_000_000_000;
    let look = scheduler::deadline(LOOK_AFTER_NS);
    // A processor that sleeps for long has time for every interrupt there is.
    let mut pause = SHORTEST_NS;
    let mut raised = 0;
    while disk::requests(disk) > 0 {
        if scheduler::is_past(look) {
            disk::raise_interrupt(disk);
            raised += 1;
        }
        scheduler::pause(pause);
        pause = (2 * pause).min(LONGEST_NS);
    }
    disk::interrupts(disk) > raised
}
