//! The kernel's heap, for what is made once or once for each process. Nothing on the I/O paths
//! allocates.
//!
//! What a program can have the kernel make is not bounded by the heap: so a system call that keeps
//! something there asks [`check_room`] first, and reserves anything long by `try_reserve`. The rest of
//! its allocations are few and small, and the reserve is theirs: they may take it for granted.

#![allow(unsafe_code)]

use super::frame;
use super::layout::PAGE;
use crate::sync::CpuCell;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use iolite_guest_abi::Errno;
use linked_list_allocator::Heap;

/// Its size, or a quarter of memory where that is less.
const HEAP_BYTES: usize = 2 << 20;
/// What programs cannot use up.
const RESERVE_BYTES: usize = 256 << 10;

struct KernelHeap(CpuCell<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(CpuCell::new(Heap::empty()));

/// Gives the heap its memory.
pub fn init() {
    let quarter = frame::free_count() * PAGE / 4;
    let bytes = HEAP_BYTES.min(quarter as usize);
    let heap = frame::reserve::<u8>(bytes).filter(|_| bytes > 2 * RESERVE_BYTES);
    let Some(first) = heap else {
        panic!("no memory for the kernel's heap: 4 MiB of memory are the least")
    };
    // SAFETY: the memory is ours for good.
    unsafe { HEAP.0.borrow_mut().init(first.as_ptr(), bytes) };
}

/// ENOMEM if what is left is kept for the kernel itself.
pub fn check_room() -> Result<(), Errno> {
    match HEAP.0.borrow().free() {
        ..RESERVE_BYTES => Err(Errno::ENOMEM),
        _ => Ok(()),
    }
}

/// ENOMEM if what is made at boot, and stays, has taken half of it.
pub fn check_room_at_boot() -> Result<(), Errno> {
    let heap = HEAP.0.borrow();
    match heap.free() < heap.size() / 2 {
        true => Err(Errno::ENOMEM),
        false => Ok(()),
    }
}

// SAFETY: `Heap` hands out disjoint blocks; the cell keeps it to one caller at a time.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .borrow_mut()
            .allocate_first_fit(layout)
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller returns what `alloc` gave.
            unsafe { self.0.borrow_mut().deallocate(block, layout) };
        }
    }
}
