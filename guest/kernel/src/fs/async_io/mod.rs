//! Asynchronous system calls: a process submits requests, runs on, and collects completions.
//!
//! A request goes straight to the disk. While the disk's queue is full it waits in a list of its
//! process, the only place where a request can be cancelled; the interrupt that makes room moves
//! it on. What the disk takes in parts goes through that list too, and completes once. Its pages are held from the submission to the completion, so whatever the process does
//! to its mappings, the device writes into frames that nobody else has got.
//!
//! ```text
//!   submit -> waiting -> in flight -> done -> collected
//!                 +-- cancelled -------^
//! ```
//!
//! Submitting comes in two ways. Plain requests are started in runs (`run`): descriptor, process and
//! disk are looked up once for all of them. One that is long, that is wrong, or that has to wait for a
//! page or a write-back, is started alone. `table` holds a process's requests, `buffers` the memory
//! that it has registered for them.

mod buffers;
mod run;
mod table;

use super::file::{self, File, OpenObject};
use super::pinned::{self, Pinned};
use crate::arch::user_access;
use crate::block;
use crate::mm::cache::write_back;
use crate::task::process::{self, ProcessId};
use crate::task::scheduler::{self, Wait};
use arrayvec::ArrayVec;
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::{Errno, IoCompletion, IoRequest, MAX_IO, MAX_IO_BYTES, io};
use table::{Ask, COPIED_AT_ONCE, Kind};

pub use buffers::{IoBuffers, register, unregister};
pub use table::AsyncIo;

/// How many requests are read from a process at a time, and the disk notified after them: while it
/// does these, the next ones are submitted.
const SUBMITTED_AT_ONCE: usize = 16;

