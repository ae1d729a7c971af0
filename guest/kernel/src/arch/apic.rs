//! Interrupt controllers: the IOAPIC, and the local APIC in x2APIC mode (a model-specific register
//! for each of its registers) where the processor has that, else in xAPIC mode (they lie in
//! memory).

#![allow(unsafe_code)]

use super::{cpu, idt};
use crate::mm::layout::PAGE;
use crate::mm::{mmio, paging};
use core::arch::x86_64::__cpuid;
use core::ops::Range;
use core::sync::atomic::{AtomicPtr, Ordering};

const CPUID_1_ECX_X2APIC: u32 = 1 << 21;
const IA32_APIC_BASE: u32 = 0x1b;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const APIC_BASE_X2APIC: u64 = 1 << 10;

// The local APIC's registers (Intel SDM volume 3, table 13-6): register N is the model-specific
// register FIRST_MSR + N, or lies N * REGISTER_BYTES after the base. `trap.s` knows a further one,
// the end of interrupt.
const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const SPURIOUS_VECTOR: u32 = 0x0f;
const TIMER_VECTOR: u32 = 0x32;
const TIMER_INITIAL_COUNT: u32 = 0x38;
const TIMER_CURRENT_COUNT: u32 = 0x39;
const TIMER_DIVIDE: u32 = 0x3e;
const FIRST_MSR: u32 = 0x800;
const REGISTER_BYTES: usize = 16;
/// Where the identifier is in its register in xAPIC mode.
const XAPIC_ID_SHIFT: u32 = 24;

const INTERRUPT_COMMAND: u32 = 0x30;
const IA32_TSC_DEADLINE: u32 = 0x6e0;

const SOFTWARE_ENABLE: u32 = 1 << 8;
/// The destination of an interrupt that is commanded.
const TO_ITSELF: u32 = 1 << 18;
const MODE_TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0b1011;

const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Where nobody else has registers: the IOAPIC's page to the local APIC's.
pub const REGISTERS: Range<u64> = IOAPIC_BASE..0xfee0_1000;
const IOAPIC_WINDOW: usize = 0x10;
const IOAPIC_REDIRECTION_TABLE: u32 = 0x10;
const IOAPIC_DESTINATION_SHIFT: u32 = 24;

/// The local APIC's registers in xAPIC mode; null in x2APIC mode. `trap.s` reads it.
#[unsafe(no_mangle)]
static LOCAL_APIC: AtomicPtr<u32> = AtomicPtr::new(core::ptr::null_mut());
static IOAPIC: AtomicPtr<u32> = AtomicPtr::new(core::ptr::null_mut());

const PIC_MASKS: [u16; 2] = [0x21, 0xa1];

/// Is the local APIC used in x2APIC mode?
pub fn is_x2apic() -> bool {
    __cpuid(1).ecx & CPUID_1_ECX_X2APIC != 0
}

/// Silences the 8259s, turns the local APIC on and maps the IOAPIC, every line of which is masked
/// until [`route`].
pub fn init() {
    for port in PIC_MASKS {
        cpu::write_port(port, 0xff);
    }
    let base = cpu::read_msr(IA32_APIC_BASE) | APIC_BASE_ENABLE;
    let base = if is_x2apic() {
        base | APIC_BASE_X2APIC
    } else {
        let registers = mmio::map(base & paging::ADDRESS, PAGE);
        LOCAL_APIC.store(registers.cast(), Ordering::Relaxed);
        base
    };
    // SAFETY: where the registers are mapped they stay.
    unsafe { cpu::write_msr(IA32_APIC_BASE, base) };
    write(TASK_PRIORITY, 0);
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(idt::SPURIOUS));
    IOAPIC.store(mmio::map(IOAPIC_BASE, 0x20).cast(), Ordering::Relaxed);
}

/// Lets interrupt line `line` in, edge-triggered, at vector `FIRST_LINE + line`.
pub fn route(line: u8) {
    let entry = IOAPIC_REDIRECTION_TABLE + 2 * u32::from(line);
    write_ioapic(entry + 1, id() << IOAPIC_DESTINATION_SHIFT);
    write_ioapic(entry, u32::from(idt::FIRST_LINE + line));
}

/// This processor's name among the interrupt controllers.
fn id() -> u32 {
    match is_x2apic() {
        true => read(ID),
        false => read(ID) >> XAPIC_ID_SHIFT,
    }
}

/// Has the processor see an interrupt on `line` that no device has sent.
pub fn raise(line: u8) {
    write(
        INTERRUPT_COMMAND,
        TO_ITSELF | u32::from(idt::FIRST_LINE + line),
    );
}

fn write_ioapic(register: u32, value: u32) {
    let base = IOAPIC.load(Ordering::Relaxed);
    // SAFETY: `init` mapped the IOAPIC's two registers, select and window.
    unsafe {
        base.write_volatile(register);
        base.byte_add(IOAPIC_WINDOW).write_volatile(value);
    }
}

/// Has the timer take its time from the time stamp counter.
pub fn use_tsc_deadline() {
    write(TIMER_VECTOR, MODE_TSC_DEADLINE | u32::from(idt::TIMER));
    // What was written to memory arrives before a deadline is set: `cpuid` lets nothing pass.
    __cpuid(0);
}

/// Has the timer count its own ticks down.
pub fn use_countdown() {
    write(TIMER_VECTOR, u32::from(idt::TIMER));
    write(TIMER_DIVIDE, DIVIDE_BY_1);
}

/// One interrupt when the time stamp counter reaches `tsc`; 0 disarms.
#[inline(always)]
pub fn set_deadline(tsc: u64) {
    // SAFETY: a timer interrupt has a handler.
    unsafe { cpu::write_msr(IA32_TSC_DEADLINE, tsc) };
}

/// One interrupt after `ticks` of the timer; 0 disarms.
pub fn set_countdown(ticks: u32) {
    write(TIMER_INITIAL_COUNT, ticks);
}

/// What the countdown has left.
pub fn countdown() -> u32 {
    read(TIMER_CURRENT_COUNT)
}

fn read(register: u32) -> u32 {
    let base = LOCAL_APIC.load(Ordering::Relaxed);
    if base.is_null() {
        return cpu::read_msr(FIRST_MSR + register) as u32;
    }
    // SAFETY: `init` mapped the page of registers.
    unsafe {
        base.byte_add(register as usize * REGISTER_BYTES)
            .read_volatile()
    }
}

fn write(register: u32, value: u32) {
    let base = LOCAL_APIC.load(Ordering::Relaxed);
    // SAFETY: `init` mapped the page of registers, and none has to do with memory. Every interrupt
    // they may bring has a handler.
    unsafe {
        match base.is_null() {
            true => cpu::write_msr(FIRST_MSR + register, value.into()),
            false => base
                .byte_add(register as usize * REGISTER_BYTES)
                .write_volatile(value),
        }
    }
}
