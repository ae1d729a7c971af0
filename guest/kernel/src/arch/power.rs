//! The end of the machine (docs/machine.md).

use super::{cpu, idt};
use iolite_devices_abi::machine::{EXIT_PORT, I8042_COMMAND_PORT, I8042_RESET};

/// Ends the machine. Status 0 is a clean stop through the i8042; anything else goes to the exit
/// port. Where that is missing a reset has to do, and where the i8042 is missing the exit port; a
/// processor that cannot even enter a fault's handler ends any machine.
pub fn off(status: u8) -> ! {
    let ways = match status {
        0 => [(I8042_COMMAND_PORT, I8042_RESET), (EXIT_PORT, 0)],
        _ => [(EXIT_PORT, status), (I8042_COMMAND_PORT, I8042_RESET)],
    };
    for (port, value) in ways {
        cpu::write_port(port, value);
    }
    idt::shut_down()
}
