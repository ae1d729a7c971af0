//! COM1, a 16550A UART. Output does not wait for the transmitter: on every machine this kernel
//! runs on it is a model, which takes what it is given.

use super::cpu;
use iolite_devices_abi::machine::COM1_PORT;

const INTERRUPT_ENABLE: u16 = COM1_PORT + 1;
const FIFO_CONTROL: u16 = COM1_PORT + 2;
const MODEM_CONTROL: u16 = COM1_PORT + 4;
const LINE_STATUS: u16 = COM1_PORT + 5;
const MODEM_STATUS: u16 = COM1_PORT + 6;

const RECEIVED_DATA_AVAILABLE: u8 = 1;
const FIFO_ON_AND_CLEARED: u8 = 0x07;
/// DTR, RTS, and OUT2, which lets the interrupt out of the chip.
const LINES_ON: u8 = 0x0b;
const DATA_READY: u8 = 1;
const CARRIER: u8 = 0x80;

/// Turns the FIFO on, which loses what has arrived: to be done before anybody is answered.
pub fn start() {
    cpu::write_port(FIFO_CONTROL, FIFO_ON_AND_CLEARED);
    cpu::write_port(MODEM_CONTROL, LINES_ON);
}

/// Turns interrupts for input on; one comes for what has arrived already.
pub fn enable_input() {
    cpu::write_port(INTERRUPT_ENABLE, RECEIVED_DATA_AVAILABLE);
}

/// Sends `bytes`.
pub fn write(bytes: &[u8]) {
    cpu::write_port_bytes(COM1_PORT, bytes);
}

/// Has the other end hung up? Then what has arrived is all that ever will.
pub fn has_hung_up() -> bool {
    cpu::read_port(MODEM_STATUS) & CARRIER == 0
}

/// A byte of input, if there is one.
pub fn read() -> Option<u8> {
    let ready = cpu::read_port(LINE_STATUS) & DATA_READY != 0;
    ready.then(|| cpu::read_port(COM1_PORT))
}
