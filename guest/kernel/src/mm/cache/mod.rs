//! The page cache: pages of disks and files, each read once for all who want it, and written back
//! when the kernel finds the time.
//!
//! ```text
//!              start_reads            mark_dirty           start_write
//!   absent ---------------> reading -------> clean ----------> dirty ----------> writing
//!      ^                       |               ^ |               ^                 |  |
//!      |<---- read failed -----+               | +-- evicted     +- written again -+  |
//!      |                                       +------------------ write ended -------+
//!      +<---------------------------------- write failed ------------------------------
//! ```
//!
//! Whoever wants a page that is being read joins its queue; the interrupt that ends the read makes
//! the page clean and wakes them. If the read failed, the page leaves the index at once: those who
//! waited find out that it failed, whoever comes later reads again, and nobody ever sees stale
//! bytes. Which page of a longer request failed, the disk does not say: those who waited for one of
//! these read it anew, alone. A page whose write failed leaves the index too, and the next `fsync` or `msync` of its
//! disk says so: what the cache shows is what the disk holds or will hold.
//!
//! `table` is the data structure: places, index, and the clock hand that makes room. `write_back`
//! decides what is written when. This file holds the reading side.

#![allow(unsafe_code)]

mod table;
pub mod write_back;

use super::frame::{self, Frame};
use super::layout::PAGE;
use crate::block::{self, DiskId, Owner};
use crate::fs::object::{Extent, ObjectId};
use crate::println;
use crate::sync::{CpuCell, WaitQueue};
use crate::task::scheduler;
use arrayvec::ArrayVec;
use core::ops::Range;
use iolite_guest_abi::Errno;
use iolite_virtio_driver::{MAX_SEGMENTS, Operation, Segment, SubmitError};
use table::{Cache, PageRead, State};

pub use table::PageId;

static CACHE: CpuCell<Cache> = CpuCell::new(Cache::empty());
/// Those who wait until a read or a write has ended, whichever.
static WAITING_FOR_ROOM: CpuCell<WaitQueue> = CpuCell::new(WaitQueue::new());

/// What a look into the cache finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The page, in this frame: clean, dirty or being written.
    Here(PageId, Frame),
    /// A read is in flight: [`wait`].
    Reading(PageId),
}

/// Why a read could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStart {
    /// The disk's queue is full: [`block::wait_for_room`].
    QueueFull(DiskId),
    /// No page can be given up now: [`wait_for_room`].
    NoRoom,
}

/// Sets the cache up for `bytes` bytes of pages, or for a quarter of memory.
pub fn init(bytes: Option<u64>) {
    let memory = frame::free_count() * PAGE;
    // Programs, and what the kernel keeps of them, need the rest.
    let most = memory / 2;
    if bytes.is_some_and(|bytes| bytes > most) {
        println!("iolite: cache=: not more than half of memory, {most} bytes");
    }
    let bytes = bytes.unwrap_or(memory / 4).min(most);
    let reserved = CACHE.borrow_mut().reserve((bytes / PAGE) as usize);
    assert!(reserved.is_some(), "no memory for the page cache");
}

/// Looks a page up, and starts reading it if it is not there. The disk has yet to be notified.
#[inline(always)]
pub fn find_or_start(object: ObjectId, index: u64, extent: &Extent) -> Result<Found, NoStart> {
    let mut cache = CACHE.borrow_mut();
    if let Some(id) = cache.lookup(object, index) {
        let page = cache.page(id);
        page.referenced = true;
        return Ok(match page.state {
            State::Reading => Found::Reading(id),
            _ => Found::Here(id, page.frame),
        });
    }
    let (id, frame) = cache.place_for(object, index).ok_or(NoStart::NoRoom)?;
    drop(cache);
    let (sector, bytes) = extent.page(index);
    if u64::from(bytes) < PAGE {
        frame::zero(frame, bytes as usize);
    }
    let segment = Segment {
        physical: frame.physical(),
        bytes,
    };
    let operation = Operation::Read { sector };
    match block::submit(extent.disk, operation, &[segment], Owner::Pages(id)) {
        Ok(()) => Ok(Found::Reading(id)),
        Err(SubmitError::Full | SubmitError::TooManySegments) => {
            CACHE.borrow_mut().take_back(id);
            Err(NoStart::QueueFull(extent.disk))
        }
    }
}

