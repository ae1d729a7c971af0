//! Asynchronous I/O: requests that a process submits, and whose end it hears of later.
//!
//! ```text
//!   read, write, flush      submit            wait
//!   prepared ------------> in flight -----> Completed { id, result, buffer }
//!        \-------- refused by the kernel ----^
//! ```
//!
//! A request takes its buffer with it and brings it back: while a device may use the memory, nobody
//! else can reach it. Every request that was prepared comes back from `wait` exactly once, one that
//! the kernel refused as well. Many requests go to the kernel in one system call, since each call is
//! dear.
#![allow(unsafe_code)]

use crate::{Buffer, Errno, File, Result, syscall};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};
use iolite_guest_abi::{FOREVER, IoCompletion, IoRequest, MAX_IO, io};

/// How many completions are taken with one system call.
const TAKEN_AT_ONCE: usize = 64;

/// The kernel hands completions to the process, not to one of its threads: whoever waited would get
/// those of another.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// The process's asynchronous requests. They borrow the files they are for, as `'f`.
pub struct AsyncIo<'f> {
    /// What the kernel has not been told of, in order.
    prepared: VecDeque<IoRequest>,
    /// Requests by number: `Some` from the preparation to the completion.
    requests: Vec<Option<Pending>>,
    free: Vec<usize>,
    in_flight: usize,
    refused: Vec<IoCompletion>,
    files: PhantomData<&'f File>,
}

/// A request that has not completed: its buffer, which nobody can reach. A flush has none.
struct Pending {
    buffer: Option<Buffer>,
}

/// Which request: good until it has completed, then the number is given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    /// Its number: below the most requests that were on their way at once.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A request that is done with.
#[derive(Debug)]
pub struct Completed {
    /// What its preparation gave.
    pub id: RequestId,
    /// Bytes read or written, 0 for a flush. `ECANCELED` after a cancel, `EIO` if the disk failed,
    /// or why the kernel refused it.
    pub result: Result<usize>,
    /// Its buffer; none for a flush.
    pub buffer: Option<Buffer>,
}

