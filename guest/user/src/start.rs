//! From the entry point to the program's `main`, and from its end, or its panic, to `exit`.
#![allow(unsafe_code)]

use crate::{console, exit};
use core::arch::global_asm;
use core::fmt::{Display, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use iolite_guest_abi::StartInfo;

/// The exit status of a program that panics.
const PANIC_STATUS: u8 = 101;

// The kernel enters with rdi = &StartInfo and the stack 16-byte aligned, as before a call. A zero
// rbp ends the chain of frames for a debugger.
global_asm!(
    ".global _start",
    "_start:",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    start = sym start,
);

unsafe extern "C" {
    /// What [`crate::entry`] makes of the program's `main`.
    safe fn iolite_main() -> u8;
}

static START_INFO: AtomicPtr<StartInfo> = AtomicPtr::new(core::ptr::null_mut());

extern "C" fn start(info: *mut StartInfo) -> ! {
    START_INFO.store(info, Ordering::Relaxed);
    exit(iolite_main())
}

/// What the kernel handed over at the start.
pub fn info() -> &'static StartInfo {
    // SAFETY: `start` set the pointer before anything else ran; the kernel put a StartInfo on the
    // first stack, which stays as long as the process, and nobody writes to it.
    unsafe { &*START_INFO.load(Ordering::Relaxed) }
}

/// The bytes of the arguments, each ended by a NUL.
pub fn args_bytes() -> &'static [u8] {
    let info = info();
    // SAFETY: the kernel put `args_len` bytes there, as it did the StartInfo itself.
    unsafe { core::slice::from_raw_parts(info.args, info.args_len) }
}

/// What a program's `main` can return.
pub trait Main {
    /// The exit status. Says what is wrong, if anything is.
    fn into_status(self) -> u8;
}

impl Main for () {
    fn into_status(self) -> u8 {
        0
    }
}

impl Main for u8 {
    fn into_status(self) -> u8 {
        self
    }
}

impl<T: Main, E: Display> Main for Result<T, E> {
    fn into_status(self) -> u8 {
        match self {
            Ok(value) => value.into_status(),
            Err(error) => {
                let program = crate::Args::of_this_process().program();
                crate::println!("{program}: {error}");
                1
            }
        }
    }
}

/// Used by [`crate::entry`].
pub fn main_returned(value: impl Main) -> u8 {
    value.into_status()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    // A panic while one is being reported, here or on another thread, has nothing to add.
    if !PANICKING.swap(true, Ordering::Relaxed) {
        // The panic may have come with the console's lock held: this goes past it.
        let mut out = console::Unlocked::new();
        let _ = writeln!(out, "{}: {info}", crate::Args::of_this_process().program());
        out.flush();
    }
    crate::syscall::exit(PANIC_STATUS)
}
