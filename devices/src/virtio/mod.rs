//! virtio devices, transport first: [`mmio`] is the register window that a driver sees, [`device`]
//! what the transport wants of a device, [`notifier`] the way back to the driver, [`blk`] the
//! block device.

pub mod blk;
pub mod device;
pub mod in_flight;
pub mod mmio;
pub mod notifier;
mod registers;
mod setup;
