//! The pager: a page fault becomes a page.
//!
//! A fault on a page of a file or disk that is not in memory submits a read of that page, and
//! parks the one thread that needs it; the kernel and every other thread run on. What lies ahead
//! of a sequential reader is read at the same time and waited for by nobody. When the thread runs
//! again it looks everything up anew: while it slept the area may have been unmapped, the page
//! read and evicted, or mapped by another thread.

use super::cache::{self, Found, NoStart, write_back};
use super::frame;
use super::layout::PAGE;
use super::paging::{self, Entry};
use super::space::Backing;
use crate::arch::cpu;
use crate::block::{self, DiskId};
use crate::fs::object::{Extent, ObjectId};
use crate::task::process;
use crate::trace;
use core::ops::Range;
use iolite_guest_abi::Fault;
use iolite_guest_core::read_ahead::ReadAhead;

/// Bits of a page fault's error code (Intel SDM volume 3, section 4.7).
const FAULT_WRITE: u64 = 1 << 1;
const FAULT_RESERVED: u64 = 1 << 3;
const FAULT_FETCH: u64 = 1 << 4;

/// How many pages that are in memory already are mapped along with the one that faulted.
const MAPPED_AROUND: u64 = 32;

/// Handles a fault of the running process on `address`. Blocks while the page is being read.
#[inline(always)]
pub fn fault(address: u64, error_code: u64) -> Result<(), Fault> {
    match resolve(address, error_code) {
        Err(fault) => resolve_with_more_room(address, error_code, fault),
        done => done,
    }
}

/// What the cache could read again goes, as long as memory is lacking for what it could not.
#[cold]
#[inline(never)]
fn resolve_with_more_room(address: u64, error_code: u64, mut fault: Fault) -> Result<(), Fault> {
    while fault == Fault::OutOfMemory && cache::make_room().is_ok() {
        match resolve(address, error_code) {
            Err(next) => fault = next,
            done => return done,
        }
    }
    Err(fault)
}

