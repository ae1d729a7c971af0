//! Faults that a program wants to see: a page that its disk cannot read, above all.
//!
//! The kernel has the thread go on here, on its own stack. A [`probe`] that has failed returns an
//! error; anything else is for the handler of [`on_fault`], or ends the process.
#![allow(unsafe_code)]

use crate::{Errno, Result, syscall};
use core::arch::global_asm;
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use iolite_guest_abi::{Fault, FaultFrame, Number};

// fault_entry: rdi = &FaultFrame, which lies 8 bytes above the stack pointer. The callee-saved
// registers are still those of the thread, and the handler keeps them.
global_asm!(
    ".global iolite_fault_entry",
    "iolite_fault_entry:",
    "sub rsp, 8", // aligned as before a call
    "call {handle}",
    "add rsp, 8",
    "test al, al",
    "jz 2f",
    "add rsp, 24", // to r11, past the fault and its address
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "iretq",
    "2:",
    "lea rdi, [rsp + 8]",
    "mov eax, {unhandled}",
    "int 0x80",
    "ud2",
    // probe(address): the byte there, or -1 - fault.
    ".global iolite_probe",
    ".global iolite_probe_end",
    "iolite_probe:",
    "movzx eax, byte ptr [rdi]",
    "iolite_probe_end:",
    "ret",
    handle = sym handle,
    unhandled = const Number::FaultUnhandled as u64,
);

unsafe extern "C" {
    fn iolite_fault_entry();
    fn iolite_probe(address: *const u8) -> i64;
    fn iolite_probe_end();
}

/// What a handler of [`on_fault`] wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Whatever failed is done once more, with the registers as the frame has them now.
    TryAgain,
    /// The process ends, and its parent learns why.
    End,
}

static HANDLER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Has `handler` called for each fault of a thread of this process that the kernel cannot resolve,
/// on the stack of that thread, which may hold locks.
///
/// # Errors
///
/// None.
pub fn on_fault(handler: fn(&mut FaultFrame) -> Resolution) -> Result<()> {
    HANDLER.store(handler as *mut (), Ordering::Release);
    set_entry()
}

fn set_entry() -> Result<()> {
    let entry = iolite_fault_entry as *const () as u64;
    // SAFETY: the call takes the address of code that is a handler.
    unsafe { syscall::syscall(Number::FaultHandler, [entry, 0, 0, 0, 0]) }.map(drop)
}

/// May the thread go on?
extern "C" fn handle(frame: &mut FaultFrame) -> bool {
    let probe = iolite_probe as *const () as u64..iolite_probe_end as *const () as u64;
    if probe.contains(&frame.rip) {
        frame.rax = (-1i64).wrapping_sub(frame.fault as i64) as u64;
        frame.rip = probe.end;
        return true;
    }
    let handler = HANDLER.load(Ordering::Acquire);
    if handler.is_null() {
        return false;
    }
    // SAFETY: stored by `on_fault`, from a function of this type.
    let handler: fn(&mut FaultFrame) -> Resolution = unsafe { mem::transmute(handler) };
    handler(frame) == Resolution::TryAgain
}

/// Reads the byte at `address`, if it can be read.
///
/// # Errors
///
/// `EIO` if its page cannot be read from the disk, `ENOMEM` if there is no memory for it, `EFAULT`
/// if there is nothing.
pub fn probe(address: *const u8) -> Result<u8> {
    static SET: AtomicBool = AtomicBool::new(false);
    if !SET.swap(true, Ordering::Relaxed) {
        set_entry()?;
    }
    // SAFETY: a fault of this load comes back as a negative number; a byte has any value.
    match unsafe { iolite_probe(address) } {
        byte @ 0..=255 => Ok(byte as u8),
        fault => Err(match Fault::from_raw((-1 - fault) as u64) {
            Some(Fault::Io) => Errno::EIO,
            Some(Fault::OutOfMemory) => Errno::ENOMEM,
            _ => Errno::EFAULT,
        }),
    }
}
