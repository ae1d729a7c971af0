//! Address spaces: which areas a process may touch, and what is behind them.
//!
//! An area holds no memory by itself. The pager puts a page where a fault finds an area without
//! one; here pages only go away.

use super::frame::{self, Frame};
use super::heap;
use super::layout::PAGE;
use super::paging::{self, Root};
use crate::arch::cpu;
use crate::fs::object::ObjectId;
use alloc::vec::Vec;
use iolite_guest_abi::{Errno, USER_END, USER_START};
use iolite_guest_core::read_ahead::ReadAhead;

/// Most areas of a process.
pub const MAX_AREAS: usize = 128;
/// How many pages are forgotten one by one, rather than all of the address space at once.
const FORGET_ONE_BY_ONE: usize = 8;
/// Where mappings go whose place the kernel chooses.
const MAPPINGS_START: u64 = 0x1000_0000_0000;

/// What is behind an area.
#[derive(Clone, Copy, Debug)]
pub enum Backing {
    /// Pages that begin as zeroes.
    Zeroes,
    /// Frames that were mapped when the area was made: a channel's memory, or a driver's.
    Given,
    /// No frames, mapped when the area was made: a device's registers, or a ring for events.
    Foreign,
    /// Pages of a file or disk, seen by all who map them.
    Shared {
        /// Which one.
        object: ObjectId,
        /// The page of it at the area's start.
        first_page: u64,
        /// What its faults look like.
        stream: ReadAhead,
    },
    /// Pages of a file or disk; a page that is written becomes a copy.
    Private {
        /// Which one.
        object: ObjectId,
        /// The page of it at the area's start.
        first_page: u64,
        /// What its faults look like.
        stream: ReadAhead,
        /// The address from which on the last page reads zeroes, whatever the file holds there.
        zero_from: u64,
    },
}

impl Backing {
    /// A shared mapping of `object` from its page `first_page` on.
    pub fn shared(object: ObjectId, first_page: u64, stream: ReadAhead) -> Backing {
        Backing::Shared {
            object,
            first_page,
            stream,
        }
    }

    /// A private mapping of `object` from its page `first_page` on, zeroes from `zero_from` on.
    pub fn private(
        object: ObjectId,
        first_page: u64,
        stream: ReadAhead,
        zero_from: u64,
    ) -> Backing {
        Backing::Private {
            object,
            first_page,
            stream,
            zero_from,
        }
    }

    fn object(&self) -> Option<ObjectId> {
        match self {
            Backing::Zeroes | Backing::Given | Backing::Foreign => None,
            Backing::Shared { object, .. } | Backing::Private { object, .. } => Some(*object),
        }
    }

    /// The same, from `bytes` further on.
    fn advanced(mut self, bytes: u64) -> Backing {
        match &mut self {
            Backing::Zeroes | Backing::Given | Backing::Foreign => {}
            Backing::Shared {
                first_page, stream, ..
            }
            | Backing::Private {
                first_page, stream, ..
            } => {
                *first_page += bytes / PAGE;
                stream.restart();
            }
        }
        self
    }
}

/// A run of pages with one backing and one protection.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Address of its first byte.
    pub start: u64,
    /// Address after its last byte.
    pub end: u64,
    /// It can be written.
    pub write: bool,
    /// It can be executed.
    pub execute: bool,
    /// What is behind it.
    pub backing: Backing,
}

/// An address space.
pub struct Space {
    root: Root,
    /// By rising address; they do not overlap.
    areas: Vec<Area>,
    /// Where the last one that was looked for is, if nothing has changed.
    last: usize,
    next_mapping: u64,
}

impl Space {
    /// An empty one, or `None` when memory has run out.
    pub fn new() -> Option<Space> {
        Some(Space {
            root: Root::new()?,
            areas: Vec::new(),
            last: 0,
            next_mapping: MAPPINGS_START,
        })
    }

    /// Its page tables.
    #[inline(always)]
    pub fn root(&self) -> Root {
        self.root
    }

    /// The area that `address` lies in.
    #[inline]
    pub fn find(&mut self, address: u64) -> Option<&mut Area> {
        let holds = |area: &Area| (area.start..area.end).contains(&address);
        // Mostly it is the area of the last fault.
        if !self.areas.get(self.last).is_some_and(holds) {
            self.last = self.areas.iter().position(holds)?;
        }
        self.areas.get_mut(self.last)
    }

    /// Room for another area.
    fn reserve(&mut self) -> Result<(), Errno> {
        if self.areas.len() == MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        heap::check_room()?;
        self.areas.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }

    /// Adds an area at its place.
    pub fn insert(&mut self, area: Area) -> Result<(), Errno> {
        let valid = area.start >= USER_START && area.end <= USER_END && area.start < area.end;
        if !valid || area.write && area.execute {
            return Err(Errno::EINVAL);
        }
        self.reserve()?;
        let place = self.areas.partition_point(|other| other.start < area.start);
        let free = self
            .areas
            .get(place)
            .is_none_or(|next| next.start >= area.end)
            && place
                .checked_sub(1)
                .is_none_or(|before| self.areas[before].end <= area.start);
        if !free {
            return Err(Errno::EINVAL);
        }
        self.put(place, area)
    }

    fn put(&mut self, place: usize, area: Area) -> Result<(), Errno> {
        if let Some(object) = area.backing.object() {
            object.mapped(self.root, &area)?;
        }
        self.areas.insert(place, area);
        Ok(())
    }

