//! The places of the page cache, the index that finds them, and the clock hand that makes room.

use crate::arch::cpu;
use crate::block;
use crate::fs::object::ObjectId;
use crate::mm::boot_vec::{self, BootVec};
use crate::mm::frame::{self, Frame};
use crate::mm::paging::{ACCESSED, Entry, WRITABLE};
use crate::sync::WaitQueue;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// A place in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId(NonZeroU32);

impl PageId {
    /// The place with this number, from 1 on.
    #[inline(always)]
    pub fn from_number(number: u32) -> Option<PageId> {
        NonZeroU32::new(number).map(PageId)
    }

    /// Its number.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.0.get()
    }

    #[inline(always)]
    fn at(slot: usize) -> PageId {
        PageId(NonZeroU32::MIN.saturating_add(slot as u32))
    }

    #[inline(always)]
    fn slot(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// How the read of a page has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PageRead {
    Good,
    Failed,
    /// The request failed, and had other pages too.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing is here.
    Empty,
    Reading,
    Clean,
    /// In the list of dirty pages.
    Dirty,
    Writing,
    /// The read failed; not in the index any more.
    Failed,
    /// Not in the index any more, and kept only for those who hold it.
    Dropped,
}

pub(super) struct Page {
    pub object: ObjectId,
    pub index: u64,
    pub frame: Frame,
    pub state: State,
    /// Used since the clock hand came by.
    pub referenced: bool,
    /// To be dropped when the read in flight has ended.
    pub stale: bool,
    /// Changed since the write in flight began.
    pub dirty_again: bool,
    /// How many wait for it or use it without having it mapped.
    pub holders: u16,
    pub waiters: WaitQueue,
    next_in_bucket: Option<PageId>,
    pub next_in_request: Option<PageId>,
    pub next_dirty: Option<PageId>,
    /// Which write, counted over all, its write in flight is.
    pub write_number: u64,
}

/// Dirty pages, first dirtied first, as a list through [`Page::next_dirty`].
#[derive(Default)]
pub(super) struct DirtyList {
    pub first: Option<PageId>,
    pub last: Option<PageId>,
    pub count: usize,
}

pub(super) struct Cache {
    pages: BootVec<Page>,
    /// The number of the first page of each bucket, or 0; the length is a power of two.
    buckets: &'static mut [u32],
    /// Empty places.
    empty: BootVec<PageId>,
    /// How many pages of each object are in the index, by its number.
    counts: Vec<u32>,
    hand: usize,
    pub dirty: DirtyList,
    /// Pages being read or written.
    pub in_flight: usize,
    pub write_number: u64,
    /// A page of the write that began last.
    pub newest_write: Option<PageId>,
}

/// Fewest places: enough for the pages that one request and those who fault at once hold.
const MIN_PAGES: usize = 64;
/// How many pages the clock hand spares in a row before it takes the next one it can.
const SPARED_AT_MOST: usize = 16;

impl Cache {
    pub const fn empty() -> Cache {
        Cache {
            pages: BootVec::empty(),
            buckets: &mut [],
            empty: BootVec::empty(),
            counts: Vec::new(),
            hand: 0,
            dirty: DirtyList {
                first: None,
                last: None,
                count: 0,
            },
            in_flight: 0,
            write_number: 0,
            newest_write: None,
        }
    }

    /// Makes room for this many pages; `None` if there is no memory for that.
    pub fn reserve(&mut self, pages: usize) -> Option<()> {
        let pages = pages.max(MIN_PAGES);
        self.pages = BootVec::new(pages)?;
        self.empty = BootVec::new(pages)?;
        self.buckets = boot_vec::zeroes(pages.next_power_of_two())?;
        Some(())
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.pages.len() - self.empty.len()
    }

    /// How many pages fit.
    pub fn capacity(&self) -> usize {
        self.pages.capacity()
    }

    /// How many pages of an object are in the index.
    #[inline]
    pub fn pages_of(&self, object: ObjectId) -> u32 {
        self.counts
            .get(usize::from(object.number()))
            .copied()
            .unwrap_or(0)
    }

    /// The places that were ever used, in order.
    pub fn ids(&self) -> impl Iterator<Item = PageId> + use<> {
        (0..self.pages.len()).map(PageId::at)
    }

    /// Is there a page that could be given up?
    pub fn has_clean(&self) -> bool {
        self.pages
            .iter()
            .any(|page| page.state == State::Clean && page.holders == 0)
    }

    #[inline(always)]
    pub fn page(&mut self, id: PageId) -> &mut Page {
        &mut self.pages[id.slot()]
    }

    #[inline(always)]
    fn bucket(&self, object: ObjectId, index: u64) -> usize {
        let spread = u64::from(object.number()) << 7;
        index.wrapping_add(spread) as usize & (self.buckets.len() - 1)
    }

    #[inline(always)]
    fn first_of(&self, bucket: usize) -> Option<PageId> {
        PageId::from_number(self.buckets[bucket])
    }

    /// The page in the index, if it is there.
    #[inline]
    pub fn lookup(&mut self, object: ObjectId, index: u64) -> Option<PageId> {
        let mut next = self.first_of(self.bucket(object, index));
        while let Some(id) = next {
            let page = self.page(id);
            if page.index == index && page.object == object {
                return Some(id);
            }
            next = page.next_in_bucket;
        }
        None
    }

