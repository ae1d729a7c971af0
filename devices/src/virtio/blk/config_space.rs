//! The device configuration space of a disk (virtio 1.2, section 5.2.4), and the features that give
//! its fields a meaning.

use iolite_devices_abi::blk::{
    F_BLK_SIZE, F_DISCARD, F_FLUSH, F_RO, F_SEG_MAX, F_WRITE_ZEROES, SECTOR_SIZE, config,
};
use iolite_devices_abi::status::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

use super::queue::Disk;
use super::ranges::{DISCARD, WRITE_ZEROES};

/// Discarding less than a page of the host, or from a place between two, frees nothing.
const DISCARD_ALIGNMENT: u32 = 4096 / SECTOR_SIZE as u32;

/// `struct virtio_blk_config`; what belongs to features that are not offered stays zero.
pub(super) struct ConfigSpace {
    bytes: [u8; config::SIZE],
}

impl ConfigSpace {
    /// What `disk` says of itself when its queue has `queue_size` entries.
    pub(super) fn new(disk: &Disk, queue_size: u16) -> Self {
        let bytes = [0; config::SIZE];
        let mut space = ConfigSpace { bytes };
        let sectors = disk.capacity / SECTOR_SIZE;
        space.put(config::CAPACITY, &sectors.to_le_bytes());
        // A chain, indirect or not, is never longer than its queue (section 2.7.5.3.1), and header
        // and status take one descriptor each. This also stays below IOV_MAX.
        space.put32(config::SEG_MAX, u32::from(queue_size - 2));
        space.put32(config::BLK_SIZE, SECTOR_SIZE as u32);
        if !disk.read_only {
            space.put32(config::MAX_DISCARD_SECTORS, DISCARD.sectors);
            space.put32(config::MAX_DISCARD_SEG, DISCARD.ranges);
            space.put32(config::DISCARD_SECTOR_ALIGNMENT, DISCARD_ALIGNMENT);
            space.put32(config::MAX_WRITE_ZEROES_SECTORS, WRITE_ZEROES.sectors);
            space.put32(config::MAX_WRITE_ZEROES_SEG, WRITE_ZEROES.ranges);
            space.put(config::WRITE_ZEROES_MAY_UNMAP, &[1]);
        }
        space
    }

    /// Reads from `offset` on; zeros past the end.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.bytes.len());
        let len = data.len().min(self.bytes.len() - start);
        data[..len].copy_from_slice(&self.bytes[start..start + len]);
        data[len..].fill(0);
    }

    fn put32(&mut self, offset: u64, value: u32) {
        self.put(offset, &value.to_le_bytes());
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let start = offset as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

/// device_features of `disk`.
pub(super) fn features(disk: &Disk) -> u64 {
    let always = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_FLUSH | F_SEG_MAX | F_BLK_SIZE;
    if disk.read_only {
        always | F_RO
    } else {
        always | F_DISCARD | F_WRITE_ZEROES
    }
}
