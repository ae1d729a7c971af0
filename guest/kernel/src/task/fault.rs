//! Faults that nobody can resolve: the process's handler hears of them, on the stack of the thread
//! that has them, or the process ends.

use super::process;
use crate::arch::trap::Frame;
use crate::arch::user_access;
use iolite_guest_abi::{Errno, Fault, FaultFrame, USER_END, USER_START};

/// What a function may use below its stack pointer (System V ABI, the red zone).
const RED_ZONE: u64 = 128;

/// The running thread has a fault, `address` being what it touched.
#[cold]
pub fn raise(fault: Fault, frame: &mut Frame, address: u64) {
    let entry = process::current().fault_handler;
    // A stack that cannot be written to is the end, too.
    if entry == 0 || enter(entry, fault, frame, address).is_err() {
        process::kill_current(fault, frame.rip, address);
    }
}

/// Has the thread go on in its handler.
fn enter(entry: u64, fault: Fault, frame: &mut Frame, address: u64) -> Result<(), Errno> {
    let size = size_of::<FaultFrame>() as u64;
    let at = frame
        .rsp
        .checked_sub(RED_ZONE + size)
        .ok_or(Errno::EFAULT)?
        & !15;
    let saved = FaultFrame {
        fault: fault as u64,
        address,
        r11: frame.r11,
        r10: frame.r10,
        r9: frame.r9,
        r8: frame.r8,
        rdi: frame.rdi,
        rsi: frame.rsi,
        rdx: frame.rdx,
        rcx: frame.rcx,
        rax: frame.rax,
        rip: frame.rip,
        cs: frame.cs,
        rflags: frame.rflags,
        rsp: frame.rsp,
        ss: frame.ss,
    };
    user_access::write_value(at, &saved)?;
    frame.rip = entry;
    frame.rdi = at;
    // As after a call: 8 below a multiple of 16.
    frame.rsp = at - 8;
    Ok(())
}

/// Sets the running process's handler, and gives the one before.
pub fn set_handler(entry: u64) -> Result<u64, Errno> {
    if entry != 0 && !(USER_START..USER_END).contains(&entry) {
        return Err(Errno::EINVAL);
    }
    let mut process = process::current();
    Ok(core::mem::replace(&mut process.fault_handler, entry))
}

/// Ends the running process for the fault that it was told of.
pub fn unhandled(frame: u64) -> Result<u64, Errno> {
    let frame: FaultFrame = user_access::read_value(frame)?;
    let fault = Fault::from_raw(frame.fault).ok_or(Errno::EINVAL)?;
    process::kill_current(fault, frame.rip, frame.address);
    Ok(0)
}
