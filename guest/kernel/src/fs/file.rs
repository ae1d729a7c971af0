//! A process's descriptors: what they stand for, and how they are opened and closed.

use super::directory;
use super::object::{Extent, ObjectId};
use crate::block::{self, DiskId, keeper, lent};
use crate::ipc::{channel, port};
use crate::mm::cache::write_back;
use crate::sync::CpuCell;
use crate::task::process;
use alloc::vec::Vec;
use iolite_guest_abi::{Errno, MAX_FDS, Stat, kind, open, rights};

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug)]
pub enum File {
    /// The console.
    Console,
    /// A file of the system disk, or a disk.
    Object(OpenObject),
    /// The device of a disk, to be driven by the process.
    Device(DiskId),
    /// A side of a port.
    Port(port::End),
    /// A side of a channel.
    Channel(channel::End),
}

impl File {
    /// Takes note of another descriptor of it.
    pub fn hold(self) {
        match self {
            File::Port(end) => end.hold(),
            File::Channel(end) => end.hold(),
            File::Console | File::Object(_) | File::Device(_) => {}
        }
    }

    /// A descriptor of it is gone.
    pub fn release(self) {
        match self {
            File::Port(end) => end.release(),
            File::Channel(end) => end.release(),
            File::Device(disk) => lent::closed(disk),
            File::Console | File::Object(_) => {}
        }
    }
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

    /// The console, and `passed` from 3 on, each of which has been counted.
    pub fn with(passed: &[File]) -> Files {
        let mut files = Files::new();
        for (place, file) in files.0[3..].iter_mut().zip(passed) {
            *place = Some(*file);
        }
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

    /// What `fd` stands for, in place.
    #[inline(always)]
    pub fn get_ref(&self, fd: u64) -> Result<&File, Errno> {
        let file = self.0.get(fd as usize).and_then(Option::as_ref);
        file.ok_or(Errno::EBADF)
    }

    /// Takes what `fd` stands for away from it.
    fn take(&mut self, fd: u64) -> Result<File, Errno> {
        self.0
            .get_mut(fd as usize)
            .and_then(Option::take)
            .ok_or(Errno::EBADF)
    }

    /// Is there room for another descriptor?
    pub fn has_room(&self) -> bool {
        self.0.iter().any(Option::is_none)
    }

    /// Is there a descriptor of the device of `disk`?
    pub fn has_device(&self, disk: DiskId) -> bool {
        let device = |file: &File| matches!(file, File::Device(other) if *other == disk);
        self.0.iter().flatten().any(device)
    }

    /// Adds a descriptor of `file`, which has been counted.
    pub fn add(&mut self, file: File) -> Result<u64, Errno> {
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
    if flags == open::DEVICE {
        return open_device(path);
    }
    if flags & !(open::WRITE | open::DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (write, direct) = (flags & open::WRITE != 0, flags & open::DIRECT != 0);
    let disk = disk_by_path(path);
    let object = match disk {
        Some(disk) if disk.is_lent() => return Err(Errno::EBUSY),
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
    let file = OpenObject {
        object,
        disk,
        write,
        direct,
        position: 0,
        extent,
    };
    process::current().files.add(File::Object(file))
}

fn open_device(path: &str) -> Result<u64, Errno> {
    let disk = disk_by_path(path).ok_or(Errno::ENOENT)?;
    let mut process = process::current();
    if process.rights & rights::DEVICES == 0 {
        return Err(Errno::EACCES);
    }
    process.files.add(File::Device(disk))
}

/// Closes a descriptor of the running process. Blocks while a device is reset.
pub fn close(fd: u64) -> Result<u64, Errno> {
    let file = process::current().files.take(fd)?;
    file.release();
    Ok(0)
}

/// Closes what the running process, which ends, has open: devices first, so that whoever hears that
/// a channel's other side is gone knows that no device writes into its memory any more.
pub fn close_all() {
    for devices in [true, false] {
        for fd in 0..MAX_FDS as u64 {
            let file = process::current().files.get(fd);
            if file.is_ok_and(|file| matches!(file, File::Device(_)) == devices) {
                let _ = close(fd);
            }
        }
    }
}

/// An object has become longer: who has it open sees that.
pub fn grow(object: ObjectId, bytes: u64) {
    process::for_each(|_, process| {
        for file in process.files.0.iter_mut().flatten() {
            if let File::Object(file) = file
                && file.object == object
            {
                file.extent.bytes = bytes;
            }
        }
    });
}

/// Is `fd`, which is `disk`, longer than `bytes` now?
#[cold]
#[inline(never)]
pub fn has_grown(fd: u64, disk: Option<DiskId>, bytes: u64) -> bool {
    if let Some(disk) = disk {
        keeper::look(disk);
    }
    let file = process::current().files.get(fd);
    matches!(file, Ok(File::Object(file)) if file.extent.bytes > bytes)
}

/// The object that is the whole of `disk`.
pub fn object_of(disk: DiskId) -> ObjectId {
    DISK_OBJECTS.borrow()[disk.number()]
}

/// Does any process have something of `disk` open or mapped?
pub fn in_use(disk: DiskId) -> bool {
    let mut open = object_of(disk).is_mapped();
    process::for_each(|_, process| {
        let on_disk = |file: &File| matches!(file, File::Object(file) if file.extent.disk == disk);
        open |= process.files.0.iter().flatten().any(on_disk);
    });
    open
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
        File::Object(file) => sync_object(file.object),
        _ => Err(Errno::ENODEV),
    }
}

/// What [`iolite_guest_abi::Number::Stat`] tells of `fd`.
pub fn stat(fd: u64) -> Result<Stat, Errno> {
    let file = process::current().files.get(fd)?;
    if let File::Device(disk)
    | File::Object(OpenObject {
        disk: Some(disk), ..
    }) = file
    {
        keeper::look(disk);
    }
    Ok(match file {
        File::Console => of_kind(kind::CONSOLE),
        File::Device(disk) => of_disk(disk),
        File::Port(_) => of_kind(kind::PORT),
        File::Channel(end) => Stat {
            size: end.bytes(),
            channel: end.number().into(),
            ..of_kind(kind::CHANNEL)
        },
        File::Object(file) => {
            let size = file.object.bytes();
            match file.disk {
                None => Stat {
                    size,
                    read_only: 1,
                    ..of_kind(kind::FILE)
                },
                Some(disk) => of_disk(disk),
            }
        }
    })
}

fn of_kind(kind: u32) -> Stat {
    Stat {
        kind,
        ..Stat::default()
    }
}

fn of_disk(disk: DiskId) -> Stat {
    Stat {
        size: object_of(disk).bytes(),
        read_only: u32::from(disk.read_only()),
        id: disk.id(),
        ..of_kind(kind::DISK)
    }
}
