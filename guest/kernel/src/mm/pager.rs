//! The pager: a page fault becomes a page.
//!
//! A fault on a page of a file or disk that is not in memory submits a read of that page, and
//! parks the one thread that needs it; the kernel and every other thread run on. What lies ahead
//! of a sequential reader is read at the same time and waited for by nobody. When the thread runs
//! again it looks everything up anew: while it slept the area may have been unmapped, the page
//! read and evicted, or mapped by another thread.

use super::cache::{self, Found, NoStart};
use super::frame;
use super::layout::PAGE;
use super::paging::{self, Entry};
use super::space::Backing;
use crate::arch::cpu;
use crate::block::{self, DiskId};
use crate::fs::object::ObjectId;
use crate::task::process;
use core::ops::Range;
use iolite_guest_abi::Fault;

/// Bits of a page fault's error code (Intel SDM volume 3, section 4.7).
const FAULT_WRITE: u64 = 1 << 1;
const FAULT_RESERVED: u64 = 1 << 3;
const FAULT_FETCH: u64 = 1 << 4;

/// How many pages that are in memory already are mapped along with the one that faulted.
const MAPPED_AROUND: u64 = 16;

/// Handles a fault of the running process on `address`. Blocks while the page is being read.
pub fn fault(address: u64, error_code: u64) -> Result<(), Fault> {
    if error_code & FAULT_RESERVED != 0 {
        return Err(Fault::BadAddress);
    }
    let access = Access {
        write: error_code & FAULT_WRITE != 0,
        fetch: error_code & FAULT_FETCH != 0,
    };
    let page = address - address % PAGE;
    loop {
        match step(page, access)? {
            Step::Done => return Ok(()),
            Step::Wait(page) => cache::wait(page).map_err(|_| Fault::Io)?,
            Step::QueueFull(disk) => block::wait_for_room(disk),
        }
    }
}

/// Brings the page at `address` in for the kernel on behalf of the process, as if the process had
/// read or written it.
pub fn bring_in(address: u64, write: bool) -> Result<(), Fault> {
    fault(address, if write { FAULT_WRITE } else { 0 })
}

#[derive(Clone, Copy)]
struct Access {
    write: bool,
    fetch: bool,
}

enum Step {
    Done,
    Wait(cache::PageId),
    QueueFull(DiskId),
}

/// As far as it goes without blocking.
fn step(address: u64, access: Access) -> Result<Step, Fault> {
    let mut process = process::current();
    let root = process.space.root();
    let area = process.space.find(address).ok_or(Fault::BadAddress)?;
    if access.write && !area.write || access.fetch && !area.execute {
        return Err(Fault::BadAddress);
    }
    let protection =
        paging::PRESENT | paging::USER | if area.execute { 0 } else { paging::NO_EXECUTE };
    let pages_in = (address - area.start) / PAGE;
    let pages_after = (area.end - address) / PAGE - 1;
    let entry = root.find_or_make(address).ok_or(Fault::OutOfMemory)?;

    match &mut area.backing {
        Backing::Zeroes => {
            if entry.frame().is_none() {
                let frame = frame::alloc_zeroed().ok_or(Fault::OutOfMemory)?;
                let writable = if area.write { paging::WRITABLE } else { 0 };
                entry.set(frame.physical() | protection | writable);
            }
            Ok(Step::Done)
        }
        Backing::Private {
            object,
            first_page,
            stream,
            zero_from,
        } => {
            let index = *first_page + pages_in;
            let ends_in_zeroes = address + PAGE > *zero_from;
            if !access.write && !ends_in_zeroes {
                let fault = ObjectFault {
                    object: *object,
                    index,
                    pages_after,
                    address,
                    entry,
                };
                return fault.map(protection, |mapped| stream.fault(index, mapped));
            }
            copy_page(
                *object, index, address, entry, protection, area.write, *zero_from,
            )
        }
        Backing::Shared {
            object,
            first_page,
            stream,
        } => {
            let index = *first_page + pages_in;
            let fault = ObjectFault {
                object: *object,
                index,
                pages_after,
                address,
                entry,
            };
            fault.map(protection, |mapped| stream.fault(index, mapped))
        }
    }
}

/// A fault on a page that is to be seen as the cache has it.
struct ObjectFault {
    object: ObjectId,
    index: u64,
    pages_after: u64,
    address: u64,
    entry: Entry,
}

