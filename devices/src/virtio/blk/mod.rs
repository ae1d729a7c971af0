//! The block device (virtio 1.2, section 5.2).

pub mod counters;
pub mod device;

pub use counters::Counters;
pub use device::{BlockConfig, BlockDevice, BlockError};
