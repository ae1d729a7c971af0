//! The keeper: a kernel thread that attends to devices which say that something about them has changed.
//! The disk may have grown, or the device may need a reset. Others attend to it themselves when they
//! are about to say how large a disk is: two interrupts may have become one.

use super::{DiskId, disk};
use crate::fs::growth;
use crate::println;
use crate::task::scheduler::{self, Wait};
use core::sync::atomic::{AtomicU32, Ordering};

const PAUSE_NS: u64 = 1_000_000;

/// The disks to look at, a bit each.
static CALLED: AtomicU32 = AtomicU32::new(0);

/// Has the keeper look at the disk of this bit: called by the interrupt handler.
pub(super) fn call(bit: u32) {
    CALLED.fetch_or(bit, Ordering::Relaxed);
    scheduler::wake_matching(Wait::Keeper);
}

/// The keeper.
pub extern "C" fn run(_: u64) {
    loop {
        let mut left = CALLED.swap(0, Ordering::Relaxed);
        if left == 0 {
            scheduler::block(Wait::Keeper);
        }
        while left != 0 {
            if let Some(disk) = DiskId::from_number(left.trailing_zeros() as usize) {
                attend(disk);
            }
            left &= left - 1;
        }
    }
}

/// Attends to `disk` if its device has said that something has changed. May block.
pub fn look(disk: DiskId) {
    if disk::take_change(disk) {
        attend(disk);
    }
}

fn attend(disk: DiskId) {
    if disk::needs_reset(disk) {
        recover(disk);
    }
    disk::refresh(disk);
    growth::adopt(disk);
}

/// Resets a device and begins anew with it: what is in flight fails, and so does what is submitted
/// until then.
fn recover(disk: DiskId) {
    let letter = char::from(b'a' + disk.number() as u8);
    println!("iolite: /dev/vd{letter}: the device needs a reset, requests in flight fail");
    disk::start_reset(disk);
    while !disk::is_reset(disk) {
        scheduler::pause(PAUSE_NS);
    }
    while disk::requests(disk) > 0 {
        disk::abandon(disk);
        scheduler::pause(PAUSE_NS);
    }
    if let Err(error) = disk::begin_anew(disk) {
        panic!("/dev/vd{letter} cannot be used any more: {error:?}");
    }
}