/// The first page of `range` that is not there and not on its way.
pub fn first_absent(object: ObjectId, range: Range<u64>) -> Option<u64> {
    let mut cache = CACHE.borrow_mut();
    range
        .into_iter()
        .find(|index| cache.lookup(object, *index).is_none())
}

/// Calls `take` with the frame of each page from `index` on, `most` at most, until one is not there
/// or `take` says no. Gives the number of pages taken.
#[inline]
pub fn while_here(
    object: ObjectId,
    index: u64,
    most: u64,
    mut take: impl FnMut(Frame) -> bool,
) -> u64 {
    let mut cache = CACHE.borrow_mut();
    for i in 0..most {
        let Some(id) = cache.lookup(object, index + i) else {
            return i;
        };
        let page = cache.page(id);
        if page.state == State::Reading || !take(page.frame) {
            return i;
        }
    }
    most
}

/// Starts reading the pages of `range` up to the first one that is there already, in one request,
/// and gives the number of pages. The disk has yet to be notified.
pub fn start_reads(object: ObjectId, range: Range<u64>) -> Result<u64, NoStart> {
    let extent = object.extent();
    let mut segments = ArrayVec::<Segment, MAX_SEGMENTS>::new();
    let mut cache = CACHE.borrow_mut();
    let (mut first, mut last) = (None, None);
    for index in range.clone() {
        if segments.is_full() || cache.lookup(object, index).is_some() {
            break;
        }
        let Some((id, frame)) = cache.place_for(object, index) else {
            break;
        };
        let (_, bytes) = extent.page(index);
        if u64::from(bytes) < PAGE {
            frame::zero(frame, bytes as usize);
        }
        segments.push(Segment {
            physical: frame.physical(),
            bytes,
        });
        match last {
            None => first = Some(id),
            Some(last) => cache.page(last).next_in_request = Some(id),
        }
        last = Some(id);
    }
    drop(cache);
    let Some(first) = first else {
        return Err(NoStart::NoRoom);
    };
    let operation = Operation::Read {
        sector: extent.page(range.start).0,
    };
    match block::submit(extent.disk, operation, &segments, Owner::Pages(first)) {
        Ok(()) => Ok(segments.len() as u64),
        Err(SubmitError::Full | SubmitError::TooManySegments) => {
            CACHE.borrow_mut().take_back(first);
            Err(NoStart::QueueFull(extent.disk))
        }
    }
}

/// A request for `first` and the pages linked to it has ended: called by the interrupt handler.
#[inline(always)]
pub fn request_ended(first: PageId, ok: bool) {
    let mut cache = CACHE.borrow_mut();
    let read = match cache.page(first).next_in_request {
        _ if ok => PageRead::Good,
        None => PageRead::Failed,
        Some(_) => PageRead::Unknown,
    };
    let mut next = Some(first);
    while let Some(id) = next {
        let page = cache.page(id);
        next = page.next_in_request.take();
        page.waiters.wake_all();
        match page.state {
            State::Writing => write_back::page_written(&mut cache, id, ok),
            _ => cache.page_read(id, read),
        }
    }
    drop(cache);
    WAITING_FOR_ROOM.borrow_mut().wake_all();
}

/// Blocks until the read of a page, which [`find`] just found in flight, has ended.
#[inline(always)]
pub fn wait(id: PageId) -> Result<(), Errno> {
    {
        let mut cache = CACHE.borrow_mut();
        let page = cache.page(id);
        page.holders += 1;
        page.waiters.join();
    }
    scheduler::block_queued();
    let mut cache = CACHE.borrow_mut();
    let failed = cache.page(id).state == State::Failed;
    cache.let_go(id);
    if failed { Err(Errno::EIO) } else { Ok(()) }
}

/// Blocks until a page may have become free: something is written back for that if nothing else is
/// in flight. ENOMEM when nothing is in flight and nothing can be written: every page is held.
pub fn wait_for_room() -> Result<(), Errno> {
    write_back::start_all();
    {
        let cache = CACHE.borrow();
        if cache.in_flight == 0 {
            // Without anything in flight room can only come from what others let go of.
            return if cache.has_clean() {
                Ok(())
            } else {
                Err(Errno::ENOMEM)
            };
        }
        WAITING_FOR_ROOM.borrow_mut().join();
    }
    scheduler::block_queued();
    Ok(())
}

