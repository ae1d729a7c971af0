//! The kernel as one who reads synchronously, for a process to see.

use super::file::{self, File};
use super::object::Extent;
use crate::arch::user_access;
use crate::block;
use crate::mm::cache::write_back;
use crate::mm::frame::{self, Frame};
use crate::mm::layout::PAGE;
use crate::task::process;
use iolite_guest_abi::Errno;
use iolite_virtio_driver::{Operation, Segment};

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
    if offset >= extent.bytes && file::has_grown(fd, file.disk, extent.bytes) {
        return scan(fd, buf, len, offset);
    }
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
