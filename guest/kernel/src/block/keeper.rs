//! The keeper: a kernel thread that attends to devices which say that something about them has changed.
//! The disk may have grown, or the device may need a reset. Others attend to it themselves when they
//! are about to say how large a disk is: two interrupts may have become one.

use super::{DiskId, disk};
use crate::fs::growth;
use crate::task::scheduler::{self, Wait};
use core::sync::atomic::{AtomicU32, Ordering};

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
    disk::recover_if_needed(disk);
    disk::refresh(disk);
    growth::adopt(disk);
}
