//! Asynchronous system calls: a process submits requests, runs on, and collects completions.
//!
//! A request goes straight to the disk. While the disk's queue is full it waits in a list of its
//! process, the only place where a request can be cancelled; the interrupt that makes room moves
//! it on. Its pages are held from the submission to the completion, so whatever the process does
//! to its mappings, the device writes into frames that nobody else has got.
//!
//! ```text
//!   submit -> waiting -> in flight -> done -> collected
//!                 +-- cancelled -------^
//! ```

use super::file::{File, OpenObject};
use super::pinned::{self, Pinned};
use crate::arch::user_access;
use crate::block::{self, DiskId, Owner};
use crate::fs::object::ObjectId;
use crate::mm::cache::{self, write_back};
use crate::mm::frame;
use crate::task::process::{self, ProcessId};
use crate::task::scheduler::{self, Wait};
use alloc::boxed::Box;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::{Errno, IoCompletion, IoRequest, MAX_IO, MAX_IO_BYTES, io};
use iolite_virtio_driver::{MAX_SEGMENTS, Operation, Segment, SubmitError};

/// How many completions are copied to a process at a time.
const COPIED_AT_ONCE: usize = 32;

/// Requests that wait for room, of all processes.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The requests of a process.
#[derive(Default)]
pub struct AsyncIo {
    #[expect(clippy::vec_box, reason = "growing is to move pointers, not requests")]
    requests: Vec<Box<Request>>,
    free: Vec<u16>,
    waiting: List,
    done: List,
    in_flight: usize,
    /// The fewest completions that a blocked thread wants; 0 when none is blocked.
    wanted: usize,
}

struct Request {
    user_data: u64,
    disk: DiskId,
    operation: Operation,
    /// The process's memory, held.
    segments: ArrayVec<Segment, MAX_SEGMENTS>,
    /// What a write changes past the page cache.
    written: Option<(ObjectId, Range<u64>)>,
    bytes: u32,
    result: i64,
    /// The next one in the list this one is in.
    next: Option<u16>,
}

/// Requests in order, linked through [`Request::next`].
#[derive(Default)]
struct List {
    first: Option<u16>,
    last: Option<u16>,
    count: usize,
}

/// Submits up to `count` requests that lie at `requests` in the running process.
pub fn submit(requests: u64, count: u64) -> Result<u64, Errno> {
    let mut notify = None;
    let mut submitted = 0;
    while submitted < count {
        let at = requests.wrapping_add(submitted.wrapping_mul(size_of::<IoRequest>() as u64));
        let result = user_access::read_value::<IoRequest>(at).and_then(|entry| {
            let disk = submit_one(&entry)?;
            if let Some(other) = notify.replace(disk)
                && other != disk
            {
                block::notify(other);
            }
            Ok(())
        });
        match result {
            Ok(()) => submitted += 1,
            Err(error) if submitted == 0 => return Err(error),
            Err(_) => break,
        }
    }
    if let Some(disk) = notify {
        block::notify(disk);
    }
    Ok(submitted)
}

fn submit_one(entry: &IoRequest) -> Result<DiskId, Errno> {
    let id = scheduler::current_process().ok_or(Errno::ESRCH)?;
    let (file, root) = {
        let process = process::current();
        let File::Object(file) = process.files.get(u64::from(entry.fd))? else {
            return Err(Errno::ENODEV);
        };
        (file, process.space.root())
    };
    if !file.direct {
        return Err(Errno::EINVAL);
    }
    write_back::sync_if_dirty(file.object)?;
    let mut buffer = Pinned::new(root);
    let operation = prepare(&file, entry, &mut buffer)?;

    let mut process = process::current();
    let async_io = &mut process.async_io;
    let number = async_io.take_free()?;
    let request = &mut *async_io.requests[usize::from(number)];
    request.user_data = entry.user_data;
    request.disk = file.extent.disk;
    request.operation = operation;
    request.bytes = entry.len as u32;
    request.result = Request::BUSY;
    if let Operation::Write { .. } = operation {
        let pages = cache::pages_of(&file.extent, entry.offset, entry.len);
        request.written = Some((file.object, pages));
    }
    buffer.hand_over(&mut request.segments);
    async_io.start(id, number);
    Ok(file.extent.disk)
}

