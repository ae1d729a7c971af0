//! virtio devices, transports first: [`mmio`] is the register window that a driver sees, [`vhost_user`]
//! a socket to another process that shows one; [`device`] is what a transport wants of a device, [`notifier`] the way back to the driver, [`blk`] the
//! block device.

pub mod blk;
pub mod device;
pub mod in_flight;
pub mod mmio;
pub mod notifier;
mod registers;
mod setup;
pub mod vhost_user;
