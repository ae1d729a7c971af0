//! The one thing of a keyboard controller that matters here: its reset line. Writing `0xfe` to the
//! command port (0x64) is how kernels reboot a PC without ACPI; for us it is the clean end.
//!
//! The device takes the ports 0x60 to 0x64. Status reads as zero: no data, room for a command.

use std::sync::Arc;

use iolite_devices_abi::machine::{I8042_COMMAND_PORT, I8042_RESET};

use crate::bus::BusDevice;
use crate::power::PowerControl;

/// First port of the device: the controller's data port.
pub const BASE_PORT: u64 = 0x60;
/// How many ports the device has.
pub const PORTS: u64 = 5;

/// The reset line's controller.
pub struct I8042(Arc<dyn PowerControl>);

impl I8042 {
    /// A controller that reports to `power`.
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
        I8042(power)
    }
}

impl BusDevice for I8042 {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if BASE_PORT + offset == u64::from(I8042_COMMAND_PORT) && data.first() == Some(&I8042_RESET)
        {
            self.0.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Resets(AtomicU32);

    impl PowerControl for Resets {
        fn reset(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn exit(&self, _value: u32) {}
    }

    #[test]
    fn only_the_reset_command_resets() {
        let resets = Arc::new(Resets::default());
        let i8042 = I8042::new(resets.clone());
        i8042.write(4, &[0xff]);
        i8042.write(0, &[0xfe]);
        assert_eq!(resets.0.load(Ordering::Relaxed), 0);
        i8042.write(4, &[0xfe]);
        assert_eq!(resets.0.load(Ordering::Relaxed), 1);
        let mut status = [0xff];
        i8042.read(4, &mut status);
        assert_eq!(status, [0]);
    }
}
