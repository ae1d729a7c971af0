//! Segments and the task state segment, in Linux's order: hypervisors that run ring 0 in software
//! recognise a kernel by it.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// Code segment of ring 0.
pub const KERNEL_CODE: u16 = 0x10;
/// Data segment of ring 0.
pub const KERNEL_DATA: u16 = 0x18;
/// Data segment of ring 3, with its privilege level.
pub const USER_DATA: u16 = 0x2b;
/// Code segment of ring 3, with its privilege level.
pub const USER_CODE: u16 = 0x33;
const TSS: u16 = 0x40;

/// Index into the interrupt stack table of the stack for faults that may come from a bad stack.
pub const FAULT_STACK: u16 = 0;

const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
const RING_3: u64 = 3 << 45;

struct Tables {
    gdt: UnsafeCell<GlobalDescriptorTable<10>>,
    tss: UnsafeCell<TaskStateSegment>,
    fault_stack: UnsafeCell<[u8; 8192]>,
}

// SAFETY: one processor, and ring 0 runs with interrupts off.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables {
    gdt: UnsafeCell::new(GlobalDescriptorTable::empty()),
    tss: UnsafeCell::new(TaskStateSegment::new()),
    fault_stack: UnsafeCell::new([0; 8192]),
};

/// Loads the segments. Called once, before the first trap.
pub fn init() {
    // SAFETY: called once on the only processor; the tables are static, and the selectors loaded
    // are those that the boot code's table had at the same places.
    unsafe {
        let tss = &mut *TABLES.tss.get();
        let fault_stack = VirtAddr::new(TABLES.fault_stack.get() as u64) + 8192u64;
        tss.interrupt_stack_table[FAULT_STACK as usize] = fault_stack;

        let gdt = &mut *TABLES.gdt.get();
        for segment in [
            CODE_32,
            CODE_64,
            DATA,
            CODE_32 | RING_3,
            DATA | RING_3,
            CODE_64 | RING_3,
            0,
        ] {
            gdt.append(Descriptor::UserSegment(segment));
        }
        gdt.append(Descriptor::tss_segment(&*TABLES.tss.get()));
        (*TABLES.gdt.get()).load();
        CS::set_reg(SegmentSelector(KERNEL_CODE));
        SS::set_reg(SegmentSelector(KERNEL_DATA));
        load_tss(SegmentSelector(TSS));
    }
}

/// Sets the stack that a trap from ring 3 switches to.
#[inline(always)]
pub fn set_kernel_stack(top: u64) {
    // SAFETY: the processor reads the field only on a trap from ring 3, which cannot happen now.
    unsafe { (*TABLES.tss.get()).privilege_stack_table[0] = VirtAddr::new_unsafe(top) };
}
