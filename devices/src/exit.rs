//! The exit port, with the meaning of QEMU's `isa-debug-exit`: the value that the guest writes
//! ends the machine, and the VMM's process exits with `value * 2 + 1`. One to four bytes wide,
//! little-endian.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::power::PowerControl;

/// How many ports the device has.
pub const PORTS: u64 = 4;

/// The exit port.
pub struct ExitPort(Arc<dyn PowerControl>);

impl ExitPort {
    /// An exit port that reports to `power`.
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
        ExitPort(power)
    }
}

impl BusDevice for ExitPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 {
            let bytes = data.iter().take(4).rev();
            self.0
                .exit(bytes.fold(0, |value, &byte| value << 8 | u32::from(byte)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Exits(Mutex<Vec<u32>>);

    impl PowerControl for Exits {
        fn reset(&self) {}
        fn exit(&self, value: u32) {
            self.0.lock().unwrap().push(value);
        }
    }

    #[test]
    fn values_of_any_width_arrive() {
        let exits = Arc::new(Exits::default());
        let port = ExitPort::new(exits.clone());
        port.write(0, &[0x21]);
        port.write(0, &[0x34, 0x12]);
        port.write(0, &[0x78, 0x56, 0x34, 0x12]);
        port.write(1, &[9]);
        assert_eq!(*exits.0.lock().unwrap(), [0x21, 0x1234, 0x1234_5678]);
    }
}
