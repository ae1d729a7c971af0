//! The parts in assembly, each in the file of its name.

#![allow(unsafe_code)]

use core::arch::global_asm;

global_asm!(include_str!("boot.s"), options(att_syntax));
global_asm!(include_str!("trap.s"), options(att_syntax));
global_asm!(include_str!("context.s"), options(att_syntax));
global_asm!(include_str!("user_access.s"), options(att_syntax));
