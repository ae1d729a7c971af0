//! virtio devices, transport first: [`mmio`] is the register window, [`blk`] the block device.

pub mod blk;
pub mod mmio;
