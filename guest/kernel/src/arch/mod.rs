//! The processor and the few devices that every PC has. Everything that only assembly or a raw
//! pointer can do is below this folder or in `mm`; the rest of the kernel is safe Rust.
//!
//! Ring 0 runs with interrupts off, always, except in [`cpu::wait_for_interrupt`]: a kernel path
//! is short, and state needs no lock. Where ring 0 is emulated an instruction costs some 600 ns,
//! so what is short in instructions is what is fast.

pub mod apic;
mod assembly;
pub mod context;
pub mod cpu;
pub mod fpu;
pub mod gdt;
pub mod idt;
mod kvm_clock;
mod pit;
pub mod power;
pub mod serial;
pub mod time;
pub mod trap;
mod tsc;
pub mod user_access;
