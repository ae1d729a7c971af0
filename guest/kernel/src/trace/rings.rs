//! Rings for the events of programs: each is lent to one process at a time, which maps it and writes
//! to it without the kernel's help. What the VMM may believe of it, two events of the kernel's own
//! say: which process writes to a ring, and which one drives a disk.

use super::{ON, event, record};
use crate::sync::CpuCell;
use crate::task::process::{self, ProcessId};
use crate::task::scheduler;
use core::sync::atomic::{AtomicU64, Ordering};
use iolite_devices_abi::trace::{PROGRAM_EVENTS, PROGRAM_RINGS, ring_at, ring_bytes};
use iolite_guest_abi::Errno;

/// The window's physical address; 0 if there is none.
static WINDOW: AtomicU64 = AtomicU64::new(0);
/// Who writes to each.
static WRITERS: CpuCell<[Option<ProcessId>; PROGRAM_RINGS]> = CpuCell::new([None; PROGRAM_RINGS]);

pub fn init(window: u64) {
    WINDOW.store(window, Ordering::Relaxed);
}

/// Lends the running process a ring: its address there.
#[inline(never)]
pub fn lend_ring() -> Result<u64, Errno> {
    let window = WINDOW.load(Ordering::Relaxed);
    if !ON || window == 0 {
        return Err(Errno::ENOSYS);
    }
    let id = scheduler::current_process().ok_or(Errno::ESRCH)?;
    let mut writers = WRITERS.borrow_mut();
    if writers.contains(&Some(id)) {
        return Err(Errno::EBUSY);
    }
    let free = writers.iter().position(Option::is_none);
    let place = free.ok_or(Errno::EAGAIN)?;
    let physical = window + ring_at(1 + place);
    let bytes = ring_bytes(PROGRAM_EVENTS);
    let address = process::current().space.map_foreign(physical, bytes, 0)?;
    writers[place] = Some(id);
    record(event::WRITER, id.number(), 1 + place as u32);
    Ok(address)
}

/// Process `id` ends: nobody writes to its ring any more.
#[inline(always)]
pub fn take_ring_back(id: ProcessId) {
    if !ON {
        return;
    }
    let mut writers = WRITERS.borrow_mut();
    if let Some(place) = writers.iter().position(|writer| *writer == Some(id)) {
        writers[place] = None;
        record(event::WRITER, 0, 1 + place as u32);
    }
}

/// A disk is driven by the process with this number from now on; 0: by the kernel.
#[inline(always)]
pub fn lend(disk: usize, process: u16) {
    record(event::LEND, process, disk as u32);
}