/// Submits up to `count` requests that lie at `requests` in the running process.
pub fn submit(requests: u64, count: u64) -> Result<u64, Errno> {
    let id = scheduler::current_process().ok_or(Errno::ESRCH)?;
    let mut submitted = 0;
    while submitted < count {
        let at = requests.wrapping_add(submitted.wrapping_mul(size_of::<IoRequest>() as u64));
        let step =
            read_some(at, count - submitted).and_then(|batch| match run::start(id, &batch) {
                0 => start_any(id, &batch[0]).map(|()| 1),
                started => Ok(started),
            });
        // What a disk takes in parts it gets from the list of those that wait.
        move_on();
        match step {
            Ok(started) => submitted += started,
            Err(error) if submitted == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(submitted)
}

/// Up to `most` requests at `at`, at least one.
fn read_some(at: u64, most: u64) -> Result<ArrayVec<IoRequest, SUBMITTED_AT_ONCE>, Errno> {
    user_access::read_values(at, most as usize)
        // Perhaps the first ones lie in memory that is there.
        .or_else(|_| user_access::read_value(at).map(|first| core::iter::once(first).collect()))
}

/// Starts any request, waiting for what has to come first.
#[inline(never)]
fn start_any(id: ProcessId, entry: &IoRequest) -> Result<(), Errno> {
    let (file, root) = {
        let process = process::current();
        let File::Object(file) = process.files.get(u64::from(entry.fd))? else {
            return Err(Errno::ENODEV);
        };
        (file, process.space.root())
    };
    let ask = match check(&file, entry) {
        Err(Errno::ENOSPC) if file::has_grown(entry.fd.into(), file.disk, file.extent.bytes) => {
            return start_any(id, entry);
        }
        ask => ask?,
    };
    write_back::sync_if_dirty(file.object)?;
    if ask.kind == Kind::Flush && !file.extent.disk.has_flush() {
        return end_at_once(id, ask);
    }
    if ask.buffer != 0 {
        return start_in_buffer(id, &file, ask, entry);
    }
    let mut buffer = Pinned::new(root);
    let read = ask.kind == Kind::Read;
    if buffer.fill(entry.buf, entry.len, read)? < entry.len {
        return Err(Errno::EINVAL); // more pages than a request has segments
    }
    let mut process = process::current();
    let async_io = &mut process.async_io;
    let place = async_io.make_place()?;
    if let Err(error) = buffer.hand_over(async_io.segments(place)) {
        async_io.give_back(place);
        return Err(error);
    }
    let mut disk = block::submitter(file.extent.disk);
    async_io.start(id, place, &mut disk, ask, None);
    Ok(())
}

/// The part of [`start_any`] for a flush of a disk that has none.
#[cold]
fn end_at_once(id: ProcessId, ask: Ask) -> Result<(), Errno> {
    let async_io = &mut process::current().async_io;
    let place = async_io.make_place()?;
    if async_io.end_at_once(place, ask) {
        scheduler::wake_matching(Wait::Completions(id));
    }
    Ok(())
}

/// The part of [`start_any`] for a request that names a registered buffer.
fn start_in_buffer(
    id: ProcessId,
    file: &OpenObject,
    ask: Ask,
    entry: &IoRequest,
) -> Result<(), Errno> {
    let mut process = process::current();
    let number = u64::from(ask.buffer);
    let segments = process.io_buffers.segments(number, entry.buf, entry.len)?;
    let async_io = &mut process.async_io;
    let place = async_io.make_place()?;
    let to = async_io.segments(place);
    if to.try_reserve_exact(segments.len()).is_err() {
        async_io.give_back(place);
        return Err(Errno::ENOMEM);
    }
    to.extend(segments);
    let mut disk = block::submitter(file.extent.disk);
    async_io.start(id, place, &mut disk, ask, None);
    Ok(())
}

/// Is the request one that the process may make? What does it ask for?
fn check(file: &OpenObject, entry: &IoRequest) -> Result<Ask, Errno> {
    let &IoRequest {
        operation,
        buf,
        len,
        offset,
        user_data,
        ..
    } = entry;
    if !file.direct {
        return Err(Errno::EINVAL);
    }
    let (what, buffer) = what_and_buffer(operation);
    let kind = match what {
        io::READ => Kind::Read,
        io::WRITE if file.write => Kind::Write(file.object),
        io::WRITE => return Err(Errno::EROFS),
        io::FLUSH if buffer == 0 && buf | len | offset == 0 => Kind::Flush,
        _ => return Err(Errno::EINVAL),
    };
    let unaligned = !(buf | len | offset).is_multiple_of(SECTOR_SIZE);
    if unaligned || len > MAX_IO_BYTES || len == 0 && kind != Kind::Flush {
        return Err(Errno::EINVAL);
    }
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
    if end > file.extent.bytes {
        return Err(Errno::ENOSPC);
    }
    if buffer == 0 {
        user_access::check_range(buf, len)?;
    }
    Ok(Ask {
        kind,
        sector: file.extent.first_sector + offset / SECTOR_SIZE,
        bytes: len as u32,
        user_data,
        buffer,
    })
}

/// An operation of [`io`], and the registered buffer that it names, or 0.
#[inline(always)]
fn what_and_buffer(operation: u32) -> (u32, u16) {
    let what = operation & ((1 << io::BUFFER_SHIFT) - 1);
    (what, (operation >> io::BUFFER_SHIFT) as u16)
}

/// Moves completions to `completions` in the running process: see guest/abi.
pub fn wait(completions: u64, max: u64, min: u64, timeout_ns: u64) -> Result<u64, Errno> {
    let id = scheduler::current_process().ok_or(Errno::ESRCH)?;
    if max == 0 || min > max {
        return Err(Errno::EINVAL);
    }
    let max = max.min(MAX_IO as u64);
    pinned::prepare_for_writing(completions, max * size_of::<IoCompletion>() as u64)?;
    let timed_out = wait_for(id, min as usize, timeout_ns)?;
    let mut copied = 0;
    while copied < max {
        let most = (max - copied).min(COPIED_AT_ONCE as u64) as usize;
        let batch = process::current().async_io.collect(most);
        if batch.is_empty() {
            break;
        }
        let at = completions + copied * size_of::<IoCompletion>() as u64;
        user_access::write_values(at, &batch)?;
        copied += batch.len() as u64;
    }
    if copied == 0 && timed_out {
        Err(Errno::ETIMEDOUT)
    } else {
        Ok(copied)
    }
}

/// Blocks until `min` completions are there. Was time up before?
fn wait_for(id: ProcessId, min: usize, timeout_ns: u64) -> Result<bool, Errno> {
    let mut deadline = None;
    loop {
        {
            let async_io = &mut process::current().async_io;
            if async_io.done() >= min {
                return Ok(false);
            }
            if async_io.open() < min {
                return Err(Errno::EINVAL);
            }
            async_io.wake_at(min);
        }
        if scheduler::current_is_killed() {
            return Err(Errno::EINTR);
        }
        let deadline = *deadline.get_or_insert_with(|| scheduler::deadline(timeout_ns));
        if scheduler::is_past(deadline) {
            return Ok(true);
        }
        scheduler::block_until(Wait::Completions(id), deadline);
    }
}

/// Cancels a request of the running process that its disk has not been given.
pub fn cancel(user_data: u64) -> Result<u64, Errno> {
    process::current().async_io.cancel(user_data).map(|()| 0)
}

/// A request of a process has ended: called by the interrupt handler.
#[inline(always)]
pub fn request_ended(processes: &mut process::Table, id: ProcessId, number: u16, ok: bool) {
    if let Some(process) = processes.get(id)
        && process.async_io.ended(number, ok)
    {
        scheduler::wake_matching(Wait::Completions(id));
    }
}

/// Gives waiting requests to disks that may have room again.
#[inline(always)]
pub fn move_on() {
    if table::any_waits() {
        process::for_each(|id, process| process.async_io.start_waiting(id));
    }
}

/// Blocks until nothing of the running process is in flight; what waits is dropped, and then the
/// registered buffers. The process is about to be torn down.
pub fn drain() {
    let Some(id) = scheduler::current_process() else {
        return;
    };
    loop {
        {
            let mut process = process::current();
            let async_io = &mut process.async_io;
            async_io.drop_waiting();
            if async_io.in_flight() == 0 {
                process.io_buffers.release_all();
                return;
            }
            async_io.wake_at(async_io.done() + async_io.in_flight());
        }
        scheduler::block(Wait::Completions(id));
    }
}
