//! Kernel state. There is one processor and ring 0 runs with interrupts off, so a static needs no
//! lock; it needs only the rule that nobody blocks while borrowing it, which the borrow flag
//! enforces: whoever runs next would meet it set.

#![allow(unsafe_code)]

use core::cell::{Ref, RefCell, RefMut};

/// A static that is borrowed for short stretches that do not block.
pub struct CpuCell<T>(RefCell<T>);

// SAFETY: one processor; ring 0 is left, for another thread or for an interrupt handler, only at
// points where no borrow is alive, or the next borrow panics.
unsafe impl<T: Send> Sync for CpuCell<T> {}

impl<T> CpuCell<T> {
    /// A static's initial value.
    pub const fn new(value: T) -> Self {
        CpuCell(RefCell::new(value))
    }

    /// Borrows it for reading.
    #[inline(always)]
    #[track_caller]
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    /// Borrows it for writing.
    #[inline(always)]
    #[track_caller]
    pub fn borrow_mut(&self) -> RefMut<'_, T> {
        self.0.borrow_mut()
    }
}
