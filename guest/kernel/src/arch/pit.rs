//! Channel 0 of the 8254 timer, which counts at a frequency that is the same in every PC: to learn
//! others by. Its interrupt line is not let in.

use super::cpu;

/// Its ticks in a second.
pub const HZ: u64 = 1_193_182;

const CHANNEL_0: u16 = 0x40;
const CONTROL: u16 = 0x43;
/// Channel 0, low byte then high byte, mode 0: down from the count, and on from the top.
const COUNT_DOWN: u8 = 0x30;
const LATCH_CHANNEL_0: u8 = 0;

/// Has it count down from the top of its 16 bits.
pub fn start() {
    cpu::write_port(CONTROL, COUNT_DOWN);
    cpu::write_port(CHANNEL_0, 0xff);
    cpu::write_port(CHANNEL_0, 0xff);
}

/// The count. Without an 8254 it is always the same.
pub fn count() -> u16 {
    cpu::write_port(CONTROL, LATCH_CHANNEL_0);
    let low = cpu::read_port(CHANNEL_0);
    u16::from_le_bytes([low, cpu::read_port(CHANNEL_0)])
}
