//! A process's descriptors, and what reading and writing through them means.
//!
//! ```text
//! read, write -> file -> page cache (whole pages, shared with mappings)
//!                     -> direct     (the device reads and writes the process's own memory)
//! ```

use super::directory;
use super::object::{Extent, ObjectId};
use crate::arch::user_access;
use crate::block::{self, DiskId};
use crate::console;
use crate::mm::cache::{self, write_back};
use crate::mm::frame::{self, Frame};
use crate::mm::layout::PAGE;
use crate::mm::paging::Root;
use crate::mm::{pager, paging};
use crate::sync::CpuCell;
use crate::task::process;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::{Errno, Fault, MAX_FDS, Stat, kind, open};
use iolite_virtio_driver::{MAX_SEGMENTS, Operation, Segment};

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug)]
pub enum File {
    /// The console.
    Console,
    /// A file of the system disk, or a disk.
    Object(OpenObject),
}

/// An open file or disk.
#[derive(Clone, Copy, Debug)]
pub struct OpenObject {
    /// Which one.
    pub object: ObjectId,
    /// It is a whole disk.
    pub disk: Option<DiskId>,
    /// It can be written.
    pub write: bool,
    /// Past the page cache.
    pub direct: bool,
    position: u64,
    /// Where it lies, at hand for every transfer.
    pub extent: Extent,
    /// How many segments a request can have.
    pub max_segments: usize,
}

/// The descriptors of a process.
pub struct Files([Option<File>; MAX_FDS]);

/// The object of each disk, in order.
static DISK_OBJECTS: CpuCell<Vec<ObjectId>> = CpuCell::new(Vec::new());

/// Enters the object of the next disk.
pub fn add_disk(object: ObjectId) {
    DISK_OBJECTS.borrow_mut().push(object);
}

impl Files {
    /// The console at 0, 1 and 2.
    pub fn new() -> Files {
        let mut files = Files([None; MAX_FDS]);
        files.0[..3].fill(Some(File::Console));
        files
    }

    /// What `fd` stands for.
    #[inline]
    pub fn get(&self, fd: u64) -> Result<File, Errno> {
        self.0
            .get(fd as usize)
            .copied()
            .flatten()
            .ok_or(Errno::EBADF)
    }

    /// Closes `fd`.
    pub fn close(&mut self, fd: u64) -> Result<(), Errno> {
        self.0
            .get_mut(fd as usize)
            .and_then(Option::take)
            .map(drop)
            .ok_or(Errno::EBADF)
    }

    fn add(&mut self, file: File) -> Result<u64, Errno> {
        let slot = self
            .0
            .iter()
            .position(Option::is_none)
            .ok_or(Errno::EMFILE)?;
        self.0[slot] = Some(file);
        Ok(slot as u64)
    }

    fn advance(&mut self, fd: u64, bytes: u64) {
        if let Some(Some(File::Object(file))) = self.0.get_mut(fd as usize) {
            file.position += bytes;
        }
    }
}

/// Opens `path` for the running process.
pub fn open(path: &str, flags: u64) -> Result<u64, Errno> {
    if flags & !(open::WRITE | open::DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (write, direct) = (flags & open::WRITE != 0, flags & open::DIRECT != 0);
    let disk = disk_by_path(path);
    let object = match disk {
        Some(disk) => DISK_OBJECTS.borrow()[disk.number()],
        None if path.starts_with("/dev/") => return Err(Errno::ENOENT),
        None => directory::find(path).ok_or(Errno::ENOENT)?,
    };
    // The system disk is mounted: nobody writes under the feet of the programs it holds.
    let writable = disk.is_some_and(|disk| !disk.read_only() && block::system_disk() != Some(disk));
    if write && !writable {
        return Err(Errno::EROFS);
    }
    if direct && disk.is_none() {
        return Err(Errno::EINVAL);
    }
    let extent = object.extent();
    let max_segments = extent.disk.max_segments().min(MAX_SEGMENTS);
    let file = OpenObject {
        object,
        disk,
        write,
        direct,
        position: 0,
        extent,
        max_segments,
    };
    process::current().files.add(File::Object(file))
}

/// `/dev/vda` is the first disk.
fn disk_by_path(path: &str) -> Option<DiskId> {
    let letter = path.strip_prefix("/dev/vd")?.as_bytes();
    let [letter @ b'a'..=b'z'] = letter else {
        return None;
    };
    DiskId::from_number(usize::from(letter - b'a'))
}

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
    let (file, root) = {
        let process = process::current();
        match process.files.get(fd)? {
            File::Object(file) => (file, process.space.root()),
            File::Console => return Err(Errno::ENODEV),
        }
    };
    user_access::check_range(buf, len)?;
    if WRITE && !file.write {
        return Err(Errno::EROFS);
    }
    let offset = offset.unwrap_or(file.position);
    if offset >= file.extent.bytes {
        return if WRITE && len > 0 {
            Err(Errno::ENOSPC)
        } else {
            Ok(0)
        };
    }
    let len = len.min(file.extent.bytes - offset);
    let run = Run {
        file: &file,
        root,
        offset,
        buf,
        len,
    };
    if file.direct {
        run.direct::<WRITE>()
    } else {
        run.through_cache::<WRITE>()
    }
}

