//! Disks that become larger while they are in use. The object of the disk, and whoever has it open or
//! mapped, sees the new size. A disk never becomes smaller here: what is not there any more cannot be
//! read, which the device says itself.

use super::file;
use super::object::{self, ObjectId};
use crate::block::DiskId;
use crate::mm::cache::{self, write_back};
use crate::mm::layout::PAGE;
use crate::println;
use crate::task::scheduler;
use iolite_devices_abi::blk::SECTOR_SIZE;

/// How often, and how far apart, it is tried to forget a page that others change all the time.
const TRIES: usize = 100;
const APART_NS: u64 = 1_000_000;

/// Takes note of how large `disk` says that it is now. May block.
pub fn adopt(disk: DiskId) {
    let object = file::object_of(disk);
    let (before, now) = (object.bytes(), disk.sectors().saturating_mul(SECTOR_SIZE));
    if now == before {
        return;
    }
    let letter = char::from(b'a' + disk.number() as u8);
    if now < before {
        println!("iolite: /dev/vd{letter}: only {now} bytes are left, the others cannot be read");
        return;
    }
    if !forget_last_page(object, before) {
        println!("iolite: /dev/vd{letter}: it has grown, but its end is in use all the time");
        return;
    }
    println!("iolite: /dev/vd{letter}: {now} bytes now");
    object::grow(object, now);
    file::grow(object, now);
}

/// The last page, if it was not a whole one, has zeroes in the cache where bytes of the disk will be.
fn forget_last_page(object: ObjectId, bytes: u64) -> bool {
    let is_forgotten = |try_number| {
        if bytes.is_multiple_of(PAGE) || cache::drop_if_idle(object, bytes / PAGE) {
            return true;
        }
        if try_number > 0 {
            scheduler::pause(APART_NS);
        }
        if write_back::sync(object).is_err() {
            // It is not for us.
            object::note_write_error(object);
        }
        false
    };
    (0..TRIES).any(is_forgotten)
}
