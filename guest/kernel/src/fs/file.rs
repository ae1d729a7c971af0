//! A process's descriptors: what they stand for, and how they are opened and closed.

use super::directory;
use super::object::{Extent, ObjectId};
use crate::block::{self, DiskId};
use crate::mm::cache::write_back;
use crate::sync::CpuCell;
use crate::task::process;
use alloc::vec::Vec;
use iolite_guest_abi::{Errno, MAX_FDS, Stat, kind, open};
use iolite_virtio_driver::MAX_SEGMENTS;

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
    /// Where the next `read` or `write` begins, in bytes.
    pub position: u64,
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

    /// Moves the position of `fd`.
    pub fn advance(&mut self, fd: u64, bytes: u64) {
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
