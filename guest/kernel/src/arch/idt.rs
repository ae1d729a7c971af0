//! The interrupt descriptor table: which stub of `trap.s` each vector enters by.

#![allow(unsafe_code)]

use super::apic;
use super::gdt::{FAULT_STACK, KERNEL_CODE};
use core::cell::UnsafeCell;
use iolite_guest_abi::GATE_VECTOR;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

/// Vector of interrupt line 0 (the IOAPIC's first input); the others follow.
pub const FIRST_LINE: u8 = 0x20;
/// How many interrupt lines there are.
pub const LINES: u8 = 24;
/// Vector of the local APIC's timer.
pub const TIMER: u8 = 0x40;
/// Vector of the local APIC's spurious interrupts.
pub const SPURIOUS: u8 = 0x4f;

const DOUBLE_FAULT: u8 = 8;
const STUB_BYTES: u64 = 16;

/// An interrupt gate (Intel SDM volume 3, section 7.14.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    const ABSENT: Gate = Gate {
        offset_low: 0,
        selector: 0,
        stack: 0,
        kind: 0,
        offset_middle: 0,
        offset_high: 0,
        reserved: 0,
    };

    fn new(stub: u64) -> Gate {
        Gate {
            offset_low: stub as u16,
            selector: KERNEL_CODE,
            stack: 0,
            kind: 0x8e, // present, 64-bit interrupt gate: interrupts go off
            offset_middle: (stub >> 16) as u16,
            offset_high: (stub >> 32) as u32,
            reserved: 0,
        }
    }

    fn for_ring_3(mut self) -> Gate {
        self.kind |= 3 << 5;
        self
    }

    fn on_stack(mut self, index: u16) -> Gate {
        self.stack = index as u8 + 1;
        self
    }
}

struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written once by `init`, before the processor reads it.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([Gate::ABSENT; 256]));

unsafe extern "C" {
    fn stub_invalid_opcode();
    fn stub_page_fault();
    fn stub_gate();
    fn stub_spurious();
    fn exception_stubs();
    fn x2apic_timer_stub();
    fn x2apic_line_stubs();
    fn xapic_timer_stub();
    fn xapic_line_stubs();
}

/// Loads the table. Called once, before interrupts are first turned on.
pub fn init() {
    // SAFETY: called once on the only processor, before anything reads the table.
    let table = unsafe { &mut *TABLE.0.get() };
    for vector in 0..32u8 {
        let stub = exception_stubs as *const () as u64 + u64::from(vector) * STUB_BYTES;
        table[usize::from(vector)] = Gate::new(stub);
    }
    let (timer, lines) = match apic::is_x2apic() {
        true => (
            x2apic_timer_stub as *const (),
            x2apic_line_stubs as *const (),
        ),
        false => (xapic_timer_stub as *const (), xapic_line_stubs as *const ()),
    };
    for line in 0..LINES {
        let stub = lines as u64 + u64::from(line) * STUB_BYTES;
        table[usize::from(FIRST_LINE + line)] = Gate::new(stub);
    }
    table[usize::from(TIMER)] = Gate::new(timer as u64);
    let double_fault = &mut table[usize::from(DOUBLE_FAULT)];
    *double_fault = double_fault.on_stack(FAULT_STACK);
    table[6] = Gate::new(stub_invalid_opcode as *const () as u64);
    table[14] = Gate::new(stub_page_fault as *const () as u64);
    // `int3` and `into` are the program's to execute; what comes of it is its end.
    table[3] = table[3].for_ring_3();
    table[usize::from(SPURIOUS)] = Gate::new(stub_spurious as *const () as u64);
    table[usize::from(GATE_VECTOR)] = Gate::new(stub_gate as *const () as u64).for_ring_3();

    let pointer = DescriptorTablePointer {
        limit: (size_of::<[Gate; 256]>() - 1) as u16,
        base: VirtAddr::new(TABLE.0.get() as u64),
    };
    // SAFETY: the table is static and every present gate leads to a stub.
    unsafe { lidt(&pointer) };
}

/// Leaves no way into any handler and has the processor want one: a triple fault (Intel SDM volume 3,
/// section 7.15), after which it shuts down.
pub fn shut_down() -> ! {
    let nothing = DescriptorTablePointer {
        limit: 0,
        base: VirtAddr::zero(),
    };
    // SAFETY: nothing is to run any more.
    unsafe {
        lidt(&nothing);
        core::arch::asm!("ud2", options(noreturn));
    }
}