impl ObjectFault {
    fn map(
        &self,
        protection: u64,
        read_ahead: impl FnOnce(u64) -> Range<u64>,
    ) -> Result<Step, Fault> {
        let extent = self.object.extent();
        if self.index >= extent.pages() {
            return Err(Fault::BadAddress);
        }
        match cache::find(self.object, self.index) {
            Found::Clean(frame) => {
                if self.entry.frame().is_none() {
                    frame::hold(frame);
                    self.entry.set(frame.physical() | protection);
                }
                block::count(extent.disk, |stats| stats.minor_faults += 1);
                let mapped = self.map_around(protection);
                self.read_ahead(extent.disk, extent.pages(), read_ahead(mapped));
                block::notify(extent.disk);
                Ok(Step::Done)
            }
            Found::Reading(page) => {
                block::count(extent.disk, |stats| stats.major_faults += 1);
                Ok(Step::Wait(page))
            }
            Found::Absent => match cache::start_read(self.object, self.index) {
                Ok(()) => {
                    // The page itself is on its way first, in a request of its own.
                    self.read_ahead(extent.disk, extent.pages(), read_ahead(0));
                    block::notify(extent.disk);
                    match cache::find(self.object, self.index) {
                        Found::Reading(page) => {
                            block::count(extent.disk, |stats| stats.major_faults += 1);
                            Ok(Step::Wait(page))
                        }
                        _ => Ok(Step::Done),
                    }
                }
                Err(NoStart::QueueFull(disk)) => Ok(Step::QueueFull(disk)),
                Err(NoStart::NoMemory) => Err(Fault::OutOfMemory),
            },
        }
    }

    /// Maps the pages after this one that are there already, as long as they share its table.
    fn map_around(&self, protection: u64) -> u64 {
        let mut entry = self.entry;
        let mut address = self.address;
        let most = self.pages_after.min(MAPPED_AROUND);
        cache::while_clean(self.object, self.index + 1, most, |frame| {
            address += PAGE;
            match entry.next(address) {
                Some(next) if next.get() & paging::PRESENT == 0 => entry = next,
                _ => return false,
            }
            frame::hold(frame);
            entry.set(frame.physical() | protection);
            true
        })
    }

    /// Starts reads that nobody waits for. What cannot be started now is left to a later fault.
    fn read_ahead(&self, disk: DiskId, object_pages: u64, range: Range<u64>) {
        let end = range
            .end
            .min(object_pages)
            .min(self.index + 1 + self.pages_after);
        let mut next = range.start;
        while next < end {
            match cache::find(self.object, next) {
                Found::Absent => {}
                _ => {
                    next += 1;
                    continue;
                }
            }
            let Ok(count) = cache::start_reads(self.object, next..end) else {
                return;
            };
            block::count(disk, |stats| stats.pages_read_ahead += count);
            next += count;
        }
    }
}

/// Gives the process a page of its own that begins as the object's page.
fn copy_page(
    object: ObjectId,
    index: u64,
    address: u64,
    entry: Entry,
    protection: u64,
    write: bool,
    zero_from: u64,
) -> Result<Step, Fault> {
    let extent = object.extent();
    if index >= extent.pages() {
        return Err(Fault::BadAddress);
    }
    let original = match cache::find(object, index) {
        Found::Clean(frame) => frame,
        Found::Reading(page) => return Ok(Step::Wait(page)),
        Found::Absent => match cache::start_read(object, index) {
            Ok(()) => {
                block::notify(extent.disk);
                return match cache::find(object, index) {
                    Found::Reading(page) => Ok(Step::Wait(page)),
                    _ => Ok(Step::Done),
                };
            }
            Err(NoStart::QueueFull(disk)) => return Ok(Step::QueueFull(disk)),
            Err(NoStart::NoMemory) => return Err(Fault::OutOfMemory),
        },
    };
    // Allocating may not evict the original: no cache function is called from here on.
    let before = entry.frame();
    if before.is_some_and(|before| before != original) {
        return Ok(Step::Done); // copied already, by another thread of the process
    }
    let frame = frame::alloc().ok_or(Fault::OutOfMemory)?;
    frame::copy(frame, original);
    if address + PAGE > zero_from {
        frame::zero(frame, zero_from.saturating_sub(address) as usize);
    }
    let writable = if write { paging::WRITABLE } else { 0 };
    entry.set(frame.physical() | protection | writable);
    if let Some(before) = before {
        cpu::forget_page(address);
        frame::release(before);
    }
    Ok(Step::Done)
}