fn resolve(address: u64, error_code: u64) -> Result<(), Fault> {
    if error_code & FAULT_RESERVED != 0 {
        return Err(Fault::BadAddress);
    }
    let access = Access {
        write: error_code & FAULT_WRITE != 0,
        fetch: error_code & FAULT_FETCH != 0,
    };
    let page = address - address % PAGE;
    let mut waited = false;
    loop {
        match step(page, access, waited)? {
            Step::Done => return Ok(()),
            Step::Wait(page) => {
                cache::wait(page).map_err(|_| Fault::Io)?;
                waited = true;
            }
            Step::QueueFull(disk) => block::wait_for_room(disk),
            Step::NoRoom => cache::wait_for_room().map_err(|_| Fault::OutOfMemory)?,
            Step::Crowded => write_back::wait_while_crowded().map_err(|_| Fault::OutOfMemory)?,
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
    /// No page can be given up.
    NoRoom,
    /// Too many pages are dirty to make another.
    Crowded,
}

/// As far as it goes without blocking.
#[inline(always)]
fn step(address: u64, access: Access, waited: bool) -> Result<Step, Fault> {
    let mut process = process::current();
    let root = process.space.root();
    let area = process.space.find(address).ok_or(Fault::BadAddress)?;
    if access.write && !area.write || access.fetch && !area.execute {
        return Err(Fault::BadAddress);
    }
    let entry = root.find_or_make(address).ok_or(Fault::OutOfMemory)?;
    let executable = if area.execute { 0 } else { paging::NO_EXECUTE };
    let missing = Missing {
        address,
        entry,
        protection: paging::PRESENT | paging::USER | executable,
        pages_after: (area.end - address) / PAGE - 1,
        waited,
    };
    let pages_in = (address - area.start) / PAGE;

    match &mut area.backing {
        Backing::Zeroes => missing.zeroes(area.write),
        // All of it was mapped from the start: something else is wrong.
        Backing::Given | Backing::Foreign => Err(Fault::BadAddress),
        Backing::Shared {
            object,
            first_page,
            stream,
        } => {
            let page = Page::new(*object, *first_page + pages_in)?;
            if access.write {
                missing.write_shared(&page)
            } else {
                missing.share(&page, stream)
            }
        }
        Backing::Private {
            object,
            first_page,
            stream,
            zero_from,
        } => {
            let page = Page::new(*object, *first_page + pages_in)?;
            let ends_in_zeroes = address + PAGE > *zero_from;
            if access.write || ends_in_zeroes {
                missing.copy(&page, area.write, *zero_from)
            } else {
                missing.share(&page, stream)
            }
        }
    }
}

/// A page of an object.
struct Page {
    object: ObjectId,
    index: u64,
    extent: Extent,
    /// How many pages the object has.
    pages: u64,
}

impl Page {
    fn new(object: ObjectId, index: u64) -> Result<Page, Fault> {
        let extent = object.extent();
        let pages = extent.pages();
        if index >= pages {
            return Err(Fault::BadAddress);
        }
        Ok(Page {
            object,
            index,
            extent,
            pages,
        })
    }

    /// The page if it is in memory, else what to do until it is: its read has been started.
    #[inline(always)]
    fn look(&self) -> Result<(cache::PageId, frame::Frame), Step> {
        match cache::find_or_start(self.object, self.index, &self.extent) {
            Ok(Found::Here(id, frame)) => Ok((id, frame)),
            Ok(Found::Reading(id)) => {
                block::count(self.extent.disk, |stats| stats.major_faults += 1);
                Err(Step::Wait(id))
            }
            Err(NoStart::QueueFull(disk)) => Err(Step::QueueFull(disk)),
            Err(NoStart::NoRoom) => Err(Step::NoRoom),
        }
    }

    /// Starts reads that nobody waits for. What cannot be started now is left to a later fault.
    /// Has any been started?
    fn read_ahead(&self, range: Range<u64>, pages_after: u64) -> bool {
        if range.is_empty() {
            return false;
        }
        let limit = self.index + 1 + pages_after;
        let end = range.end.min(self.pages).min(limit);
        let mut next = range.start;
        let mut started = 0;
        trace::reading_ahead(true);
        while let Some(absent) = cache::first_absent(self.object, next..end)
            && let Ok(count) = cache::start_reads(self.object, absent..end)
        {
            started += count;
            next = absent + count;
        }
        trace::reading_ahead(false);
        if started > 0 {
            block::count(self.extent.disk, |stats| stats.pages_read_ahead += started);
        }
        started > 0
    }
}

/// A place in an address space that lacks a page, or lacks it in the way that is needed.
struct Missing {
    address: u64,
    entry: Entry,
    /// How the page is to be mapped, but for writing.
    protection: u64,
    /// How many pages of the area follow.
    pages_after: u64,
    /// The thread has waited for the page's read already.
    waited: bool,
}

impl Missing {
    fn zeroes(&self, write: bool) -> Result<Step, Fault> {
        if self.entry.frame().is_none() {
            let frame = frame::alloc_zeroed().ok_or(Fault::OutOfMemory)?;
            let writable = if write { paging::WRITABLE } else { 0 };
            self.entry
                .set(frame.physical() | self.protection | writable);
        }
        Ok(Step::Done)
    }

    /// Maps the cache's page for reading, and those after it that are there already.
    #[inline(always)]
    fn share(&self, page: &Page, stream: &mut ReadAhead) -> Result<Step, Fault> {
        let found = page.look();
        // The page itself is on its way first, in a request of its own.
        let mapped = match found {
            Ok((_, frame)) => {
                if !self.waited {
                    block::count(page.extent.disk, |stats| stats.minor_faults += 1);
                }
                if self.entry.frame().is_none() {
                    frame::hold(frame);
                    self.entry.set(frame.physical() | self.protection);
                }
                self.map_around(page)
            }
            Err(_) => 0,
        };
        let range = stream.fault(page.index, mapped, cache::read_ahead_limit());
        let ahead = page.read_ahead(range, self.pages_after);
        if ahead || found.is_err() {
            block::notify(page.extent.disk);
        }
        Ok(found.map_or_else(|step| step, |_| Step::Done))
    }

    /// Maps the pages after this one that are there already, as long as they share its table.
    fn map_around(&self, page: &Page) -> u64 {
        let mut entry = self.entry;
        let in_table = Entry::after(self.address);
        let most = self.pages_after.min(MAPPED_AROUND).min(in_table);
        cache::while_here(page.object, page.index + 1, most, |frame| {
            entry = entry.following();
            if entry.get() & paging::PRESENT != 0 {
                return false;
            }
            frame::hold(frame);
            entry.set(frame.physical() | self.protection);
            true
        })
    }

    /// Maps the cache's page for writing: it is dirty from now on.
    fn write_shared(&self, page: &Page) -> Result<Step, Fault> {
        if write_back::is_crowded() {
            return Ok(Step::Crowded);
        }
        let (id, frame) = match page.look() {
            Ok(found) => found,
            Err(step) => {
                block::notify(page.extent.disk);
                return Ok(step);
            }
        };
        if self.entry.frame().is_none() {
            frame::hold(frame);
        }
        self.entry
            .set(frame.physical() | self.protection | paging::WRITABLE);
        cpu::forget_page(self.address);
        write_back::mark_dirty(id);
        Ok(Step::Done)
    }

    /// Gives the process a page of its own that begins as the object's page, with zeroes from the
    /// address `zero_from` on.
    fn copy(&self, page: &Page, write: bool, zero_from: u64) -> Result<Step, Fault> {
        let original = match page.look() {
            Ok((_, frame)) => frame,
            Err(step) => {
                block::notify(page.extent.disk);
                return Ok(step);
            }
        };
        // Allocating may not evict the original: no cache function is called from here on.
        let before = self.entry.frame();
        if before.is_some_and(|before| before != original) {
            return Ok(Step::Done); // copied already, by another thread of the process
        }
        let frame = frame::alloc().ok_or(Fault::OutOfMemory)?;
        frame::copy(frame, original);
        if self.address + PAGE > zero_from {
            frame::zero(frame, zero_from.saturating_sub(self.address) as usize);
        }
        let writable = if write { paging::WRITABLE } else { 0 };
        self.entry
            .set(frame.physical() | self.protection | writable);
        if let Some(before) = before {
            cpu::forget_page(self.address);
            frame::release(before);
        }
        Ok(Step::Done)
    }
}
