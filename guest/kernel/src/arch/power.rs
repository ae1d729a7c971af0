//! The end of the machine (docs/machine.md).

use super::cpu;
use iolite_devices_abi::machine::{EXIT_PORT, I8042_COMMAND_PORT, I8042_RESET};

/// Stops the machine. Status 0 is a clean stop through the i8042; anything else goes to the exit
/// port. Machines that lack the i8042 see the exit port in both cases.
pub fn off(status: u8) -> ! {
    if status == 0 {
        cpu::write_port(I8042_COMMAND_PORT, I8042_RESET);
    }
    cpu::write_port(EXIT_PORT, status);
    cpu::halt()
}
