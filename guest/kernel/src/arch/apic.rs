//! Interrupt controllers: the local APIC in x2APIC mode (one MSR for each register) and the IOAPIC.

#![allow(unsafe_code)]

use super::{cpu, idt};
use crate::mm::mmio;
use core::sync::atomic::{AtomicPtr, Ordering};

const IA32_APIC_BASE: u32 = 0x1b;
const APIC_BASE_ENABLE_X2APIC: u64 = 3 << 10;

const TASK_PRIORITY: u32 = 0x808;
const END_OF_INTERRUPT: u32 = 0x80b;
const SPURIOUS_VECTOR: u32 = 0x80f;
const TIMER_VECTOR: u32 = 0x832;
const TIMER_INITIAL_COUNT: u32 = 0x838;
const TIMER_CURRENT_COUNT: u32 = 0x839;
const TIMER_DIVIDE: u32 = 0x83e;
const IA32_TSC_DEADLINE: u32 = 0x6e0;

const SOFTWARE_ENABLE: u64 = 1 << 8;
const MODE_TSC_DEADLINE: u64 = 2 << 17;
const DIVIDE_BY_1: u64 = 0b1011;

const IOAPIC_BASE: u64 = 0xfec0_0000;
const IOAPIC_WINDOW: usize = 0x10;
const IOAPIC_REDIRECTION_TABLE: u32 = 0x10;

static IOAPIC: AtomicPtr<u32> = AtomicPtr::new(core::ptr::null_mut());

const PIC_MASKS: [u16; 2] = [0x21, 0xa1];

/// Silences the 8259s, turns the local APIC on and maps the IOAPIC, every line of which is masked until [`route`].
pub fn init() {
    for port in PIC_MASKS {
        cpu::write_port(port, 0xff);
    }
    let base = cpu::read_msr(IA32_APIC_BASE);
    // SAFETY: none of these registers has to do with memory.
    unsafe {
        cpu::write_msr(IA32_APIC_BASE, base | APIC_BASE_ENABLE_X2APIC);
        cpu::write_msr(TASK_PRIORITY, 0);
        cpu::write_msr(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u64::from(idt::SPURIOUS));
    }
    IOAPIC.store(mmio::map(IOAPIC_BASE, 0x20).cast(), Ordering::Relaxed);
}

/// Lets interrupt line `line` in, edge-triggered, at vector `FIRST_LINE + line`.
pub fn route(line: u8) {
    let entry = IOAPIC_REDIRECTION_TABLE + 2 * u32::from(line);
    write_ioapic(entry + 1, 0); // to processor 0
    write_ioapic(entry, u32::from(idt::FIRST_LINE + line));
}

fn write_ioapic(register: u32, value: u32) {
    let base = IOAPIC.load(Ordering::Relaxed);
    // SAFETY: `init` mapped the IOAPIC's two registers, select and window.
    unsafe {
        base.write_volatile(register);
        base.byte_add(IOAPIC_WINDOW).write_volatile(value);
    }
}

/// Tells the local APIC that the interrupt has been handled.
#[inline(always)]
pub fn end_of_interrupt() {
    // SAFETY: only lets further interrupts through.
    unsafe { cpu::write_msr(END_OF_INTERRUPT, 0) };
}

/// Has the timer take its time from the time stamp counter.
pub fn use_tsc_deadline() {
    // SAFETY: a timer interrupt has a handler.
    unsafe { cpu::write_msr(TIMER_VECTOR, MODE_TSC_DEADLINE | u64::from(idt::TIMER)) };
}

/// Has the timer count its own ticks down.
pub fn use_countdown() {
    // SAFETY: a timer interrupt has a handler.
    unsafe {
        cpu::write_msr(TIMER_VECTOR, u64::from(idt::TIMER));
        cpu::write_msr(TIMER_DIVIDE, DIVIDE_BY_1);
    }
}

/// One interrupt when the time stamp counter reaches `tsc`; 0 disarms.
#[inline(always)]
pub fn set_deadline(tsc: u64) {
    // SAFETY: a timer interrupt has a handler.
    unsafe { cpu::write_msr(IA32_TSC_DEADLINE, tsc) };
}

/// One interrupt after `ticks` of the timer; 0 disarms.
#[inline(always)]
pub fn set_countdown(ticks: u32) {
    // SAFETY: a timer interrupt has a handler.
    unsafe { cpu::write_msr(TIMER_INITIAL_COUNT, u64::from(ticks)) };
}

/// What the countdown has left.
pub fn countdown() -> u32 {
    cpu::read_msr(TIMER_CURRENT_COUNT) as u32
}
