//! The floating-point and SSE registers. Ring 0 never touches them, so they belong to the user
//! thread that ran last, and are exchanged only when another one is about to run.

#![allow(unsafe_code)]

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A thread's registers while another thread's are loaded (Intel SDM volume 1, section 10.5.1).
#[repr(C, align(16))]
pub struct Registers([u8; 512]);

static LOADED: AtomicPtr<Registers> = AtomicPtr::new(ptr::null_mut());

/// The default control word and MXCSR, everything else zero.
const INITIAL: [(usize, u16); 2] = [(0, 0x037f), (24, 0x1f80)];

/// Prepares `area` for a thread that has not run.
///
/// # Safety
/// `area` is valid for writes and belongs to the thread alone.
pub unsafe fn init(area: *mut Registers) {
    // SAFETY: the caller's promise; the area is 16-byte aligned by its type.
    unsafe {
        area.write(Registers([0; 512]));
        for (offset, word) in INITIAL {
            area.cast::<u8>().add(offset).cast::<u16>().write(word);
        }
    }
}

/// Makes the registers in `area` the loaded ones, storing the loaded ones to theirs.
///
/// # Safety
/// `area` was initialised and stays valid until [`forget`].
#[inline(always)]
pub unsafe fn load(area: *mut Registers) {
    let loaded = LOADED.load(Ordering::Relaxed);
    if loaded == area {
        return;
    }
    // SAFETY: both areas are valid and 16-byte aligned.
    unsafe {
        if !loaded.is_null() {
            asm!("fxsave64 [{}]", in(reg) loaded, options(nostack, preserves_flags));
        }
        asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
    }
    LOADED.store(area, Ordering::Relaxed);
}

/// Says that `area` is about to be freed.
pub fn forget(area: *mut Registers) {
    if LOADED.load(Ordering::Relaxed) == area {
        LOADED.store(ptr::null_mut(), Ordering::Relaxed);
    }
}