    /// Adds an area of `bytes` bytes where there is room, an empty page after it, and gives its
    /// address.
    pub fn map(
        &mut self,
        bytes: u64,
        write: bool,
        execute: bool,
        backing: Backing,
    ) -> Result<u64, Errno> {
        let length = bytes.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
        let start = self.next_mapping;
        let end = start
            .checked_add(length)
            .filter(|end| *end < USER_END / 2)
            .ok_or(Errno::ENOMEM)?;
        self.insert(Area {
            start,
            end,
            write,
            execute,
            backing,
        })?;
        self.next_mapping = end + PAGE;
        Ok(start)
    }

    /// Maps `frames` where there is room, holding each once more, and gives the address.
    pub fn map_frames(
        &mut self,
        frames: impl ExactSizeIterator<Item = Frame>,
        write: bool,
    ) -> Result<u64, Errno> {
        let bytes = frames.len() as u64 * PAGE;
        let start = self.map(bytes, write, false, Backing::Given)?;
        let writable = if write { paging::WRITABLE } else { 0 };
        let protection = paging::PRESENT | paging::USER | paging::NO_EXECUTE | writable;
        for (page, frame) in frames.enumerate() {
            let Some(entry) = self.root.find_or_make(start + page as u64 * PAGE) else {
                self.unmap(start, start + bytes)?;
                return Err(Errno::ENOMEM);
            };
            frame::hold(frame);
            entry.set(frame.physical() | protection);
        }
        Ok(start)
    }

    /// Maps the registers in the `bytes` bytes from `physical` on, whole pages, where there is room.
    pub fn map_registers(&mut self, physical: u64, bytes: u64) -> Result<u64, Errno> {
        self.map_foreign(physical, bytes, paging::UNCACHED)
    }

    /// Maps the `bytes` bytes from `physical` on, whole pages that are no frames, where there is room.
    /// `more` are bits of page table entries.
    pub fn map_foreign(&mut self, physical: u64, bytes: u64, more: u64) -> Result<u64, Errno> {
        let start = self.map(bytes, true, false, Backing::Foreign)?;
        let protection = paging::PRESENT
            | paging::USER
            | paging::WRITABLE
            | paging::NO_EXECUTE
            | paging::FOREIGN
            | more;
        for offset in (0..bytes).step_by(PAGE as usize) {
            let Some(entry) = self.root.find_or_make(start + offset) else {
                self.unmap(start, start + bytes)?;
                return Err(Errno::ENOMEM);
            };
            entry.set((physical + offset) | protection);
        }
        Ok(start)
    }

    /// Takes `[start, end)` away, whatever lies there. ENOMEM, and nothing is gone, if there is no
    /// room for the two parts of an area that is cut in its middle.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        let cut = |area: &Area| area.start < end && start < area.end;
        let split = |area: &Area| area.start < start && end < area.end;
        if let Some(area) = self.areas.iter().find(|area| split(area)) {
            let object = area.backing.object();
            self.reserve()?;
            object.map_or(Ok(()), ObjectId::reserve_mapping)?;
        }
        while let Some(place) = self.areas.iter().position(cut) {
            let area = self.areas.remove(place);
            if let Some(object) = area.backing.object() {
                object.unmapped(self.root, area.start);
            }
            self.drop_pages(&area.backing, area.start.max(start), area.end.min(end));
            // What is left of it takes the room that it had, or that was reserved.
            if area.end > end {
                let backing = area.backing.advanced(end - area.start);
                let after = Area {
                    start: end,
                    backing,
                    ..area
                };
                self.put(place, after)?;
            }
            if area.start < start {
                self.put(place, Area { end: start, ..area })?;
            }
        }
        Ok(())
    }

    /// Puts `frame`, which the caller holds, in the place of whatever page an anonymous, writable
    /// area has at `address`.
    pub fn replace(&mut self, address: u64, frame: Frame) -> Result<(), Errno> {
        let root = self.root;
        let area = self.find(address).ok_or(Errno::EFAULT)?;
        if !area.write || !matches!(area.backing, Backing::Zeroes) {
            return Err(Errno::EFAULT);
        }
        let entry = root.find_or_make(address).ok_or(Errno::ENOMEM)?;
        let before = entry.frame();
        let protection = paging::PRESENT | paging::USER | paging::WRITABLE | paging::NO_EXECUTE;
        entry.set(frame.physical() | protection);
        if let Some(before) = before {
            cpu::forget_page(address);
            frame::release(before);
        }
        Ok(())
    }

    fn drop_pages(&self, backing: &Backing, start: u64, end: u64) {
        let memory = !matches!(backing, Backing::Foreign);
        let mut dropped = 0;
        self.root.for_each(start, end, |address, entry| {
            let Some(frame) = entry.frame() else { return };
            entry.set(0);
            dropped += 1;
            if dropped <= FORGET_ONE_BY_ONE {
                cpu::forget_page(address);
            }
            if memory {
                frame::release(frame);
            }
        });
        if dropped > FORGET_ONE_BY_ONE {
            cpu::forget_user_pages();
        }
    }

    /// Takes everything away.
    pub fn clear(&mut self) {
        for area in core::mem::take(&mut self.areas) {
            if let Some(object) = area.backing.object() {
                object.unmapped(self.root, area.start);
            }
            self.drop_pages(&area.backing, area.start, area.end);
        }
    }

    /// Gives the page tables back. The space has been cleared and is not loaded.
    pub fn free(&self) {
        debug_assert!(self.areas.is_empty() && self.root != paging::kernel_root());
        self.root.free();
    }
}
