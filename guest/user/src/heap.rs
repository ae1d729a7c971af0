//! The heap behind `alloc`: talc, over anonymous mappings that are added as they are needed.
#![allow(unsafe_code)]

use crate::MappingMut;
use crate::lock::Lock;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use talc::{OomHandler, Span, Talc};

/// What the heap grows by at least. Pages cost nothing before they are touched.
const GROW_BYTES: usize = 256 * 1024;
/// More than talc needs beside an allocation, for its own bookkeeping.
const MARGIN_BYTES: usize = 4096;

#[global_allocator]
static HEAP: Heap = Heap(Lock::new(Talc::new(MoreByMapping)));

struct Heap(Lock<Talc<MoreByMapping>>);

struct MoreByMapping;

impl OomHandler for MoreByMapping {
    fn handle_oom(talc: &mut Talc<Self>, layout: Layout) -> Result<(), ()> {
        let wanted = layout.size().checked_add(layout.align()).ok_or(())?;
        let len = wanted.checked_add(MARGIN_BYTES).ok_or(())?.max(GROW_BYTES);
        let (address, len) = MappingMut::zeroed(len).map_err(drop)?.leak();
        // SAFETY: these addresses are mapped, and the heap's alone.
        unsafe { talc.claim(Span::from_base_size(address, len)) }.map(drop)
    }
}

// SAFETY: talc gives blocks of the layout asked for that do not overlap; the lock gives it to one
// thread at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: GlobalAlloc's caller promises a size other than 0.
        let block = unsafe { self.0.lock().malloc(layout) };
        block.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: GlobalAlloc's caller promises a block of this heap with this layout.
            unsafe { self.0.lock().free(block, layout) }
        }
    }
}
