//! Kernel stacks: one for each thread, with a page that is never mapped below it.

use super::frame;
use super::layout::{KERNEL_STACK_BYTES, KERNEL_STACK_STRIDE, KERNEL_STACKS, PAGE};
use super::paging::{self, NO_EXECUTE, PRESENT, WRITABLE};

/// The end of the stack of the `slot`-th thread.
pub const fn top(slot: usize) -> u64 {
    KERNEL_STACKS + (slot as u64 + 1) * KERNEL_STACK_STRIDE
}

/// Maps the stack of the `slot`-th thread; `None` when memory has run out.
pub fn map(slot: usize) -> Option<()> {
    for offset in (PAGE..=KERNEL_STACK_BYTES).step_by(PAGE as usize) {
        let mapped = frame::alloc().and_then(|frame| {
            let value = frame.physical() | PRESENT | WRITABLE | NO_EXECUTE;
            paging::map_kernel(top(slot) - offset, value).or_else(|| {
                frame::release(frame);
                None
            })
        });
        if mapped.is_none() {
            unmap(slot);
            return None;
        }
    }
    Some(())
}

/// Gives the stack of the `slot`-th thread back.
pub fn unmap(slot: usize) {
    for offset in (PAGE..=KERNEL_STACK_BYTES).step_by(PAGE as usize) {
        if let Some(frame) = paging::unmap_kernel(top(slot) - offset) {
            frame::release(frame);
        }
    }
}
