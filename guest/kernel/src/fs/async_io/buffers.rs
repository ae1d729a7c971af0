//! Registered buffers: memory of a process that is held for its requests from [`register`] to
//! [`unregister`], or to the end of the process. A request that names one neither looks for its pages
//! nor holds them.
//!
//! A buffer stays as long as a request names it: `unregister` refuses, and a process that ends has
//! waited for its requests before.

use super::super::pinned;
use crate::mm::frame::{self, Frame};
use crate::mm::layout::PAGE;
use crate::task::process;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use iolite_guest_abi::{Errno, MAX_IO_BUFFER_BYTES, MAX_IO_BUFFERS};
use iolite_virtio_driver::{MAX_SEGMENTS, Segment};

/// The registered buffers of a process, by their numbers from 1 on. A place that is free is empty.
pub struct IoBuffers(ArrayVec<Buffer, MAX_IO_BUFFERS>);

/// The frames of a buffer, in order, each held.
pub type Buffer = Vec<Frame>;

/// Holds `len` bytes of the running process's memory at `address` as a buffer, and gives its number.
pub fn register(address: u64, len: u64) -> Result<u64, Errno> {
    if len == 0 || len > MAX_IO_BUFFER_BYTES || !(address | len).is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    // This may block; another thread registers what it likes meanwhile.
    let frames = pinned::hold_own(address, (len / PAGE) as usize)?;
    let buffers = &mut process::current().io_buffers;
    buffers.add(frames).map_err(|frames| {
        release(frames);
        Errno::ENOMEM
    })
}

/// Ends what [`register`] began.
pub fn unregister(number: u64) -> Result<u64, Errno> {
    let mut process = process::current();
    process.io_buffers.get(number).ok_or(Errno::EINVAL)?;
    if process.async_io.names(number as u16) {
        return Err(Errno::EBUSY);
    }
    release(process.io_buffers.take(number));
    Ok(0)
}

impl IoBuffers {
    pub const fn new() -> IoBuffers {
        IoBuffers(ArrayVec::new_const())
    }

    /// The buffer with this number.
    #[inline(always)]
    pub fn get(&self, number: u64) -> Option<&Buffer> {
        let buffer = self.0.get(number.checked_sub(1)? as usize)?;
        (!buffer.is_empty()).then_some(buffer)
    }

    /// Lets go of all of them.
    pub fn release_all(&mut self) {
        self.0.drain(..).for_each(release);
    }

    /// Where `[at, at + len)` of a buffer lies, if it does and is no more pages than a request has
    /// segments.
    pub fn segments(
        &self,
        number: u64,
        at: u64,
        len: u64,
    ) -> Result<ArrayVec<Segment, MAX_SEGMENTS>, Errno> {
        let buffer = self.get(number).ok_or(Errno::EINVAL)?;
        let end = at.checked_add(len).ok_or(Errno::EFAULT)?;
        let pages = at / PAGE..end.div_ceil(PAGE);
        if (pages.end - pages.start) as usize > MAX_SEGMENTS {
            return Err(Errno::EINVAL);
        }
        let frames = buffer.get(pages.start as usize..pages.end as usize);
        let mut at = at;
        let segment = |frame: &Frame| {
            let bytes = (PAGE - at % PAGE).min(end - at);
            let physical = frame.physical() + at % PAGE;
            at += bytes;
            Segment {
                physical,
                bytes: bytes as u32,
            }
        };
        Ok(frames.ok_or(Errno::EFAULT)?.iter().map(segment).collect())
    }

    fn add(&mut self, buffer: Buffer) -> Result<u64, Buffer> {
        if let Some(place) = self.0.iter().position(Vec::is_empty) {
            self.0[place] = buffer;
            return Ok(place as u64 + 1);
        }
        self.0.try_push(buffer).map_err(|full| full.element())?;
        Ok(self.0.len() as u64)
    }

    fn take(&mut self, number: u64) -> Buffer {
        core::mem::take(&mut self.0[number as usize - 1])
    }
}

fn release(buffer: Buffer) {
    buffer.into_iter().for_each(frame::release);
}
