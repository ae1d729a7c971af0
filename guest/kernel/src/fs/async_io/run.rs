//! Runs of plain requests: reads or writes that are in order, of one disk, and of memory in one page
//! that is there or in a registered buffer. What they have in common is looked up once, and what they
//! have not costs as little as it can.

use super::super::file::{File, OpenObject};
use super::super::pinned;
use super::buffers::IoBuffers;
use super::table::{Ask, AsyncIo, Kind};
use super::what_and_buffer;
use crate::block;
use crate::mm::cache::write_back;
use crate::mm::frame::{self, Frame};
use crate::mm::layout::PAGE;
use crate::mm::paging::Root;
use crate::task::process::{self, Process, ProcessId};
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::{IoRequest, USER_END, io};

/// What the requests of a run have in common.
struct Run<'a> {
    process: ProcessId,
    file: &'a OpenObject,
    kind: Kind,
    /// The registered buffer, or 0.
    buffer: u16,
}

/// Starts requests up to the first that is not plain, or not like the first. Gives their number. What
/// is wrong with the next one [`super::start_any`] finds out.
#[inline(never)]
pub fn start(id: ProcessId, batch: &[IoRequest]) -> u64 {
    let mut process = process::current();
    let Process {
        space,
        files,
        async_io,
        io_buffers,
        ..
    } = &mut *process;
    let Some(first) = batch.first() else { return 0 };
    let Ok(File::Object(file)) = files.get_ref(u64::from(first.fd)) else {
        return 0;
    };
    if !file.direct || write_back::is_any_unwritten() {
        return 0;
    }
    let (what, buffer) = what_and_buffer(first.operation);
    let run = |kind| Run {
        process: id,
        file,
        kind,
        buffer,
    };
    let root = space.root();
    // Each has a loop of its own, in which the compiler knows the kind.
    match what {
        io::READ => run(Kind::Read).start(batch, async_io, io_buffers, root),
        io::WRITE if file.write => {
            run(Kind::Write(file.object)).start(batch, async_io, io_buffers, root)
        }
        _ => 0,
    }
}

impl Run<'_> {
    #[inline(always)]
    fn start(
        &self,
        batch: &[IoRequest],
        async_io: &mut AsyncIo,
        io_buffers: &IoBuffers,
        root: Root,
    ) -> u64 {
        if self.buffer == 0 {
            let read = self.kind == Kind::Read;
            let mapped = |buf| (buf < USER_END).then(|| pinned::present(root, buf, read))?;
            return self.start_each(batch, async_io, mapped);
        }
        let Some(frames) = io_buffers.get(self.buffer.into()) else {
            return 0;
        };
        let registered = |buf| frames.get((buf / PAGE) as usize).copied();
        self.start_each(batch, async_io, registered)
    }

    /// `frame_at` gives the frame at a request's `buf`.
    #[inline(always)]
    fn start_each(
        &self,
        batch: &[IoRequest],
        async_io: &mut AsyncIo,
        frame_at: impl Fn(u64) -> Option<Frame>,
    ) -> u64 {
        let mut disk = block::submitter(self.file.extent.disk);
        let Some(first) = batch.first() else { return 0 };
        let mut started = 0;
        for entry in &batch[..batch.len().min(async_io.room())] {
            let &IoRequest {
                buf, len, offset, ..
            } = entry;
            if entry.operation != first.operation || entry.fd != first.fd {
                break;
            }
            let aligned = (buf | len | offset).is_multiple_of(SECTOR_SIZE);
            // Neither empty nor longer than what is left of the page.
            let one_page = len.wrapping_sub(1) < PAGE - buf % PAGE;
            let Some(end) = offset.checked_add(len) else {
                break;
            };
            if !aligned || !one_page || end > self.file.extent.bytes {
                break;
            }
            let Some(frame) = frame_at(buf) else { break };
            let Some(place) = async_io.take_place() else {
                break;
            };
            if self.buffer == 0 {
                frame::hold(frame);
            }
            let ask = Ask {
                kind: self.kind,
                sector: self.file.extent.first_sector + offset / SECTOR_SIZE,
                bytes: len as u32,
                user_data: entry.user_data,
                buffer: self.buffer,
            };
            let physical = frame.physical() + buf % PAGE;
            async_io.start(self.process, place, &mut disk, ask, Some(physical));
            started += 1;
        }
        started
    }
}
