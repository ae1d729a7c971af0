//! The block device (virtio 1.2, section 5.2).

/// `DeviceID` of a block device.
pub const DEVICE_ID: u32 = 2;
/// Size in bytes of a sector: the unit of capacities and request positions, whatever `blk_size`
/// says (section 5.2.4).
pub const SECTOR_SIZE: u64 = 512;
/// log2 of [`SECTOR_SIZE`].
pub const SECTOR_SHIFT: u32 = 9;

/// VIRTIO_BLK_F_SIZE_MAX, as a mask.
pub const F_SIZE_MAX: u64 = 1 << 1;
/// VIRTIO_BLK_F_SEG_MAX, as a mask.
pub const F_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO, as a mask.
pub const F_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE, as a mask.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH, as a mask.
pub const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_TOPOLOGY, as a mask.
pub const F_TOPOLOGY: u64 = 1 << 10;
/// VIRTIO_BLK_F_CONFIG_WCE, as a mask.
pub const F_CONFIG_WCE: u64 = 1 << 11;
/// VIRTIO_BLK_F_MQ, as a mask.
pub const F_MQ: u64 = 1 << 12;
/// VIRTIO_BLK_F_DISCARD, as a mask.
pub const F_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES, as a mask.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// VIRTIO_BLK_T_IN: read.
pub const T_IN: u32 = 0;
/// VIRTIO_BLK_T_OUT: write.
pub const T_OUT: u32 = 1;
/// VIRTIO_BLK_T_FLUSH.
pub const T_FLUSH: u32 = 4;
/// VIRTIO_BLK_T_GET_ID.
pub const T_GET_ID: u32 = 8;
/// VIRTIO_BLK_T_GET_LIFETIME.
pub const T_GET_LIFETIME: u32 = 10;
/// VIRTIO_BLK_T_DISCARD.
pub const T_DISCARD: u32 = 11;
/// VIRTIO_BLK_T_WRITE_ZEROES.
pub const T_WRITE_ZEROES: u32 = 13;
/// VIRTIO_BLK_T_SECURE_ERASE.
pub const T_SECURE_ERASE: u32 = 14;

/// VIRTIO_BLK_S_OK.
pub const S_OK: u8 = 0;
/// VIRTIO_BLK_S_IOERR.
pub const S_IOERR: u8 = 1;
/// VIRTIO_BLK_S_UNSUPP.
pub const S_UNSUPP: u8 = 2;

/// Length in bytes of the identification string that GET_ID returns, NUL-padded.
pub const ID_BYTES: usize = 20;

/// `struct virtio_blk_req`'s device-readable header, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHeader {
    /// `T_*`.
    pub request_type: u32,
    /// Reserved (an I/O priority once); the device ignores it.
    pub reserved: u32,
    /// First sector of the request, in units of [`SECTOR_SIZE`].
    pub sector: u64,
}

impl RequestHeader {
    /// Size in bytes on the wire.
    pub const SIZE: usize = 16;

    /// Decodes the header from its wire form.
    pub fn from_le_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        RequestHeader {
            request_type: bits as u32,
            reserved: (bits >> 32) as u32,
            sector: (bits >> 64) as u64,
        }
    }

    /// Encodes the header into its wire form.
    pub fn to_le_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..4].copy_from_slice(&self.request_type.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.reserved.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sector.to_le_bytes());
        bytes
    }
}

/// `struct virtio_blk_discard_write_zeroes`: one range of a DISCARD or WRITE_ZEROES request, 16 bytes
/// of its device-readable data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscardWriteZeroes {
    /// First sector, in units of [`SECTOR_SIZE`].
    pub sector: u64,
    /// How many sectors.
    pub num_sectors: u32,
    /// [`FLAG_UNMAP`], or 0; the other bits are reserved.
    pub flags: u32,
}

/// VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP: the range may be deallocated.
pub const FLAG_UNMAP: u32 = 1;

impl DiscardWriteZeroes {
    /// Size in bytes on the wire.
    pub const SIZE: usize = 16;

    /// Decodes the range from its wire form.
    pub fn from_le_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        DiscardWriteZeroes {
            sector: bits as u64,
            num_sectors: (bits >> 64) as u32,
            flags: (bits >> 96) as u32,
        }
    }

    /// Encodes the range into its wire form.
    pub fn to_le_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.sector.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.num_sectors.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }
}

/// Offsets in bytes of `struct virtio_blk_config`'s fields in the device configuration space
/// (section 5.2.4).
pub mod config {
    /// `capacity: u64`, in sectors.
    pub const CAPACITY: u64 = 0;
    /// `size_max: u32`, bytes in one segment.
    pub const SIZE_MAX: u64 = 8;
    /// `seg_max: u32`, segments in one request.
    pub const SEG_MAX: u64 = 12;
    /// `blk_size: u32`, bytes.
    pub const BLK_SIZE: u64 = 20;
    /// `topology.physical_block_exp: u8`, log2 of logical blocks in a physical one.
    pub const PHYSICAL_BLOCK_EXP: u64 = 24;
    /// `topology.alignment_offset: u8`, in logical blocks.
    pub const ALIGNMENT_OFFSET: u64 = 25;
    /// `topology.min_io_size: u16`, in logical blocks.
    pub const MIN_IO_SIZE: u64 = 26;
    /// `topology.opt_io_size: u32`, in logical blocks; 0 if there is none.
    pub const OPT_IO_SIZE: u64 = 28;
    /// `writeback: u8`.
    pub const WRITEBACK: u64 = 32;
    /// `num_queues: u16`.
    pub const NUM_QUEUES: u64 = 34;
    /// `max_discard_sectors: u32`.
    pub const MAX_DISCARD_SECTORS: u64 = 36;
    /// `max_discard_seg: u32`.
    pub const MAX_DISCARD_SEG: u64 = 40;
    /// `discard_sector_alignment: u32`, in sectors.
    pub const DISCARD_SECTOR_ALIGNMENT: u64 = 44;
    /// `max_write_zeroes_sectors: u32`.
    pub const MAX_WRITE_ZEROES_SECTORS: u64 = 48;
    /// `max_write_zeroes_seg: u32`.
    pub const MAX_WRITE_ZEROES_SEG: u64 = 52;
    /// `write_zeroes_may_unmap: u8`.
    pub const WRITE_ZEROES_MAY_UNMAP: u64 = 56;
    /// Size in bytes of the whole structure up to and including `write_zeroes_may_unmap` and its
    /// padding.
    pub const SIZE: usize = 60;
}

#[cfg(test)]
mod tests {
    use super::{DiscardWriteZeroes, RequestHeader};

    #[test]
    fn header_survives_its_wire_form() {
        let header = RequestHeader {
            request_type: 4,
            reserved: 7,
            sector: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(RequestHeader::from_le_bytes(header.to_le_bytes()), header);
        assert_eq!(header.to_le_bytes()[8], 0xef);
    }

    #[test]
    fn a_range_survives_its_wire_form() {
        let range = DiscardWriteZeroes {
            sector: 0x0123_4567_89ab_cdef,
            num_sectors: 0x1122_3344,
            flags: 1,
        };
        let bytes = range.to_le_bytes();
        assert_eq!((bytes[0], bytes[8], bytes[12]), (0xef, 0x44, 1));
        assert_eq!(DiscardWriteZeroes::from_le_bytes(bytes), range);
    }
}
