#![no_std]
#![no_main]
#![allow(unsafe_code)]
//! `crash KIND`: does what no program may do. The kernel must end it, and nothing else.

extern crate alloc;

use alloc::string::String;
use core::arch::asm;
use iolite_user::{Args, entry};

/// Where the kernel lives.
const KERNEL_ADDRESS: u64 = 0xffff_ffff_8010_0000;
/// The exit port (docs/machine.md).
const EXIT_PORT: u16 = 0xf4;

static mut DATA: [u8; 16] = [0xc3; 16];

entry!(main);

fn main(mut args: Args) -> Result<(), String> {
    match args.next() {
        Some("null") => write_to(0),
        Some("write-text") => write_to(main as *const () as u64),
        Some("exec-data") => call(&raw const DATA as u64),
        Some("kernel-address") => write_to(KERNEL_ADDRESS),
        Some("stack") => drop(recurse(0)),
        // SAFETY: none: that is the point. The kernel ends the process at this instruction.
        Some("undefined") => unsafe { asm!("ud2") },
        // SAFETY: as above.
        Some("divide") => unsafe {
            asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _)
        },
        // SAFETY: as above.
        Some("hlt") => unsafe { asm!("hlt") },
        // SAFETY: as above.
        Some("port") => unsafe { asm!("out dx, al", in("dx") EXIT_PORT, in("al") 0u8) },
        _ => {
            return Err(String::from(
                "usage: crash null|write-text|exec-data|kernel-address|stack|undefined|divide|hlt|port",
            ));
        }
    }
    Err(String::from("still alive"))
}

fn write_to(address: u64) {
    // SAFETY: none: that is the point. The kernel ends the process at this instruction.
    unsafe { asm!("mov byte ptr [{0}], 0", in(reg) address) }
}

fn call(address: u64) {
    // SAFETY: as above.
    unsafe { asm!("call {0}", in(reg) address, clobber_abi("sysv64")) }
}

/// Goes down the stack until it ends.
#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let here = core::hint::black_box([depth; 64]);
    recurse(depth + 1) + here[0]
}
