//! Write-back: dirty pages find their way to the disk without anyone waiting, unless someone asks
//! to.
//!
//! A page becomes dirty by `write`, or by a write fault on a shared mapping: mappings of clean
//! pages are read-only. When its write begins, its mappings are made read-only again, so that a
//! later change is noticed. The flusher, a kernel thread, writes what is dirty a second after the
//! first page became so, or at once when a quarter of the cache is; neighbours go in one request.
//! [`sync`] writes what an object has and waits for it.

use super::table::{Cache, PageId, State};
use super::{CACHE, NoStart};
use crate::arch::{cpu, time};
use crate::block::{self, Owner};
use crate::fs::object::{self, ObjectId};
use crate::task::scheduler::{self, Wait};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicUsize, Ordering};
use iolite_guest_abi::Errno;
use iolite_virtio_driver::{MAX_SEGMENTS, Operation, Segment};

/// How long a page stays dirty at most before its write begins.
const FLUSH_AFTER_NS: u64 = 1_000_000_000;

/// Pages that are dirty or being written.
static UNWRITTEN: AtomicUsize = AtomicUsize::new(0);

/// Says that a page's bytes have been changed, or are about to be.
pub fn mark_dirty(id: PageId) {
    let first = {
        let mut cache = CACHE.borrow_mut();
        match cache.page(id).state {
            State::Clean => {
                UNWRITTEN.fetch_add(1, Ordering::Relaxed);
                cache.add_dirty(id);
                let quarter = cache.capacity() / 4;
                cache.dirty.count == 1 || cache.dirty.count == quarter
            }
            State::Writing => {
                cache.page(id).dirty_again = true;
                false
            }
            _ => false,
        }
    };
    if first {
        scheduler::wake_matching(Wait::Flusher);
    }
}

/// Are there so many dirty pages that a writer has to wait before it makes another?
pub fn is_crowded() -> bool {
    let cache = CACHE.borrow();
    cache.dirty.count > cache.capacity() / 2
}

/// Blocks while [`is_crowded`].
pub fn wait_while_crowded() -> Result<(), Errno> {
    while is_crowded() {
        super::wait_for_room()?;
    }
    Ok(())
}

/// Starts the writes of every dirty page, as far as the disks' queues take them.
pub fn start_all() {
    start(|_| true);
}

/// Writes every dirty page and blocks until all are written. Gives the disks, a bit each, of which
/// a write has failed, now or earlier, without anybody having been told.
pub fn sync_all() -> u32 {
    let mut failed = 0;
    for object in object::all() {
        if CACHE.borrow().pages_of(object) > 0 && is_any_unwritten() {
            write_and_wait(object);
        }
        if object::take_write_error(object) {
            failed |= 1 << object.extent().disk.number();
        }
    }
    failed
}

/// Has the flusher begin now.
pub fn hurry() {
    if CACHE.borrow().dirty.count > 0 {
        scheduler::wake_matching(Wait::Flusher);
    }
}

/// Writes every dirty page of `object` and blocks until what was dirty is written. EIO if a write
/// of the object has failed since this was last said.
pub fn sync(object: ObjectId) -> Result<(), Errno> {
    // A page that was changed while its write was in flight is written a second time.
    let again = CACHE.borrow_mut().is_dirty_again(object);
    write_and_wait(object);
    if again {
        write_and_wait(object);
    }
    if object::take_write_error(object) {
        Err(Errno::EIO)
    } else {
        Ok(())
    }
}

/// Starts the writes of what is dirty of `object` now, and waits for these and those before them.
fn write_and_wait(object: ObjectId) {
    while let Some(NoStart::QueueFull(disk)) = start(|page| page == object) {
        block::wait_for_room(disk);
    }
    let (last, newest, ids) = {
        let cache = CACHE.borrow();
        (cache.write_number, cache.newest_write, cache.ids())
    };
    // When the newest write has ended, mostly all have: a large cache need not be searched.
    for id in newest.into_iter().chain(ids) {
        if !CACHE.borrow().is_any_being_written() {
            return;
        }
        wait_for_write(object, id, last);
    }
}

/// Is anything at all dirty or being written?
#[inline(always)]
pub fn is_any_unwritten() -> bool {
    UNWRITTEN.load(Ordering::Relaxed) != 0
}

/// [`sync`], unless nothing at all is dirty or being written.
#[inline]
pub fn sync_if_dirty(object: ObjectId) -> Result<(), Errno> {
    if is_any_unwritten() {
        sync(object)
    } else {
        Ok(())
    }
}

fn wait_for_write(object: ObjectId, id: PageId, last: u64) {
    loop {
        {
            let mut cache = CACHE.borrow_mut();
            let page = cache.page(id);
            let ours = page.object == object && page.write_number <= last;
            if !ours || page.state != State::Writing {
                return;
            }
            page.waiters.join();
        }
        scheduler::block_queued();
    }
}

/// The flusher.
pub extern "C" fn flusher(_: u64) {
    loop {
        if CACHE.borrow().dirty.count == 0 {
            scheduler::block(Wait::Flusher);
            continue;
        }
        let until = cpu::tsc().saturating_add(time::ticks(FLUSH_AFTER_NS));
        scheduler::block_until(Wait::Flusher, until);
        while let Some(NoStart::QueueFull(disk)) = start(|_| true) {
            block::wait_for_room(disk);
        }
    }
}

