//! The contract between the guest kernel and its programs: system-call numbers, their arguments,
//! error numbers and the structures that cross the border. No code of either side lives here.
//!
//! # The gate
//!
//! A program traps with `int 0x80`. The number goes into `rax`, arguments into `rdi`, `rsi`,
//! `rdx`, `r10`, `r8`, `r9`; the result comes back in `rax`; every other register keeps its value.
//! A result from `-4095` to `-1` is a negated [`Errno`], anything else is the value.
//!
//! # The start of a program
//!
//! A program is a static ELF64 executable. It starts at its entry point with `rdi` holding the
//! address of its [`StartInfo`], on a stack of [`STACK_BYTES`] bytes, 16-byte aligned as before a
//! `call`. Descriptors 0, 1 and 2 are the console.

#![no_std]

mod errno;
mod number;
mod types;

pub use errno::Errno;
pub use number::Number;
pub use types::*;
