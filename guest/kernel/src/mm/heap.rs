//! The kernel's heap, for what is made once or once for each process. Nothing on the I/O paths
//! allocates.

#![allow(unsafe_code)]

use super::frame;
use super::layout::PAGE;
use crate::sync::CpuCell;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use linked_list_allocator::Heap;

const HEAP_BYTES: u64 = 2 << 20;

struct KernelHeap(CpuCell<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(CpuCell::new(Heap::empty()));

/// Gives the heap its memory.
pub fn init() {
    let frames = frame::alloc_contiguous((HEAP_BYTES / PAGE) as u32);
    let Some(first) = frames else {
        panic!("no memory for the kernel's heap")
    };
    // SAFETY: the frames are ours for good, and mapped by the direct map.
    unsafe {
        HEAP.0
            .borrow_mut()
            .init(first.address() as *mut u8, HEAP_BYTES as usize)
    };
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
