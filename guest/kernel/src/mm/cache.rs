//! The page cache: pages of disks and files, each read once for all who want it.
//!
//! A page is *absent* (nothing here stands for it), *reading*, *clean* or *failed*. Whoever wants a
//! page that is being read joins its queue; the interrupt that completes the read makes the page
//! clean and wakes them. If the read failed, the page leaves the index at once: those who waited
//! find out that it failed, whoever comes later reads again, and nobody ever sees stale bytes. The
//! last of those who waited gives the frame back.
//!
//! Writes go through to the disk before the call returns, so a page that nobody holds can be given
//! up at any time. The cache has a fixed number of places; a clock hand looks for one whose page
//! has not been used since it last came by.

#![allow(unsafe_code)]

use super::frame::{self, Frame};
use super::layout::PAGE;
use super::paging::ACCESSED;
use crate::arch::cpu;
use crate::block::{self, DiskId, Owner};
use crate::fs::object::{Extent, ObjectId};
use crate::sync::{CpuCell, WaitQueue};
use crate::task::scheduler;
use alloc::vec;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::ops::Range;
use iolite_guest_abi::Errno;
use iolite_virtio_driver::{MAX_SEGMENTS, Operation, Segment, SubmitError};

/// A place in the cache. Numbers begin at 1, so that an index of zeroes is an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId(u32);

impl PageId {
    /// The place with the number that [`PageId::number`] gave.
    #[inline(always)]
    pub fn from_number(number: u32) -> PageId {
        PageId(number)
    }

    /// Its number.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is here.
    Empty,
    Reading,
    Clean,
    /// The read failed; not in the index any more.
    Failed,
    /// Not in the index any more, and kept only for those who hold it.
    Dropped,
}

struct Page {
    object: ObjectId,
    index: u64,
    frame: Frame,
    state: State,
    /// Used since the clock hand came by.
    referenced: bool,
    /// How many wait for it or use it without having it mapped.
    holders: u16,
    waiters: WaitQueue,
    /// The next page in the same bucket of the index, and in the same request.
    next_in_bucket: u32,
    next_in_request: u32,
}

struct Cache {
    pages: Vec<Page>,
    /// Numbers of the first page of each bucket; the length is a power of two.
    buckets: Vec<u32>,
    /// Numbers of empty places.
    empty: Vec<u32>,
    hand: usize,
}

static CACHE: CpuCell<Cache> = CpuCell::new(Cache {
    pages: Vec::new(),
    buckets: Vec::new(),
    empty: Vec::new(),
    hand: 0,
});

/// Fewest places: enough for the pages that one request and those who fault at once hold.
const MIN_PAGES: u64 = 64;
/// How many pages the clock hand spares in a row before it takes the next one it can.
const SPARED_AT_MOST: usize = 16;

/// What a look into the cache finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The page, in this frame.
    Clean(Frame),
    /// A read is in flight: [`wait`].
    Reading(PageId),
    /// Nothing.
    Absent,
}

/// Why a read could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStart {
    /// The disk's queue is full.
    QueueFull(DiskId),
    /// Every page is held and no frame is free.
    NoMemory,
}

/// Sets the cache up for `bytes` bytes of pages.
pub fn init(bytes: u64) {
    let pages = (bytes / PAGE).max(MIN_PAGES) as usize;
    let mut cache = CACHE.borrow_mut();
    cache.pages = Vec::with_capacity(pages);
    cache.empty = Vec::with_capacity(pages);
    cache.buckets = vec![0; pages.next_power_of_two()];
}

/// Looks a page up.
#[inline]
pub fn find(object: ObjectId, index: u64) -> Found {
    let mut cache = CACHE.borrow_mut();
    let Some(id) = cache.lookup(object, index) else {
        return Found::Absent;
    };
    let page = cache.page(id);
    page.referenced = true;
    match page.state {
        State::Clean => Found::Clean(page.frame),
        _ => Found::Reading(id),
    }
}

/// Calls `take` with the frame of each page from `index` on, `most` at most, until one is not there
/// or `take` says no. Gives the number of pages taken.
#[inline]
pub fn while_clean(
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
        if page.state != State::Clean || !take(page.frame) {
            return i;
        }
    }
    most
}

