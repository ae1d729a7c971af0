//! Traps: what a processor that leaves a program, or an idle kernel, came for.
//!
//! A handler for an interrupt harvests, completes and wakes; it never blocks. A handler for a
//! system call or a page fault runs for its thread and may block, on the thread's own kernel stack.

#![allow(unsafe_code)]

use super::{apic, cpu, idt, user_access};
use crate::task::{self, scheduler};
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
    fn from_user(&self) -> bool {
        self.cs & 3 == 3
    }
}

/// `int 0x80`, as the two bytes read.
const GATE_INSTRUCTION: u16 = 0x80cd;
const GATE_INSTRUCTION_BYTES: u64 = 2;

const DIVIDE_ERROR: u64 = 0;
const BREAKPOINT: u64 = 3;
const GENERAL_PROTECTION: u64 = 13;
const X87_ERROR: u64 = 16;
const SIMD_ERROR: u64 = 19;

/// The system-call gate, where the platform delivers `int 0x80` as such.
#[unsafe(no_mangle)]
extern "C" fn trap_gate(frame: &mut Frame) {
    scheduler::after_user();
    frame.rax = syscall::dispatch(frame);
    scheduler::before_user();
}

/// The system-call gate, where the platform delivers `int 0x80` as an invalid opcode with `rip`
/// still at it; else what the name says.
#[unsafe(no_mangle)]
extern "C" fn trap_invalid_opcode(frame: &mut Frame) {
    if !frame.from_user() {
        fatal(frame);
    }
    scheduler::after_user();
    if user_access::peek_u16(frame.rip) == Some(GATE_INSTRUCTION) {
        frame.rip += GATE_INSTRUCTION_BYTES;
        frame.rax = syscall::dispatch(frame);
    } else {
        task::kill_current(Fault::BadInstruction, frame);
    }
    scheduler::before_user();
}

#[unsafe(no_mangle)]
extern "C" fn trap_page_fault(frame: &mut Frame) {
    let address = cpu::page_fault_address();
    if frame.from_user() {
        scheduler::after_user();
        if let Err(fault) = mm::pager::fault(address, frame.error_code) {
            task::kill_current_at(fault, frame, address);
        }
        scheduler::before_user();
        return;
    }
    let Some(fixup) = user_access::fixup(frame.rip).filter(|_| address < USER_END) else {
        fatal(frame);
    };
    if mm::pager::fault(address, frame.error_code).is_err() {
        frame.rip = fixup;
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap_line(frame: &mut Frame) {
    if frame.from_user() {
        scheduler::after_user();
    }
    interrupts::line((frame.vector - u64::from(idt::FIRST_LINE)) as u8);
    apic::end_of_interrupt();
    if frame.from_user() {
        scheduler::before_user();
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap_timer(frame: &mut Frame) {
    if frame.from_user() {
        scheduler::after_user();
    }
    scheduler::timer_expired();
    apic::end_of_interrupt();
    if frame.from_user() {
        scheduler::before_user();
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap_exception(frame: &mut Frame) {
    if !frame.from_user() {
        fatal(frame);
    }
    let fault = match frame.vector {
        DIVIDE_ERROR | X87_ERROR | SIMD_ERROR => Fault::Arithmetic,
        BREAKPOINT | GENERAL_PROTECTION => Fault::BadInstruction,
        _ => Fault::BadAddress,
    };
    task::kill_current(fault, frame);
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
