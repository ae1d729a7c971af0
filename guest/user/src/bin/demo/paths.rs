//! The paths: who asks for a block, and who waits for it. Each procedure reads the whole disk, in
//! order, and times its operations: a `pread`, an asynchronous read from submission to collection,
//! the first touch of a page, a scan of a block.

use crate::options::Options;
use crate::pass::Pass;
use crate::served;
use alloc::vec::Vec;
use iolite_user::core_logic::report::{PathKind, PathReport};
use iolite_user::{AsyncIo, Buffer, Errno, FOREVER, File, Instant, Mapping, MappingMut};
use iolite_user::{PAGE_BYTES, RequestId, Result};

/// How much of the disk is mapped at once: it has to fit into memory.
const WINDOW_BYTES: u64 = 16 << 20;
/// How much the kernel is asked to scan at once: a block, so that what is timed is one operation.
const SCAN_BYTES: usize = PAGE_BYTES;
/// Which part of the reads in flight is waited for before the next ones are submitted: a system call
/// is dear, and so is an idle disk.
const BATCHES: usize = 4;

/// Reads the disk along `path`.
///
/// # Errors
///
/// What the disk, or the kernel, says.
pub fn run(path: &'static PathKind, options: &Options) -> Result<PathReport<'static>> {
    if path.name == crate::SERVER.name {
        return served::run(path, options);
    }
    let write = options.write && path.name == crate::BLOCKING.name;
    let disk = match path.name {
        "pager" | "kernel-mount" => File::open(options.disk)?,
        _ if write => File::open_direct_writable(options.disk)?,
        _ => File::open_direct(options.disk)?,
    };
    let mut pass = Pass::start(path, &disk)?;
    match path.name {
        "pager" => page_in(&mut pass, &disk, options.read_ahead)?,
        "kernel-mount" => scan(&mut pass, &disk)?,
        "async-read" => read_many(&mut pass, &disk, options.in_flight)?,
        _ => read_one_by_one(&mut pass, &disk, write)?,
    }
    pass.report()
}

/// Reads by `pread`, and rewrites what it has read if `write`.
fn read_one_by_one(pass: &mut Pass, disk: &File, write: bool) -> Result<()> {
    let block = pass.block_bytes();
    let mut buffer = MappingMut::zeroed(block)?;
    while pass.hashed < pass.size {
        let len = (pass.size - pass.hashed).min(block as u64) as usize;
        let asked = Instant::now();
        let read = disk.pread(&mut buffer[..len], pass.hashed)?;
        pass.ended(asked);
        if read == 0 {
            return Err(Errno::EIO);
        }
        if write {
            disk.pwrite_all(&buffer[..read], pass.hashed)?;
        }
        pass.take(&buffer[..read]);
    }
    if write {
        disk.fsync()?;
    }
    Ok(())
}

/// A block of the disk on its way: block `n` has place `n % in_flight`.
struct Place {
    request: Option<RequestId>,
    asked: Instant,
    len: usize,
    /// The block, once it is here.
    block: Option<Buffer>,
}

/// Has up to `in_flight` reads in flight, and hashes in order what has come.
fn read_many(pass: &mut Pass, disk: &File, in_flight: usize) -> Result<()> {
    let block = pass.block_bytes();
    let mut io = AsyncIo::new()?;
    // More than the kernel holds for a process have to do without.
    let spare = Buffer::registered(in_flight, block);
    let mut spare = spare.or_else(|_| Buffer::many(in_flight, block))?;
    let mut places: Vec<Place> = Vec::new();
    let mut asked_for = 0;
    while pass.hashed < pass.size {
        while asked_for < pass.size
            && let Some(buffer) = spare.pop()
        {
            let len = (pass.size - asked_for).min(block as u64) as usize;
            let place = Place {
                asked: Instant::now(),
                request: Some(io.read(disk, asked_for, buffer, len)),
                len,
                block: None,
            };
            let at = (asked_for / block as u64) as usize % in_flight;
            match places.get_mut(at) {
                Some(old) => *old = place,
                None => places.push(place),
            }
            asked_for += len as u64;
        }
        for done in io.wait((in_flight / BATCHES).max(1), FOREVER)? {
            let place = places
                .iter_mut()
                .find(|place| place.request == Some(done.id));
            let place = place.ok_or(Errno::EIO)?;
            place.request = None;
            if done.result? != place.len {
                return Err(Errno::EIO);
            }
            place.block = done.buffer;
            pass.ended(place.asked);
        }
        while let Some(place) = places.get_mut((pass.hashed / block as u64) as usize % in_flight)
            && let Some(buffer) = place.block.take()
        {
            pass.take(&buffer[..place.len]);
            spare.push(buffer);
        }
    }
    Ok(())
}

/// Reads by touching a mapping, window by window.
fn page_in(pass: &mut Pass, disk: &File, read_ahead: bool) -> Result<()> {
    while pass.hashed < pass.size {
        let len = (pass.size - pass.hashed).min(WINDOW_BYTES) as usize;
        let window = match read_ahead {
            true => Mapping::of(disk, pass.hashed, len)?,
            false => Mapping::without_read_ahead(disk, pass.hashed, len)?,
        };
        for at in (0..len).step_by(PAGE_BYTES) {
            let asked = Instant::now();
            window.touch(at);
            pass.ended(asked);
            pass.take(&window[at..len.min(at + PAGE_BYTES)]);
        }
    }
    Ok(())
}

/// Has the kernel read as it does when it mounts.
fn scan(pass: &mut Pass, disk: &File) -> Result<()> {
    let mut buffer = MappingMut::zeroed(SCAN_BYTES)?;
    while pass.hashed < pass.size {
        let asked = Instant::now();
        let read = buffer.scan(disk, pass.hashed, SCAN_BYTES)?;
        pass.ended(asked);
        if read == 0 {
            return Err(Errno::EIO);
        }
        pass.take(&buffer[..read]);
    }
    Ok(())
}