/// Starts reading one page. The disk has yet to be notified.
pub fn start_read(object: ObjectId, index: u64) -> Result<(), NoStart> {
    match start_reads(object, index..index + 1) {
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Starts reading the pages of `range` up to the first one that is there already, in one request,
/// and gives the number of pages. The disk has yet to be notified.
pub fn start_reads(object: ObjectId, range: Range<u64>) -> Result<u64, NoStart> {
    let extent = object.extent();
    let mut segments = ArrayVec::<Segment, MAX_SEGMENTS>::new();
    let most = extent.disk.max_segments().min(MAX_SEGMENTS);
    let mut cache = CACHE.borrow_mut();
    let mut first = 0;
    let mut last = 0;
    for index in range.clone() {
        if segments.len() == most || cache.lookup(object, index).is_some() {
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
        if last == 0 {
            first = id.0;
        } else {
            cache.page(PageId(last)).next_in_request = id.0;
        }
        last = id.0;
    }
    drop(cache);
    if first == 0 {
        return Err(NoStart::NoMemory);
    }
    let first = PageId(first);

    let sector = extent.page(range.start).0;
    let operation = Operation::Read { sector };
    match block::submit(extent.disk, operation, &segments, Owner::Pages(first)) {
        Ok(()) => Ok(segments.len() as u64),
        Err(SubmitError::Full | SubmitError::TooManySegments) => {
            CACHE.borrow_mut().take_back(first);
            Err(NoStart::QueueFull(extent.disk))
        }
    }
}

/// Completes the read of `first` and the pages linked to it: called by the interrupt handler.
pub fn read_ended(first: PageId, ok: bool) -> u64 {
    let mut cache = CACHE.borrow_mut();
    let mut next = first.0;
    let mut count = 0;
    while next != 0 {
        let id = PageId(next);
        let page = cache.page(id);
        next = core::mem::take(&mut page.next_in_request);
        page.waiters.wake_all();
        count += 1;
        if ok {
            page.state = State::Clean;
        } else {
            page.state = State::Failed;
            let unwanted = page.holders == 0;
            cache.remove_from_index(id);
            if unwanted {
                cache.give_up(id);
            }
        }
    }
    count
}

/// Blocks until the read of a page, which [`find`] just found in flight, has ended.
pub fn wait(id: PageId) -> Result<(), Errno> {
    {
        let mut cache = CACHE.borrow_mut();
        let page = cache.page(id);
        page.holders += 1;
        page.waiters.join();
    }
    scheduler::block_queued();
    let mut cache = CACHE.borrow_mut();
    let page = cache.page(id);
    let failed = page.state == State::Failed;
    cache.let_go(id);
    if failed { Err(Errno::EIO) } else { Ok(()) }
}

/// A page that is held: it stays in the cache, clean, until the value goes.
pub struct PageRef {
    id: PageId,
    frame: Frame,
}

impl PageRef {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the page is held as long as `self` lives. A process that maps it can only read
        // it, and the kernel writes to it only through `PageRef::frame` in a call that copies.
        unsafe { frame::bytes(self.frame) }
    }

    /// Its frame.
    pub fn frame(&self) -> Frame {
        self.frame
    }
}

impl Drop for PageRef {
    fn drop(&mut self) {
        CACHE.borrow_mut().let_go(self.id);
    }
}

/// A page, read if it is not there: blocks the running thread until it is.
pub fn get(object: ObjectId, index: u64) -> Result<PageRef, Errno> {
    loop {
        let found = {
            let mut cache = CACHE.borrow_mut();
            let id = cache.lookup(object, index);
            match id {
                Some(id) if cache.page(id).state == State::Clean => {
                    let page = cache.page(id);
                    page.holders += 1;
                    page.referenced = true;
                    return Ok(PageRef {
                        id,
                        frame: page.frame,
                    });
                }
                other => other,
            }
        };
        match found {
            Some(id) => wait(id)?,
            None => match start_read(object, index) {
                Ok(()) => block::notify(object.extent().disk),
                Err(NoStart::QueueFull(disk)) => block::wait_for_room(disk),
                Err(NoStart::NoMemory) => return Err(Errno::ENOMEM),
            },
        }
    }
}

/// Drops the pages of `range` from the cache and from every mapping, waiting for reads in flight:
/// what lies on the disk has been, or is about to be, changed past the cache.
pub fn drop_range(object: ObjectId, range: Range<u64>) {
    for index in range {
        loop {
            let reading = {
                let mut cache = CACHE.borrow_mut();
                let Some(id) = cache.lookup(object, index) else {
                    break;
                };
                if cache.page(id).state == State::Clean {
                    cache.unmap_everywhere(id);
                    cache.remove_from_index(id);
                    if cache.page(id).holders == 0 {
                        cache.give_up(id);
                    } else {
                        cache.page(id).state = State::Dropped;
                    }
                    break;
                }
                id
            };
            let _ = wait(reading);
        }
    }
}

/// The pages of `extent` that the bytes `[offset, offset + bytes)` touch.
pub fn pages_of(extent: &Extent, offset: u64, bytes: u64) -> Range<u64> {
    offset / PAGE..(offset + bytes).div_ceil(PAGE).min(extent.pages())
}

impl Cache {
    #[inline(always)]
    fn page(&mut self, id: PageId) -> &mut Page {
        &mut self.pages[id.0 as usize - 1]
    }

    #[inline(always)]
    fn bucket(&self, object: ObjectId, index: u64) -> usize {
        let spread = u64::from(object.number()) << 7;
        (index.wrapping_add(spread)) as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn lookup(&mut self, object: ObjectId, index: u64) -> Option<PageId> {
        let mut number = self.buckets[self.bucket(object, index)];
        while number != 0 {
            let page = self.page(PageId(number));
            if page.index == index && page.object == object {
                return Some(PageId(number));
            }
            number = page.next_in_bucket;
        }
        None
    }

    /// A place for a page about to be read: a new one, an empty one, or one whose page is given up.
    fn place_for(&mut self, object: ObjectId, index: u64) -> Option<(PageId, Frame)> {
        let room = !self.empty.is_empty() || self.pages.len() < self.pages.capacity();
        if !room {
            self.evict()?;
        }
        let frame = frame::alloc().or_else(|| {
            self.evict()?;
            frame::alloc()
        })?;
        let bucket = self.bucket(object, index);
        let page = Page {
            object,
            index,
            frame,
            state: State::Reading,
            referenced: true,
            holders: 0,
            waiters: WaitQueue::new(),
            next_in_bucket: self.buckets[bucket],
            next_in_request: 0,
        };
        let number = match self.empty.pop() {
            Some(number) => {
                *self.page(PageId(number)) = page;
                number
            }
            None => {
                self.pages.push(page);
                self.pages.len() as u32
            }
        };
        self.buckets[bucket] = number;
        Some((PageId(number), frame))
    }

    /// Undoes [`Cache::place_for`] for a request that was not taken.
    fn take_back(&mut self, first: PageId) {
        let mut next = first.0;
        while next != 0 {
            let id = PageId(next);
            next = core::mem::take(&mut self.page(id).next_in_request);
            self.remove_from_index(id);
            self.give_up(id);
        }
    }

    fn remove_from_index(&mut self, id: PageId) {
        let (object, index) = (self.page(id).object, self.page(id).index);
        let after = self.page(id).next_in_bucket;
        let bucket = self.bucket(object, index);
        let mut number = self.buckets[bucket];
        if number == id.0 {
            self.buckets[bucket] = after;
            return;
        }
        while number != 0 {
            let page = self.page(PageId(number));
            if page.next_in_bucket == id.0 {
                page.next_in_bucket = after;
                return;
            }
            number = page.next_in_bucket;
        }
    }

    /// Lets go of a page that the caller held.
    fn let_go(&mut self, id: PageId) {
        let page = self.page(id);
        page.holders -= 1;
        if page.holders == 0 && matches!(page.state, State::Failed | State::Dropped) {
            self.give_up(id);
        }
    }

    /// Empties a place that is not in the index and that nobody holds.
    fn give_up(&mut self, id: PageId) {
        let page = self.page(id);
        page.state = State::Empty;
        frame::release(page.frame);
        self.empty.push(id.0);
    }

    /// Gives a page up that nobody holds, preferably one not used lately.
    fn evict(&mut self) -> Option<()> {
        let mut spared = 0;
        for _ in 0..2 * self.pages.len() {
            self.hand = if self.hand + 1 < self.pages.len() {
                self.hand + 1
            } else {
                0
            };
            let id = PageId(self.hand as u32 + 1);
            let page = self.page(id);
            if page.holders > 0 {
                continue;
            }
            if page.state != State::Clean {
                continue;
            }
            let referenced = core::mem::take(&mut page.referenced);
            let used = referenced || self.was_accessed(id);
            if used && spared < SPARED_AT_MOST {
                spared += 1;
                continue;
            }
            block::count(self.page(id).object.extent().disk, |stats| {
                stats.pages_evicted += 1
            });
            self.unmap_everywhere(id);
            self.remove_from_index(id);
            self.give_up(id);
            return Some(());
        }
        None
    }

    /// Has a process used the page through a mapping since this was last asked?
    fn was_accessed(&mut self, id: PageId) -> bool {
        let (object, index) = (self.page(id).object, self.page(id).index);
        let mut accessed = false;
        object.for_each_place(index, |root, address| {
            if let Some(entry) = root.find(address)
                && entry.get() & ACCESSED != 0
            {
                accessed = true;
                entry.set(entry.get() & !ACCESSED);
                cpu::forget_page(address);
            }
        });
        accessed
    }

    fn unmap_everywhere(&mut self, id: PageId) {
        let (object, index, frame) = (
            self.page(id).object,
            self.page(id).index,
            self.page(id).frame,
        );
        object.for_each_place(index, |root, address| {
            if let Some(entry) = root.find(address)
                && entry.frame() == Some(frame)
            {
                entry.set(0);
                cpu::forget_page(address);
                frame::release(frame);
            }
        });
    }
}
