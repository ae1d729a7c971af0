//! The device configuration space of a disk (virtio 1.2, section 5.2.4), and the features that give
//! its fields a meaning.

use iolite_devices_abi::blk::{F_BLK_SIZE, F_FLUSH, F_RO, F_SEG_MAX, SECTOR_SIZE, config};
use iolite_devices_abi::status::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

use super::queue::Disk;

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
        let seg_max = u32::from(queue_size - 2);
        space.put(config::SEG_MAX, &seg_max.to_le_bytes());
        space.put(config::BLK_SIZE, &(SECTOR_SIZE as u32).to_le_bytes());
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
        always
    }
}
