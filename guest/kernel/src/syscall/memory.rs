//! Mappings.

use crate::fs::file::{self, File};
use crate::ipc::channel;
use crate::mm::cache::write_back;
use crate::mm::frame::Frame;
use crate::mm::layout::PAGE;
use crate::mm::space::{Backing, Space};
use crate::task::process;
use alloc::vec::Vec;
use iolite_guest_abi::{Errno, NO_FD, USER_END, USER_START, map, prot};
use iolite_guest_core::read_ahead::ReadAhead;

pub fn mmap(fd: u64, offset: u64, len: u64, protection: u64, flags: u64) -> Result<u64, Errno> {
    let write = protection & prot::WRITE != 0;
    let execute = protection & prot::EXEC != 0;
    let known = protection & !(prot::READ | prot::WRITE | prot::EXEC) == 0;
    let stream = match flags & map::NO_READ_AHEAD {
        0 => ReadAhead::default(),
        _ => ReadAhead::off(),
    };
    let shared = match flags & !map::NO_READ_AHEAD {
        map::SHARED => true,
        map::PRIVATE => false,
        _ => return Err(Errno::EINVAL),
    };
    if !known || len == 0 || write && execute || !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let mut process = process::current();
    if fd == NO_FD {
        return process.space.map(len, write, execute, Backing::Zeroes);
    }
    let file = match process.files.get(fd)? {
        File::Object(file) => file,
        File::Channel(end) if shared && !execute => {
            return map_channel(&mut process.space, end, offset, len, write);
        }
        _ => return Err(Errno::ENODEV),
    };
    let past_end = offset
        .checked_add(len)
        .is_none_or(|end| end > file.object.bytes().next_multiple_of(PAGE));
    if past_end {
        let bytes = file.object.bytes();
        drop(process);
        return match file::has_grown(fd, file.disk, bytes) {
            true => mmap(fd, offset, len, protection, flags),
            false => Err(Errno::EINVAL),
        };
    }
    if shared && write && !file.write {
        return Err(Errno::EROFS);
    }
    let first_page = offset / PAGE;
    let backing = if shared {
        Backing::shared(file.object, first_page, stream)
    } else {
        Backing::private(file.object, first_page, stream, u64::MAX)
    };
    process.space.map(len, write, execute, backing)
}

/// All of it at once: it is not much, and a fault there is always an error.
fn map_channel(
    space: &mut Space,
    end: channel::End,
    offset: u64,
    len: u64,
    write: bool,
) -> Result<u64, Errno> {
    let past = offset.checked_add(len).filter(|past| *past <= end.bytes());
    let past = past.ok_or(Errno::EINVAL)?;
    let pages = offset / PAGE..past.div_ceil(PAGE);
    let mut frames = Vec::<Frame>::new();
    let count = (pages.end - pages.start) as usize;
    frames.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    frames.extend(pages.filter_map(|page| end.frame(page)));
    space.map_frames(frames.into_iter(), write)
}

pub fn munmap(address: u64, len: u64) -> Result<u64, Errno> {
    let end = range(address, len)?;
    process::current().space.unmap(address, end)?;
    // What was written there goes on its way; nobody waits for it.
    write_back::hurry();
    Ok(0)
}

/// Durable are the writes to every object mapped in the range.
pub fn msync(address: u64, len: u64) -> Result<u64, Errno> {
    let end = range(address, len)?;
    let mut at = address;
    while at < end {
        let (area_end, backing) = {
            let mut process = process::current();
            let area = process.space.find(at).ok_or(Errno::ENOMEM)?;
            (area.end, area.backing)
        };
        if let Backing::Shared { object, .. } = backing {
            file::sync_object(object)?;
        }
        at = area_end;
    }
    Ok(0)
}

fn range(address: u64, len: u64) -> Result<u64, Errno> {
    if len == 0 || !address.is_multiple_of(PAGE) || address < USER_START {
        return Err(Errno::EINVAL);
    }
    let end = address
        .checked_add(len)
        .and_then(|end| end.checked_next_multiple_of(PAGE));
    end.filter(|end| *end <= USER_END).ok_or(Errno::EINVAL)
}