/// Starts the writes of the dirty pages of the objects that `wanted` picks; says why it stopped
/// early, if it did.
fn start(wanted: impl Fn(ObjectId) -> bool) -> Option<NoStart> {
    let mut chosen = CACHE.borrow_mut().take_dirty(wanted);
    let mut stopped = None;
    while let Some(first) = chosen {
        let (rest, result) = start_one(first);
        chosen = rest;
        if let Err(error) = result {
            CACHE.borrow_mut().put_back_dirty(chosen);
            stopped = Some(error);
            break;
        }
    }
    stopped
}

/// Starts one write: of `first`, and of the pages chained to it that are its neighbours. Gives the
/// rest of the chain.
fn start_one(first: PageId) -> (Option<PageId>, Result<(), NoStart>) {
    let mut cache = CACHE.borrow_mut();
    let (object, index) = (cache.page(first).object, cache.page(first).index);
    let extent = object.extent();
    let mut segments = ArrayVec::<Segment, MAX_SEGMENTS>::new();
    cache.write_number += 1;
    cache.newest_write = Some(first);
    let number = cache.write_number;
    let mut last: Option<PageId> = None;
    let mut next = Some(first);
    while let Some(id) = next
        && !segments.is_full()
    {
        let page = cache.page(id);
        if page.object != object || page.index != index + segments.len() as u64 {
            break;
        }
        next = page.next_dirty.take();
        page.state = State::Writing;
        page.dirty_again = false;
        page.write_number = number;
        let (_, bytes) = extent.page(page.index);
        segments.push(Segment {
            physical: page.frame.physical(),
            bytes,
        });
        cache.in_flight += 1;
        cache.protect(id);
        if let Some(last) = last {
            cache.page(last).next_in_request = Some(id);
        }
        last = Some(id);
    }
    drop(cache);
    let operation = Operation::Write {
        sector: extent.page(index).0,
    };
    if block::submit(extent.disk, operation, &segments, Owner::Pages(first)).is_ok() {
        block::notify(extent.disk);
        let count = segments.len() as u64;
        block::count(extent.disk, |stats| stats.pages_written_back += count);
        return (next, Ok(()));
    }
    CACHE.borrow_mut().not_written(first);
    (next, Err(NoStart::QueueFull(extent.disk)))
}

/// A page's write has ended.
pub(super) fn page_written(cache: &mut Cache, id: PageId, ok: bool) {
    cache.in_flight -= 1;
    let page = cache.page(id);
    let again = core::mem::take(&mut page.dirty_again);
    if ok {
        page.state = State::Clean;
        if again {
            cache.add_dirty(id);
        } else {
            UNWRITTEN.fetch_sub(1, Ordering::Relaxed);
        }
        return;
    }
    UNWRITTEN.fetch_sub(1, Ordering::Relaxed);
    // What the disk holds is not known: the next one to ask reads it.
    object::note_write_error(page.object);
    cache.drop_page(id);
}

impl Cache {
    fn is_any_being_written(&self) -> bool {
        UNWRITTEN.load(Ordering::Relaxed) > self.dirty.count
    }

    /// Does `object` have a page that was changed since its write in flight began?
    fn is_dirty_again(&mut self, object: ObjectId) -> bool {
        self.is_any_being_written()
            && self.ids().any(|id| {
                let page = self.page(id);
                page.object == object && page.state == State::Writing && page.dirty_again
            })
    }

    fn add_dirty(&mut self, id: PageId) {
        let page = self.page(id);
        page.state = State::Dirty;
        page.next_dirty = None;
        match self.dirty.last {
            Some(last) => self.page(last).next_dirty = Some(id),
            None => self.dirty.first = Some(id),
        }
        self.dirty.last = Some(id);
        self.dirty.count += 1;
    }

    /// Takes the pages of the objects that `wanted` picks out of the list of dirty pages, as a
    /// chain.
    fn take_dirty(&mut self, wanted: impl Fn(ObjectId) -> bool) -> Option<PageId> {
        let mut next = self.dirty.first.take();
        self.dirty.last = None;
        self.dirty.count = 0;
        let (mut first, mut last): (Option<PageId>, Option<PageId>) = (None, None);
        while let Some(id) = next {
            let page = self.page(id);
            next = page.next_dirty.take();
            if !wanted(page.object) {
                self.add_dirty(id);
                continue;
            }
            match last {
                Some(last) => self.page(last).next_dirty = Some(id),
                None => first = Some(id),
            }
            last = Some(id);
        }
        first
    }

    fn put_back_dirty(&mut self, chain: Option<PageId>) {
        let mut next = chain;
        while let Some(id) = next {
            next = self.page(id).next_dirty.take();
            self.add_dirty(id);
        }
    }

    /// Undoes [`start_one`] for a write that was not taken.
    fn not_written(&mut self, first: PageId) {
        let mut next = Some(first);
        while let Some(id) = next {
            next = self.page(id).next_in_request.take();
            self.in_flight -= 1;
            self.add_dirty(id);
        }
    }
}
