//! Everything of the guest that needs no hardware: pure logic of the kernel and of its programs,
//! tested on the host.

#![no_std]

pub mod bench;
pub mod block_channel;
pub mod cmdline;
pub mod elf;
pub mod fields;
pub mod histogram;
pub mod line;
pub mod pattern;
pub mod read_ahead;
pub mod report;
pub mod sha256;
mod sha_instructions;
pub mod timers;
pub mod ustar;
pub mod windows;
pub mod words;
