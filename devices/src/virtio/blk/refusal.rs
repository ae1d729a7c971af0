//! Why a request is refused, and what the driver gets for it (virtio 1.2, section 5.2.6).

use iolite_devices_abi::blk::{S_IOERR, S_UNSUPP};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// More than 2^32 bytes.
    #[error("its buffers are longer than 2^32 bytes")]
    TooLong,
    /// A readable buffer behind a writable one.
    #[error("a device-readable buffer follows a device-writable one")]
    Order,
    /// Fewer than 16 readable bytes.
    #[error("its header is incomplete or unreadable")]
    Header,
    /// Data outside guest memory.
    #[error("its data is outside guest memory")]
    Memory,
    /// Data of the wrong direction.
    #[error("its data has the wrong direction")]
    Direction,
    /// Not a whole number of sectors; another length than 20 for GET_ID; no whole number of ranges,
    /// too many of them, or too long a one.
    #[error("its length is not possible")]
    Length,
    /// Past the end of the disk.
    #[error("it reaches past the end of the disk")]
    Range,
    /// A write to a read-only disk.
    #[error("it writes to a read-only disk")]
    ReadOnly,
    /// Flags of a range that are reserved, or not possible for its request type.
    #[error("the flags {0:#x} of a range are not supported")]
    Flags(u32),
    /// A request type that does not exist or was not offered.
    #[error("its type {0} is not supported")]
    Unsupported(u32),
}

impl Refusal {
    /// VIRTIO_BLK_S_*.
    pub fn status(self) -> u8 {
        match self {
            Refusal::Unsupported(_) | Refusal::Flags(_) => S_UNSUPP,
            _ => S_IOERR,
        }
    }
}