/// Bytes to move between an object and the running process. All of it lies within both.
struct Run<'a> {
    file: &'a OpenObject,
    root: Root,
    offset: u64,
    buf: u64,
    len: u64,
}

impl Run<'_> {
    /// Page by page through the cache. What was moved before an error counts.
    fn through_cache<const WRITE: bool>(&self) -> Result<u64, Errno> {
        let mut done = 0;
        while done < self.len {
            let at = self.offset + done;
            let in_page = at % PAGE;
            let bytes = (PAGE - in_page).min(self.len - done);
            match self.one_page::<WRITE>(at / PAGE, in_page, self.buf + done, bytes) {
                Ok(()) => done += bytes,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn one_page<const WRITE: bool>(
        &self,
        index: u64,
        in_page: u64,
        buf: u64,
        bytes: u64,
    ) -> Result<(), Errno> {
        if WRITE {
            write_back::wait_while_crowded()?;
        }
        let page = cache::get(self.file.object, index)?;
        let range = in_page as usize..(in_page + bytes) as usize;
        if !WRITE {
            return user_access::write(buf, &page.bytes()[range]);
        }
        frame::write_from_user(page.frame(), range, buf)?;
        page.mark_dirty();
        Ok(())
    }

    /// Past the cache, as many pages at a time as one request takes.
    #[inline(always)]
    fn direct<const WRITE: bool>(&self) -> Result<u64, Errno> {
        let unaligned = !(self.offset | self.buf | self.len).is_multiple_of(SECTOR_SIZE);
        if unaligned {
            return Err(Errno::EINVAL);
        }
        // What the cache has to say about the disk comes first.
        write_back::sync_if_dirty(self.file.object)?;
        let done = self.one_request::<WRITE>(0)?;
        if done == self.len {
            Ok(done)
        } else {
            self.more_requests::<WRITE>(done)
        }
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

    #[inline(always)]
    fn one_request<const WRITE: bool>(&self, done: u64) -> Result<u64, Errno> {
        let extent = &self.file.extent;
        let mut buffer = Pinned::new(self.root);
        let most = self.file.max_segments;
        let bytes = buffer.fill(self.buf + done, self.len - done, !WRITE, most)?;
        let sector = extent.first_sector + (self.offset + done) / SECTOR_SIZE;
        if !WRITE {
            block::transfer(extent.disk, Operation::Read { sector }, &buffer.segments)?;
            return Ok(bytes);
        }
        let pages = cache::pages_of(extent, self.offset + done, bytes);
        let result = block::transfer(extent.disk, Operation::Write { sector }, &buffer.segments);
        cache::drop_range(self.file.object, pages);
        result.map(|()| bytes)
    }
}

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

    /// Holds the pages of `[address, address + len)`, as many as fit into `most` segments, and
    /// gives the number of bytes in them: whole sectors, whatever the pages are.
    #[inline(always)]
    pub fn fill(&mut self, address: u64, len: u64, write: bool, most: usize) -> Result<u64, Errno> {
        let mut done = 0;
        while done < len && self.segments.len() < most {
            let at = address + done;
            let bytes = (PAGE - at % PAGE).min(len - done);
            let frame = hold_page(self.root, at, write)?;
            let physical = frame.physical() + at % PAGE;
            self.segments.push(Segment {
                physical,
                bytes: bytes as u32,
            });
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

    /// Leaves the segments, and the duty to release their frames, to `to`, which is empty.
    #[inline(always)]
    pub fn hand_over(&mut self, to: &mut ArrayVec<Segment, MAX_SEGMENTS>) {
        for segment in &self.segments {
            to.push(*segment);
        }
        self.segments.clear();
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
fn hold_page(root: Root, address: u64, for_writing: bool) -> Result<Frame, Errno> {
    let needed = paging::PRESENT | paging::USER | if for_writing { paging::WRITABLE } else { 0 };
    loop {
        if let Some(entry) = root.find(address)
            && entry.get() & needed == needed
            && let Some(frame) = entry.frame()
        {
            frame::hold(frame);
            return Ok(frame);
        }
        pager::bring_in(address, for_writing).map_err(errno_of)?;
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

/// Reads `len` bytes of a disk the way mounting does: a page at a time into a frame of the
/// kernel's own, waiting for each; and hands the frames over to the process at `buf`.
pub fn scan(fd: u64, buf: u64, len: u64, offset: u64) -> Result<u64, Errno> {
    let File::Object(file) = process::current().files.get(fd)? else {
        return Err(Errno::ENODEV);
    };
    if !(buf | offset).is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let extent = file.extent;
    let len = len.min(extent.bytes.saturating_sub(offset));
    user_access::check_range(buf, len)?;
    write_back::sync_if_dirty(file.object)?;
    let mut done = 0;
    while done < len {
        let frame = frame::alloc().ok_or(Errno::ENOMEM)?;
        let result = read_page(&extent, (offset + done) / PAGE, frame)
            .and_then(|()| process::current().space.replace(buf + done, frame));
        if let Err(error) = result {
            frame::release(frame);
            return if done == 0 { Err(error) } else { Ok(done) };
        }
        done += PAGE;
    }
    Ok(len)
}

fn read_page(extent: &Extent, index: u64, frame: Frame) -> Result<(), Errno> {
    let (sector, bytes) = extent.page(index);
    if u64::from(bytes) < PAGE {
        frame::zero(frame, bytes as usize);
    }
    let segment = Segment {
        physical: frame.physical(),
        bytes,
    };
    block::transfer(extent.disk, Operation::Read { sector }, &[segment])
}

#[cold]
fn errno_of(fault: Fault) -> Errno {
    match fault {
        Fault::Io => Errno::EIO,
        Fault::OutOfMemory => Errno::ENOMEM,
        _ => Errno::EFAULT,
    }
}

/// Writes back what the cache has of `object`, and makes durable what its disk was given.
pub fn sync_object(object: ObjectId) -> Result<u64, Errno> {
    write_back::sync(object)?;
    block::flush(object.extent().disk)?;
    Ok(0)
}

/// Makes durable every write of `fd`'s disk that has completed.
pub fn sync(fd: u64) -> Result<u64, Errno> {
    let file = process::current().files.get(fd)?;
    match file {
        File::Console => Err(Errno::ENODEV),
        File::Object(file) => sync_object(file.object),
    }
}

/// What [`iolite_guest_abi::Number::Stat`] tells of `fd`.
pub fn stat(fd: u64) -> Result<Stat, Errno> {
    let file = process::current().files.get(fd)?;
    Ok(match file {
        File::Console => Stat {
            kind: kind::CONSOLE,
            ..Stat::default()
        },
        File::Object(file) => {
            let size = file.object.bytes();
            match file.disk {
                None => Stat {
                    size,
                    kind: kind::FILE,
                    read_only: 1,
                    ..Stat::default()
                },
                Some(disk) => {
                    let read_only = u32::from(disk.read_only());
                    Stat {
                        size,
                        kind: kind::DISK,
                        read_only,
                        id: disk.id(),
                        reserved: 0,
                    }
                }
            }
        }
    })
}
