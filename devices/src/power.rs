//! How a guest ends its machine: the sink that the exit port and the i8042 report to.

/// Receives the guest's wish to stop. Called from a vCPU thread; takes note and returns.
pub trait PowerControl: Send + Sync {
    /// The guest pulsed its reset line: the clean end of a machine.
    fn reset(&self);
    /// The guest wrote `value` to the exit port.
    fn exit(&self, value: u32);
}
