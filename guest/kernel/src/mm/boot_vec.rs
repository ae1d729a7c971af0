//! Arrays as long as memory asks for: made once, in frames of their own, and never given back. The
//! heap is too small for them.

#![allow(unsafe_code)]

use super::frame;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};

/// A vector whose capacity is settled when it is made.
pub struct BootVec<T: 'static> {
    room: &'static mut [MaybeUninit<T>],
    /// How many from the first on are there.
    len: usize,
}

impl<T> BootVec<T> {
    /// One that nothing fits into.
    pub const fn empty() -> Self {
        BootVec {
            room: &mut [],
            len: 0,
        }
    }

    /// An empty one for `capacity` values, or `None` if there is no memory for it.
    pub fn new(capacity: usize) -> Option<Self> {
        let first = frame::reserve::<MaybeUninit<T>>(capacity)?;
        // SAFETY: the memory is ours for good, and what it holds need not be initialised.
        let room = unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), capacity) };
        Some(BootVec { room, len: 0 })
    }

    /// How many values fit.
    pub fn capacity(&self) -> usize {
        self.room.len()
    }

    /// Adds a value.
    ///
    /// # Panics
    /// It is full.
    #[inline(always)]
    pub fn push(&mut self, value: T) {
        self.room[self.len].write(value);
        self.len += 1;
    }

    /// Takes the last value away.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<T>
    where
        T: Copy,
    {
        let last = *self.last()?;
        self.len -= 1;
        Some(last)
    }
}

impl<T> Deref for BootVec<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` are initialised.
        unsafe { core::slice::from_raw_parts(self.room.as_ptr().cast(), self.len) }
    }
}

impl<T> DerefMut for BootVec<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(self.room.as_mut_ptr().cast(), self.len) }
    }
}

/// `count` zeroes, or `None` if there is no memory for them.
pub fn zeroes(count: usize) -> Option<&'static mut [u32]> {
    let first = frame::reserve::<u32>(count)?;
    // SAFETY: the memory is ours for good, and zero.
    Some(unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), count) })
}
