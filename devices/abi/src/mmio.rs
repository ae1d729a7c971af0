//! virtio over MMIO, version 2: register offsets and magic numbers (virtio 1.2, section 4.2.2).
//!
//! Every register is 32 bits wide and is accessed whole; only the device configuration space, from
//! [`CONFIG`] on, takes accesses of other widths.

/// `MagicValue` (R) reads "virt".
pub const MAGIC_VALUE: u64 = 0x000;
/// `Version` (R).
pub const VERSION: u64 = 0x004;
/// `DeviceID` (R).
pub const DEVICE_ID: u64 = 0x008;
/// `VendorID` (R).
pub const VENDOR_ID: u64 = 0x00c;
/// `DeviceFeatures` (R): 32 feature bits, chosen by `DeviceFeaturesSel`.
pub const DEVICE_FEATURES: u64 = 0x010;
/// `DeviceFeaturesSel` (W).
pub const DEVICE_FEATURES_SEL: u64 = 0x014;
/// `DriverFeatures` (W): 32 feature bits, chosen by `DriverFeaturesSel`.
pub const DRIVER_FEATURES: u64 = 0x020;
/// `DriverFeaturesSel` (W).
pub const DRIVER_FEATURES_SEL: u64 = 0x024;
/// `QueueSel` (W).
pub const QUEUE_SEL: u64 = 0x030;
/// `QueueNumMax` (R).
pub const QUEUE_NUM_MAX: u64 = 0x034;
/// `QueueNum` (W).
pub const QUEUE_NUM: u64 = 0x038;
/// `QueueReady` (RW).
pub const QUEUE_READY: u64 = 0x044;
/// `QueueNotify` (W).
pub const QUEUE_NOTIFY: u64 = 0x050;
/// `InterruptStatus` (R).
pub const INTERRUPT_STATUS: u64 = 0x060;
/// `InterruptACK` (W).
pub const INTERRUPT_ACK: u64 = 0x064;
/// `Status` (RW): the device status field, see [`crate::status`].
pub const STATUS: u64 = 0x070;
/// `QueueDescLow` (W): the descriptor table's guest physical address, low half.
pub const QUEUE_DESC_LOW: u64 = 0x080;
/// `QueueDescHigh` (W).
pub const QUEUE_DESC_HIGH: u64 = 0x084;
/// `QueueDriverLow` (W): the available ring's guest physical address, low half.
pub const QUEUE_DRIVER_LOW: u64 = 0x090;
/// `QueueDriverHigh` (W).
pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
/// `QueueDeviceLow` (W): the used ring's guest physical address, low half.
pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
/// `QueueDeviceHigh` (W).
pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
/// `SHMLenLow` (R): a device without shared memory regions reads all ones here and in
/// `SHMLenHigh`.
pub const SHM_LEN_LOW: u64 = 0x0b0;
/// `SHMLenHigh` (R).
pub const SHM_LEN_HIGH: u64 = 0x0b4;
/// `SHMBaseLow` (R).
pub const SHM_BASE_LOW: u64 = 0x0b8;
/// `SHMBaseHigh` (R).
pub const SHM_BASE_HIGH: u64 = 0x0bc;
/// `QueueReset` (RW), with VIRTIO_F_RING_RESET.
pub const QUEUE_RESET: u64 = 0x0c0;
/// `ConfigGeneration` (R).
pub const CONFIG_GENERATION: u64 = 0x0fc;
/// The device configuration space begins here.
pub const CONFIG: u64 = 0x100;

/// What [`MAGIC_VALUE`] reads: "virt".
pub const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// What [`VERSION`] reads for the non-legacy interface.
pub const VERSION_2: u32 = 2;

/// `InterruptStatus`: the device has used a buffer (a used buffer notification).
pub const INTERRUPT_USED_RING: u32 = 1 << 0;
/// `InterruptStatus`: the configuration has changed (a configuration change notification).
pub const INTERRUPT_CONFIG_CHANGE: u32 = 1 << 1;
