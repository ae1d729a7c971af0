//! Who is told of which interrupt line.

use crate::{block, console};
use iolite_devices_abi::machine::COM1_IRQ;

/// Handles an interrupt on `line`.
#[inline]
pub fn line(line: u8) {
    if u32::from(line) == COM1_IRQ {
        console::interrupt()
    } else {
        block::interrupt(line)
    }
}