/// Checks a request and holds its buffer's pages, which may have to be brought in first.
fn prepare(file: &OpenObject, entry: &IoRequest, buffer: &mut Pinned) -> Result<Operation, Errno> {
    let &IoRequest {
        operation,
        buf,
        len,
        offset,
        ..
    } = entry;
    let write = match operation {
        io::READ => false,
        io::WRITE => true,
        io::FLUSH if buf | len | offset == 0 => return Ok(Operation::Flush),
        _ => return Err(Errno::EINVAL),
    };
    if write && !file.write {
        return Err(Errno::EROFS);
    }
    let unaligned = !(buf | len | offset).is_multiple_of(SECTOR_SIZE);
    if unaligned || len == 0 || len > MAX_IO_BYTES {
        return Err(Errno::EINVAL);
    }
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
    if end > file.extent.bytes {
        return Err(Errno::ENOSPC);
    }
    user_access::check_range(buf, len)?;
    if buffer.fill(buf, len, !write, file.max_segments)? < len {
        return Err(Errno::EINVAL); // the disk takes no request of so many pages
    }
    let sector = file.extent.first_sector + offset / SECTOR_SIZE;
    Ok(if write {
        Operation::Write { sector }
    } else {
        Operation::Read { sector }
    })
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
            if async_io.done.count >= min {
                return Ok(false);
            }
            if async_io.done.count + async_io.in_flight + async_io.waiting.count < min {
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

/// A request of `process` has ended: called by the interrupt handler.
pub fn request_ended(process: ProcessId, number: u16, ok: bool) {
    let wake = process::get(process).async_io.ended(number, ok);
    if wake {
        scheduler::wake_matching(Wait::Completions(process));
    }
}

/// Gives waiting requests to disks that may have room again.
pub fn move_on() {
    if WAITING.load(Ordering::Relaxed) == 0 {
        return;
    }
    process::for_each(|id, process| process.async_io.start_waiting(id));
}

/// Blocks until nothing of the running process is in flight; what waits is dropped. The process is
/// about to be torn down.
pub fn drain() {
    let Some(id) = scheduler::current_process() else {
        return;
    };
    loop {
        {
            let async_io = &mut process::current().async_io;
            async_io.drop_waiting();
            if async_io.in_flight == 0 {
                return;
            }
            async_io.wake_at(async_io.done.count + async_io.in_flight);
        }
        scheduler::block(Wait::Completions(id));
    }
}

impl AsyncIo {
    fn take_free(&mut self) -> Result<u16, Errno> {
        if let Some(number) = self.free.pop() {
            return Ok(number);
        }
        if self.requests.len() == MAX_IO {
            return Err(Errno::EAGAIN);
        }
        self.requests.push(Request::new());
        Ok((self.requests.len() - 1) as u16)
    }

    /// Gives a request to its disk, or to the list of those that wait.
    fn start(&mut self, id: ProcessId, number: u16) {
        if self.waiting.count > 0 || !self.give_to_disk(id, number) {
            push(&mut self.requests, &mut self.waiting, number);
            WAITING.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn give_to_disk(&mut self, id: ProcessId, number: u16) -> bool {
        let request = &self.requests[usize::from(number)];
        let owner = Owner::Async(id, number);
        match block::submit(request.disk, request.operation, &request.segments, owner) {
            Ok(()) => {
                self.in_flight += 1;
                true
            }
            Err(SubmitError::Full | SubmitError::TooManySegments) => false,
        }
    }

    fn start_waiting(&mut self, id: ProcessId) {
        while let Some(number) = self.waiting.first {
            if !self.give_to_disk(id, number) {
                return;
            }
            let disk = self.requests[usize::from(number)].disk;
            pop(&mut self.requests, &mut self.waiting);
            WAITING.fetch_sub(1, Ordering::Relaxed);
            block::notify(disk);
        }
    }

    /// Has the threads that wait woken when `count` completions are there, or earlier.
    fn wake_at(&mut self, count: usize) {
        if self.wanted == 0 || count < self.wanted {
            self.wanted = count;
        }
    }

    /// Does somebody want to be woken?
    fn ended(&mut self, number: u16, ok: bool) -> bool {
        let Some(request) = self.requests.get_mut(usize::from(number)) else {
            return false;
        };
        let result = if ok {
            i64::from(request.bytes)
        } else {
            -(Errno::EIO as i64)
        };
        self.in_flight -= 1;
        self.complete(number, result);
        let enough = self.wanted != 0 && self.done.count >= self.wanted;
        if enough {
            self.wanted = 0; // those who are woken say again what they want
        }
        enough
    }

    fn complete(&mut self, number: u16, result: i64) {
        let request = &mut *self.requests[usize::from(number)];
        request.result = result;
        request.let_go();
        if let Some((object, pages)) = request.written.take() {
            cache::drop_range(object, pages);
        }
        push(&mut self.requests, &mut self.done, number);
    }

    /// Takes completions out, `most` at most.
    fn collect(&mut self, most: usize) -> ArrayVec<IoCompletion, COPIED_AT_ONCE> {
        let mut batch = ArrayVec::new();
        while batch.len() < most
            && let Some(number) = pop(&mut self.requests, &mut self.done)
        {
            let request = &self.requests[usize::from(number)];
            batch.push(IoCompletion {
                user_data: request.user_data,
                result: request.result,
            });
            self.free.push(number);
        }
        batch
    }

    fn cancel(&mut self, user_data: u64) -> Result<(), Errno> {
        let mut found = None;
        for _ in 0..self.waiting.count {
            let Some(number) = pop(&mut self.requests, &mut self.waiting) else {
                break;
            };
            if found.is_none() && self.requests[usize::from(number)].user_data == user_data {
                found = Some(number);
            } else {
                push(&mut self.requests, &mut self.waiting, number);
            }
        }
        if let Some(number) = found {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            self.complete(number, -(Errno::ECANCELED as i64));
            return Ok(());
        }
        let in_flight = self
            .requests
            .iter()
            .any(|request| request.user_data == user_data && request.result == Request::BUSY);
        Err(if in_flight {
            Errno::EBUSY
        } else {
            Errno::ENOENT
        })
    }

    fn drop_waiting(&mut self) {
        while let Some(number) = pop(&mut self.requests, &mut self.waiting) {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            self.complete(number, -(Errno::ECANCELED as i64));
        }
    }
}

impl Request {
    fn new() -> Box<Request> {
        Box::new(Request {
            user_data: 0,
            disk: DiskId::FIRST,
            operation: Operation::Flush,
            segments: ArrayVec::new(),
            written: None,
            bytes: 0,
            result: 0,
            next: None,
        })
    }

    /// The result of a request that has not ended.
    const BUSY: i64 = i64::MIN;

    fn let_go(&mut self) {
        for segment in &self.segments {
            frame::release(frame::Frame::containing(segment.physical));
        }
        self.segments.clear();
    }
}

fn push(requests: &mut [Box<Request>], list: &mut List, number: u16) {
    requests[usize::from(number)].next = None;
    match list.last {
        Some(last) if list.count > 0 => requests[usize::from(last)].next = Some(number),
        _ => list.first = Some(number),
    }
    list.last = Some(number);
    list.count += 1;
}

fn pop(requests: &mut [Box<Request>], list: &mut List) -> Option<u16> {
    let number = list.first?;
    list.first = requests[usize::from(number)].next.take();
    list.count -= 1;
    Some(number)
}
