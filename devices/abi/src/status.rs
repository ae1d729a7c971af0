//! Device status bits (virtio 1.2, section 2.1) and the feature bits that belong to no device type
//! (section 6).

/// ACKNOWLEDGE: the driver has found the device.
pub const ACKNOWLEDGE: u32 = 1;
/// DRIVER: the driver knows how to drive it.
pub const DRIVER: u32 = 2;
/// DRIVER_OK: the driver is set up; the device is live.
pub const DRIVER_OK: u32 = 4;
/// FEATURES_OK: feature negotiation is complete.
pub const FEATURES_OK: u32 = 8;
/// DEVICE_NEEDS_RESET: the device has met an error it cannot recover from.
pub const DEVICE_NEEDS_RESET: u32 = 64;
/// FAILED: the driver has given up on the device.
pub const FAILED: u32 = 128;

/// VIRTIO_F_INDIRECT_DESC, as a mask.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX, as a mask.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1, as a mask.
pub const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_RING_RESET, as a mask.
pub const F_RING_RESET: u64 = 1 << 40;