impl<'f> AsyncIo<'f> {
    /// Room for the process's requests.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the process has another of these.
    pub fn new() -> Result<AsyncIo<'f>> {
        if IN_USE.swap(true, Ordering::Acquire) {
            return Err(Errno::EBUSY);
        }
        Ok(AsyncIo {
            prepared: VecDeque::new(),
            requests: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            refused: Vec::new(),
            files: PhantomData,
        })
    }

    /// Prepares reading `len` bytes at `offset` of a disk that is open for direct access; all
    /// multiples of 512.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than `len`.
    pub fn read(&mut self, disk: &'f File, offset: u64, buffer: Buffer, len: usize) -> RequestId {
        self.prepare(io::READ, disk, offset, Some(buffer), len)
    }

    /// Prepares writing the first `len` bytes of the buffer, as [`AsyncIo::read`].
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than `len`.
    pub fn write(&mut self, disk: &'f File, offset: u64, buffer: Buffer, len: usize) -> RequestId {
        self.prepare(io::WRITE, disk, offset, Some(buffer), len)
    }

    /// Prepares making durable every write that has completed before.
    pub fn flush(&mut self, disk: &'f File) -> RequestId {
        self.prepare(io::FLUSH, disk, 0, None, 0)
    }

    fn prepare(
        &mut self,
        operation: u32,
        disk: &'f File,
        offset: u64,
        buffer: Option<Buffer>,
        len: usize,
    ) -> RequestId {
        assert!(
            buffer.as_ref().is_none_or(|buffer| buffer.len() >= len),
            "the buffer is shorter than the request"
        );
        let name = |buffer: &Buffer| buffer.name_for(operation);
        let (operation, buf) = buffer.as_ref().map_or((operation, 0), name);
        let number = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() - 1
        });
        self.requests[number] = Some(Pending { buffer });
        self.prepared.push_back(IoRequest {
            operation,
            fd: disk.fd() as u32,
            buf,
            len: len as u64,
            offset,
            user_data: number as u64,
        });
        RequestId(number as u64)
    }

    /// How many requests are on their way: prepared or in flight.
    pub fn pending(&self) -> usize {
        self.requests.len() - self.free.len()
    }

    /// Hands what is prepared to the kernel, as far as it takes it now: what is left goes with a
    /// later call, or with [`AsyncIo::wait`]. Does not block.
    pub fn submit(&mut self) {
        while !self.prepared.is_empty() {
            let requests: &[IoRequest] = self.prepared.make_contiguous();
            let count = requests.len().min(MAX_IO);
            // SAFETY: each buffer belongs to its request, which is in `requests` until its
            // completion; a file that is borrowed is open.
            match unsafe { syscall::io_submit(&requests[..count]) } {
                Ok(0) => return,
                Ok(submitted) => {
                    self.prepared.drain(..submitted);
                    self.in_flight += submitted;
                }
                Err(Errno::EAGAIN) if self.in_flight > 0 => return,
                Err(error) => self.refuse_first(error),
            }
        }
    }

    fn refuse_first(&mut self, error: Errno) {
        if let Some(request) = self.prepared.pop_front() {
            self.refused.push(IoCompletion {
                user_data: request.user_data,
                result: -i64::from(error as i32),
            });
        }
    }

    /// Submits what is prepared, and waits until at least `min` requests have completed (of those on
    /// their way, if they are fewer), or `timeout_ns` nanoseconds are over. Gives all that have
    /// completed; `min` 0 only looks.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if none completed in time.
    pub fn wait(&mut self, min: usize, timeout_ns: u64) -> Result<Vec<Completed>> {
        self.submit();
        let mut done: Vec<Completed> = Vec::new();
        for refused in core::mem::take(&mut self.refused) {
            done.extend(self.complete(&refused));
        }
        let mut taken = [IoCompletion::default(); TAKEN_AT_ONCE];
        while self.in_flight > 0 {
            let min = min.saturating_sub(done.len()).min(self.in_flight);
            let min = min.min(TAKEN_AT_ONCE);
            let count = match syscall::io_wait(&mut taken, min, timeout_ns) {
                Err(Errno::ETIMEDOUT) if !done.is_empty() => 0,
                result => result?,
            };
            self.in_flight -= count;
            for completion in &taken[..count] {
                done.extend(self.complete(completion));
            }
            if count < TAKEN_AT_ONCE {
                break;
            }
        }
        self.submit();
        Ok(done)
    }

    fn complete(&mut self, completion: &IoCompletion) -> Option<Completed> {
        let number = completion.user_data as usize;
        let Pending { buffer } = self.requests.get_mut(number)?.take()?;
        self.free.push(number);
        Some(Completed {
            id: RequestId(completion.user_data),
            result: result_of(completion.result),
            buffer,
        })
    }

    /// Takes a request back that the disk has not been given yet: it completes with `ECANCELED`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the disk has it (it completes as if nothing had been said), `ENOENT` if it has
    /// completed.
    pub fn cancel(&mut self, id: RequestId) -> Result<()> {
        self.submit();
        syscall::io_cancel(id.0)
    }
}

fn result_of(result: i64) -> Result<usize> {
    usize::try_from(result).map_err(|_| {
        let number = i32::try_from(-result).unwrap_or_default();
        Errno::from_raw(number).unwrap_or(Errno::EIO)
    })
}

impl Drop for AsyncIo<'_> {
    /// Waits for what is in flight: only then are the buffers free.
    fn drop(&mut self) {
        self.prepared.clear();
        while self.in_flight > 0 {
            let Ok(done) = self.wait(self.in_flight, FOREVER) else {
                // The kernel holds the memory until it is done with it.
                break;
            };
            drop(done);
        }
        IN_USE.store(false, Ordering::Release);
    }
}
