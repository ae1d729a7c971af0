//! A process's memory, held for a device.

use crate::arch::user_access;
use crate::mm::frame::{self, Frame};
use crate::mm::heap;
use crate::mm::layout::PAGE;
use crate::mm::paging::Root;
use crate::mm::space::Backing;
use crate::mm::{pager, paging};
use crate::task::process;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::{Errno, Fault};
use iolite_virtio_driver::{MAX_SEGMENTS, Segment};

/// A part of the process's memory that a device is about to use: its frames are held until the
/// value goes, whatever becomes of the mapping.
pub struct Pinned {
    root: Root,
    segments: ArrayVec<Segment, MAX_SEGMENTS>,
}

impl Pinned {
    #[inline(always)]
    pub fn new(root: Root) -> Pinned {
        Pinned {
            root,
            segments: ArrayVec::new(),
        }
    }

    /// Holds the pages of `[address, address + len)`, as many as a request has segments, and
    /// gives the number of bytes in them: whole sectors, whatever the pages are.
    #[inline(always)]
    pub fn fill(&mut self, address: u64, len: u64, write: bool) -> Result<u64, Errno> {
        let mut done = 0;
        while done < len && !self.segments.is_full() {
            let at = address + done;
            let bytes = (PAGE - at % PAGE).min(len - done);
            let frame = hold_page(self.root, at, write)?;
            self.segments.push(segment(frame, at, bytes));
            done += bytes;
        }
        let partial = done % SECTOR_SIZE;
        if partial != 0
            && let Some(last) = self.segments.last_mut()
        {
            last.bytes -= partial as u32;
        }
        Ok(done - partial)
    }

    /// What a request names.
    #[inline(always)]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Leaves the segments, and the duty to release their frames, to `to`, which is empty.
    pub fn hand_over(&mut self, to: &mut Vec<Segment>) -> Result<(), Errno> {
        let count = self.segments.len();
        if to.capacity() < count {
            heap::check_room()?;
        }
        to.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        to.extend(self.segments.drain(..));
        Ok(())
    }
}

impl Drop for Pinned {
    #[inline(always)]
    fn drop(&mut self) {
        for segment in &self.segments {
            frame::release(Frame::containing(segment.physical));
        }
    }
}

/// The frame behind a user address, brought in if need be, held once more.
#[inline(always)]
pub fn hold_page(root: Root, address: u64, for_writing: bool) -> Result<Frame, Errno> {
    loop {
        if let Some(frame) = present(root, address, for_writing) {
            frame::hold(frame);
            return Ok(frame);
        }
        pager::bring_in(address, for_writing).map_err(errno_of)?;
    }
}

/// Holds `pages` pages from `address` on, brought in if need be, of memory that is the process's own,
/// or a channel's: what a device writes into a page of the cache would go past it.
pub fn hold_own(address: u64, pages: usize) -> Result<Vec<Frame>, Errno> {
    heap::check_room()?;
    let mut frames = Vec::new();
    frames.try_reserve_exact(pages).map_err(|_| Errno::ENOMEM)?;
    let held = (0..pages as u64).try_for_each(|page| {
        let at = address.checked_add(page * PAGE).ok_or(Errno::EFAULT)?;
        let root = {
            let mut process = process::current();
            let area = process.space.find(at).ok_or(Errno::EFAULT)?;
            if !area.write || !matches!(area.backing, Backing::Zeroes | Backing::Given) {
                return Err(Errno::EFAULT);
            }
            process.space.root()
        };
        frames.push(hold_page(root, at, true)?);
        Ok(())
    });
    if let Err(error) = held {
        frames.into_iter().for_each(frame::release);
        return Err(error);
    }
    Ok(frames)
}

/// The frame behind a user address, if a process can reach it in this way.
#[inline(always)]
pub fn present(root: Root, address: u64, for_writing: bool) -> Option<Frame> {
    let writable = if for_writing { paging::WRITABLE } else { 0 };
    let needed = paging::PRESENT | paging::USER | writable;
    // Registers are no frames.
    let mask = needed | paging::FOREIGN;
    let value = root.find(address)?.get();
    (value & mask == needed).then(|| Frame::containing(value & paging::ADDRESS))
}

#[inline(always)]
fn segment(frame: Frame, address: u64, bytes: u64) -> Segment {
    Segment {
        physical: frame.physical() + address % PAGE,
        bytes: bytes as u32,
    }
}

/// Brings in the pages of `[address, address + len)` so that the process could write to them.
pub fn prepare_for_writing(address: u64, len: u64) -> Result<(), Errno> {
    user_access::check_range(address, len)?;
    let root = process::current().space.root();
    let needed = paging::PRESENT | paging::USER | paging::WRITABLE;
    let mut page = address - address % PAGE;
    while page < address + len {
        if root
            .find(page)
            .is_none_or(|entry| entry.get() & needed != needed)
        {
            pager::bring_in(page, true).map_err(errno_of)?;
        }
        page += PAGE;
    }
    Ok(())
}

#[cold]
fn errno_of(fault: Fault) -> Errno {
    match fault {
        Fault::Io => Errno::EIO,
        Fault::OutOfMemory => Errno::ENOMEM,
        _ => Errno::EFAULT,
    }
}
