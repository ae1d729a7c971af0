//! Traps: what a processor that leaves a program, or an idle kernel, came for.
//!
//! A handler for an interrupt harvests, completes and wakes; it never blocks. A handler for a
//! system call or a page fault runs for its thread and may block, on the thread's own kernel stack.

#![allow(unsafe_code)]

use super::{cpu, idt, user_access};
use crate::task::{self, scheduler};
use crate::trace::{self, ask};
use crate::{interrupts, mm, syscall};
use iolite_guest_abi::{Fault, USER_END};

/// The registers of what was interrupted, as `trap.s` lays them out: those that a call may change,
/// then what the processor pushes. The others stay in place, or in the context switch's hands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Frame {
    fn is_from_user(&self) -> bool {
        self.cs & 3 == 3
    }
}

const DIVIDE_ERROR: u64 = 0;
const BREAKPOINT: u64 = 3;
const INVALID_OPCODE: u64 = 6;
const GENERAL_PROTECTION: u64 = 13;
const X87_ERROR: u64 = 16;
const SIMD_ERROR: u64 = 19;

/// The system-call gate, however the platform delivers `int 0x80`.
#[unsafe(no_mangle)]
extern "C" fn trap_system_call(a: u64, b: u64, c: u64, d: u64, e: u64, number: u64) -> u64 {
    trace::enter(ask::CALL, number, a);
    scheduler::after_user();
    let result = syscall::dispatch(number, [a, b, c, d, e]);
    scheduler::before_user();
    result
}

#[unsafe(no_mangle)]
extern "C" fn trap_page_fault(frame: &mut Frame) {
    let address = cpu::page_fault_address();
    if frame.is_from_user() {
        trace::enter(ask::FAULT, 0, address);
        scheduler::after_user();
        if let Err(fault) = mm::pager::fault(address, frame.error_code) {
            task::fault::raise(fault, frame, address);
        }
        scheduler::before_user();
        return;
    }
    let Some(fixup) = user_access::fixup(frame.rip) else {
        fatal(frame);
    };
    if address >= USER_END || mm::pager::fault(address, frame.error_code).is_err() {
        frame.rip = fixup;
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap_line(frame: &mut Frame) {
    scheduler::after_user();
    trap_line_while_idle(frame.vector as u32);
    scheduler::before_user();
}

#[unsafe(no_mangle)]
extern "C" fn trap_line_while_idle(vector: u32) {
    interrupts::line((vector - u32::from(idt::FIRST_LINE)) as u8);
}

#[unsafe(no_mangle)]
extern "C" fn trap_timer(_: &mut Frame) {
    scheduler::after_user();
    trap_timer_while_idle();
    scheduler::before_user();
}

#[unsafe(no_mangle)]
extern "C" fn trap_timer_while_idle() {
    scheduler::timer_expired();
}

#[unsafe(no_mangle)]
extern "C" fn trap_exception(frame: &mut Frame) {
    if !frame.is_from_user() {
        fatal(frame);
    }
    let fault = match frame.vector {
        DIVIDE_ERROR | X87_ERROR | SIMD_ERROR => Fault::Arithmetic,
        BREAKPOINT | INVALID_OPCODE | GENERAL_PROTECTION => Fault::BadInstruction,
        _ => Fault::BadAddress,
    };
    task::fault::raise(fault, frame, 0);
    scheduler::before_user();
}

fn fatal(frame: &Frame) -> ! {
    panic!(
        "trap {} in the kernel at {:#x}, error code {:#x}, address {:#x}, stack {:#x}",
        frame.vector,
        frame.rip,
        frame.error_code,
        cpu::page_fault_address(),
        frame.rsp
    );
}