/// Gives a clean page up for others to have its frame, or blocks until there may be one, as
/// [`wait_for_room`].
#[cold]
#[inline(never)]
pub fn make_room() -> Result<(), Errno> {
    let given_up = CACHE.borrow_mut().evict();
    given_up.map_or_else(wait_for_room, Ok)
}

/// A page that is held: it stays in the cache until the value goes.
pub struct PageRef {
    id: PageId,
    frame: Frame,
}

impl PageRef {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the page is held as long as `self` lives. Processes that map it may write to it
        // meanwhile; what the kernel takes from it are bytes that it copies or checks once.
        unsafe { frame::bytes(self.frame) }
    }

    /// Its frame.
    pub fn frame(&self) -> Frame {
        self.frame
    }

    /// Says that its bytes have been changed.
    pub fn mark_dirty(&self) {
        write_back::mark_dirty(self.id);
    }
}

impl Drop for PageRef {
    fn drop(&mut self) {
        CACHE.borrow_mut().let_go(self.id);
    }
}

/// A page, read if it is not there: blocks the running thread until it is.
pub fn get(object: ObjectId, index: u64) -> Result<PageRef, Errno> {
    let extent = object.extent();
    loop {
        match find_or_start(object, index, &extent) {
            Ok(Found::Here(id, frame)) => {
                CACHE.borrow_mut().page(id).holders += 1;
                return Ok(PageRef { id, frame });
            }
            Ok(Found::Reading(id)) => {
                block::notify(extent.disk);
                wait(id)?;
            }
            Err(NoStart::QueueFull(disk)) => block::wait_for_room(disk),
            Err(NoStart::NoRoom) => wait_for_room()?,
        }
    }
}

/// Drops the pages of `range` from the cache and from every mapping: what lies on the disk has just
/// been changed past the cache. A page that is being read is dropped when it has been. A page that
/// is dirty stays: who writes to the same page both ways at the same time gets either. Does not
/// block.
pub fn drop_range(object: ObjectId, range: Range<u64>) {
    let mut cache = CACHE.borrow_mut();
    if cache.pages_of(object) == 0 {
        return;
    }
    for index in range {
        let Some(id) = cache.lookup(object, index) else {
            continue;
        };
        match cache.page(id).state {
            State::Reading => cache.page(id).stale = true,
            State::Clean => cache.drop_page(id),
            _ => {}
        }
    }
}

/// Drops a page unless it is dirty, being written, or held. Is it gone, or as good as gone?
pub fn drop_if_idle(object: ObjectId, index: u64) -> bool {
    let mut cache = CACHE.borrow_mut();
    let Some(id) = cache.lookup(object, index) else {
        return true;
    };
    let page = cache.page(id);
    match page.state {
        State::Reading => page.stale = true,
        State::Clean if page.holders == 0 => cache.drop_page(id),
        _ => return false,
    }
    true
}

/// Drops every page of `object` that is clean from the cache and from every mapping; those that are
/// being read are dropped when they have been.
pub fn drop_all(object: ObjectId) {
    let mut cache = CACHE.borrow_mut();
    for id in cache.ids() {
        let page = cache.page(id);
        match page.state {
            State::Reading if page.object == object => page.stale = true,
            State::Clean if page.object == object => cache.drop_page(id),
            _ => {}
        }
    }
}

/// How many pages may be read ahead of one reader: an eighth of the cache, so that what is read for
/// some does not push out what was read for others.
pub fn read_ahead_limit() -> u64 {
    CACHE.borrow().capacity() as u64 / 8
}

/// How many pages there are, and how many of them are dirty.
pub fn counts() -> (u64, u64) {
    let cache = CACHE.borrow();
    (cache.count() as u64, cache.dirty.count as u64)
}

/// The pages of `extent` that the bytes `[offset, offset + bytes)` touch.
pub fn pages_of(extent: &Extent, offset: u64, bytes: u64) -> Range<u64> {
    offset / PAGE..(offset + bytes).div_ceil(PAGE).min(extent.pages())
}
