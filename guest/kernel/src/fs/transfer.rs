//! Reading and writing through a descriptor, synchronously.
//!
//! ```text
//! read, write -> page cache (whole pages, shared with mappings)
//!             -> direct     (the device reads and writes the process's own memory)
//! ```

use super::file::{self, File};
use super::object::ObjectId;
use super::pinned::{self, Pinned};
use crate::arch::user_access;
use crate::block::{self, DiskId};
use crate::console;
use crate::mm::cache::{self, write_back};
use crate::mm::frame;
use crate::mm::layout::PAGE;
use crate::mm::paging::Root;
use crate::task::process;
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::Errno;
use iolite_virtio_driver::{Operation, Segment};

/// Reads up to `len` bytes at the descriptor's position into the process's memory at `buf`.
pub fn read(fd: u64, buf: u64, len: u64) -> Result<u64, Errno> {
    transfer_at_position::<false>(fd, buf, len)
}

/// Writes up to `len` bytes of the process's memory at `buf` at the descriptor's position.
pub fn write(fd: u64, buf: u64, len: u64) -> Result<u64, Errno> {
    transfer_at_position::<true>(fd, buf, len)
}

/// As [`read`], at `offset` bytes.
#[inline]
pub fn read_at(fd: u64, buf: u64, len: u64, offset: u64) -> Result<u64, Errno> {
    transfer::<false>(fd, buf, len, Some(offset))
}

/// As [`write`], at `offset` bytes.
#[inline]
pub fn write_at(fd: u64, buf: u64, len: u64, offset: u64) -> Result<u64, Errno> {
    transfer::<true>(fd, buf, len, Some(offset))
}

fn transfer_at_position<const WRITE: bool>(fd: u64, buf: u64, len: u64) -> Result<u64, Errno> {
    let file = process::current().files.get(fd)?;
    if let File::Console = file {
        user_access::check_range(buf, len)?;
        return if WRITE {
            console::write_from_user(buf, len)
        } else {
            console::read_to_user(buf, len)
        };
    }
    let done = transfer::<WRITE>(fd, buf, len, None)?;
    process::current().files.advance(fd, done);
    Ok(done)
}

/// Between the running process and an open file or disk, at `offset` or at its position.
#[inline(always)]
fn transfer<const WRITE: bool>(
    fd: u64,
    buf: u64,
    len: u64,
    offset: Option<u64>,
) -> Result<u64, Errno> {
    let (run, direct) = loop {
        let process = process::current();
        let File::Object(file) = process.files.get_ref(fd)? else {
            return Err(Errno::ENODEV);
        };
        user_access::check_range(buf, len)?;
        if WRITE && !file.write {
            return Err(Errno::EROFS);
        }
        let offset = offset.unwrap_or(file.position);
        let end = file.extent.bytes;
        if offset < end {
            let run = Run {
                object: file.object,
                disk: file.extent.disk,
                first_sector: file.extent.first_sector,
                root: process.space.root(),
                offset,
                buf,
                len: len.min(end - offset),
            };
            break (run, file.direct);
        }
        let disk = file.disk;
        drop(process);
        match file::has_grown(fd, disk, end) {
            true => {}
            false if WRITE && len > 0 => return Err(Errno::ENOSPC),
            false => return Ok(0),
        }
    };
    if direct {
        run.direct::<WRITE>()
    } else {
        run.through_cache::<WRITE>()
    }
}

/// Bytes to move between an object and the running process. All of it lies within both.
struct Run {
    object: ObjectId,
    disk: DiskId,
    /// Of the object.
    first_sector: u64,
    root: Root,
    offset: u64,
    buf: u64,
    len: u64,
}

impl Run {
    /// Page by page through the cache. What was moved before an error counts.
    #[inline(never)]
    fn through_cache<const WRITE: bool>(&self) -> Result<u64, Errno> {
        let mut done = 0;
        while done < self.len {
            let at = self.offset + done;
            let in_page = at % PAGE;
            let bytes = (PAGE - in_page).min(self.len - done);
            match self.one_cached::<WRITE>(at / PAGE, in_page, self.buf + done, bytes) {
                Ok(()) => done += bytes,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn one_cached<const WRITE: bool>(
        &self,
        index: u64,
        in_page: u64,
        buf: u64,
        bytes: u64,
    ) -> Result<(), Errno> {
        if WRITE {
            write_back::wait_while_crowded()?;
        }
        let page = cache::get(self.object, index)?;
        let range = in_page as usize..(in_page + bytes) as usize;
        if !WRITE {
            return user_access::write(buf, &page.bytes()[range]);
        }
        frame::write_from_user(page.frame(), range, buf)?;
        page.mark_dirty();
        Ok(())
    }

    /// Past the cache, as many pages at a time as one request takes; nothing needs none.
    #[inline(always)]
    fn direct<const WRITE: bool>(&self) -> Result<u64, Errno> {
        let unaligned = !(self.offset | self.buf | self.len).is_multiple_of(SECTOR_SIZE);
        if unaligned {
            return Err(Errno::EINVAL);
        }
        // What the cache has to say about the disk comes first.
        write_back::sync_if_dirty(self.object)?;
        // Neither empty nor longer than what is left of the page.
        if self.len.wrapping_sub(1) < PAGE - self.buf % PAGE {
            return self.one_page::<WRITE>();
        }
        if self.len == 0 {
            return Ok(0);
        }
        let done = self.one_request::<WRITE>(0)?;
        if done == self.len {
            Ok(done)
        } else {
            self.more_requests::<WRITE>(done)
        }
    }

    /// [`Run::one_request`] for all of it, which lies in one page.
    #[inline(always)]
    fn one_page<const WRITE: bool>(&self) -> Result<u64, Errno> {
        let frame = pinned::hold_page(self.root, self.buf, !WRITE)?;
        let segment = Segment {
            physical: frame.physical() + self.buf % PAGE,
            bytes: self.len as u32,
        };
        let result = self.request::<WRITE>(0, &[segment], self.len);
        frame::release(frame);
        result.map(|()| self.len)
    }

    #[cold]
    fn more_requests<const WRITE: bool>(&self, mut done: u64) -> Result<u64, Errno> {
        while done < self.len {
            match self.one_request::<WRITE>(done) {
                Ok(bytes) => done += bytes,
                Err(_) => break,
            }
        }
        Ok(done)
    }

    #[inline(never)]
    fn one_request<const WRITE: bool>(&self, done: u64) -> Result<u64, Errno> {
        let mut buffer = Pinned::new(self.root);
        let (at, left) = (self.buf + done, self.len - done);
        let bytes = buffer.fill(at, left, !WRITE)?;
        self.request::<WRITE>(done, buffer.segments(), bytes)?;
        Ok(bytes)
    }

    /// Moves `bytes` bytes from `done` on past the cache.
    #[inline(always)]
    fn request<const WRITE: bool>(
        &self,
        done: u64,
        segments: &[Segment],
        bytes: u64,
    ) -> Result<(), Errno> {
        let sector = self.first_sector + (self.offset + done) / SECTOR_SIZE;
        if !WRITE {
            return block::transfer(self.disk, Operation::Read { sector }, segments);
        }
        let pages = cache::pages_of(&self.object.extent(), self.offset + done, bytes);
        let result = block::transfer(self.disk, Operation::Write { sector }, segments);
        cache::drop_range(self.object, pages);
        result
    }
}