    /// A place for a page about to be read: a new one, an empty one, or one whose page is given up.
    #[inline(always)]
    pub fn place_for(&mut self, object: ObjectId, index: u64) -> Option<(PageId, Frame)> {
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
            stale: false,
            dirty_again: false,
            holders: 0,
            waiters: WaitQueue::new(),
            next_in_bucket: self.first_of(bucket),
            next_in_request: None,
            next_dirty: None,
            write_number: 0,
        };
        let id = match self.empty.pop() {
            Some(id) => {
                *self.page(id) = page;
                id
            }
            None => {
                self.pages.push(page);
                PageId::at(self.pages.len() - 1)
            }
        };
        self.buckets[bucket] = id.number();
        self.in_flight += 1;
        let number = usize::from(object.number());
        if number >= self.counts.len() {
            self.counts.resize(number + 1, 0);
        }
        self.counts[number] += 1;
        Some((id, frame))
    }

    /// Undoes [`Cache::place_for`] for a request that was not taken.
    pub fn take_back(&mut self, first: PageId) {
        let mut next = Some(first);
        while let Some(id) = next {
            next = self.page(id).next_in_request.take();
            self.in_flight -= 1;
            self.drop_page(id);
        }
    }

    /// A read has ended.
    #[inline(always)]
    pub fn page_read(&mut self, id: PageId, read: PageRead) {
        self.in_flight -= 1;
        let page = self.page(id);
        if read == PageRead::Good && !page.stale {
            page.state = State::Clean;
            return;
        }
        self.drop_page(id);
        // In all other cases those who wait come back for another read.
        if read == PageRead::Failed && self.page(id).holders > 0 {
            self.page(id).state = State::Failed;
        }
    }

    /// Takes a page out of the index and out of every mapping, and empties its place unless
    /// somebody holds it.
    pub fn drop_page(&mut self, id: PageId) {
        self.unmap(id);
        self.remove_from_index(id);
        if self.page(id).holders == 0 {
            self.give_up(id);
        } else {
            self.page(id).state = State::Dropped;
        }
    }

    /// Lets go of a page that the caller held.
    pub fn let_go(&mut self, id: PageId) {
        let page = self.page(id);
        page.holders -= 1;
        if page.holders == 0 && matches!(page.state, State::Failed | State::Dropped) {
            self.give_up(id);
        }
    }

    /// Makes every mapping of a page read-only: the next write to it faults.
    pub fn protect(&mut self, id: PageId) {
        self.for_each_entry(id, |entry, address| {
            let value = entry.get();
            if value & WRITABLE != 0 {
                entry.set(value & !WRITABLE);
                cpu::forget_page(address);
            }
        });
    }

    fn remove_from_index(&mut self, id: PageId) {
        let (object, index) = (self.page(id).object, self.page(id).index);
        self.counts[usize::from(object.number())] -= 1;
        let after = self.page(id).next_in_bucket;
        let bucket = self.bucket(object, index);
        let mut next = self.first_of(bucket);
        if next == Some(id) {
            self.buckets[bucket] = after.map_or(0, PageId::number);
            return;
        }
        while let Some(before) = next {
            let page = self.page(before);
            if page.next_in_bucket == Some(id) {
                page.next_in_bucket = after;
                return;
            }
            next = page.next_in_bucket;
        }
    }

    fn give_up(&mut self, id: PageId) {
        let page = self.page(id);
        page.state = State::Empty;
        frame::release(page.frame);
        self.empty.push(id);
    }

    /// Gives a clean page up that nobody holds, preferably one not used lately.
    pub fn evict(&mut self) -> Option<()> {
        let mut spared = 0;
        for _ in 0..2 * self.pages.len() {
            self.hand = if self.hand + 1 < self.pages.len() {
                self.hand + 1
            } else {
                0
            };
            let id = PageId::at(self.hand);
            let page = self.page(id);
            if page.holders > 0 || page.state != State::Clean {
                continue;
            }
            let referenced = core::mem::take(&mut page.referenced);
            if spared < SPARED_AT_MOST && (referenced || self.was_accessed(id)) {
                spared += 1;
                continue;
            }
            let disk = self.page(id).object.extent().disk;
            block::count(disk, |stats| stats.pages_evicted += 1);
            self.drop_page(id);
            return Some(());
        }
        None
    }

    /// Has a process used the page through a mapping since this was last asked?
    fn was_accessed(&mut self, id: PageId) -> bool {
        let mut accessed = false;
        self.for_each_entry(id, |entry, address| {
            let value = entry.get();
            if value & ACCESSED != 0 {
                accessed = true;
                entry.set(value & !ACCESSED);
                cpu::forget_page(address);
            }
        });
        accessed
    }

    fn unmap(&mut self, id: PageId) {
        let frame = self.page(id).frame;
        self.for_each_entry(id, |entry, address| {
            entry.set(0);
            cpu::forget_page(address);
            frame::release(frame);
        });
    }

    /// Every page table entry that maps the page itself (not a private copy of it).
    fn for_each_entry(&mut self, id: PageId, mut found: impl FnMut(Entry, u64)) {
        let page = self.page(id);
        let frame = page.frame;
        page.object.for_each_place(page.index, |root, address| {
            if let Some(entry) = root.find(address)
                && entry.frame() == Some(frame)
            {
                found(entry, address);
            }
        });
    }
}
