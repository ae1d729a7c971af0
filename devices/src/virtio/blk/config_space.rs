//! The device configuration space of a disk (virtio 1.2, section 5.2.4), and the features that give
//! its fields a meaning.

use iolite_devices_abi::blk::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_SIZE_MAX, F_TOPOLOGY,
    F_WRITE_ZEROES, SECTOR_SIZE, config,
};
use iolite_devices_abi::status::{F_EVENT_IDX, F_INDIRECT_DESC, F_RING_RESET, F_VERSION_1};

use super::disk::Disk;
use super::ranges::{DISCARD, WRITE_ZEROES};

/// The longest segment in bytes. The device could take longer ones; drivers that believe there is
/// no limit where none is announced have been wrong before.
const SIZE_MAX: u32 = 1 << 30;

/// device_features of `disk`.
pub(super) fn features(disk: &Disk) -> u64 {
    let always = F_VERSION_1
        | F_EVENT_IDX
        | F_INDIRECT_DESC
        | F_RING_RESET
        | F_FLUSH
        | F_SIZE_MAX
        | F_SEG_MAX
        | F_BLK_SIZE
        | F_TOPOLOGY
        | F_CONFIG_WCE;
    let several = if disk.queues > 1 { F_MQ } else { 0 };
    if disk.read_only {
        always | several | F_RO
    } else {
        always | several | F_DISCARD | F_WRITE_ZEROES
    }
}

/// Reads the configuration space of a disk; zeros past the end.
pub(super) fn read(disk: &Disk, offset: u64, data: &mut [u8]) {
    let space = layout(disk);
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let from = space.get(start..).unwrap_or_default();
    let len = data.len().min(from.len());
    data[..len].copy_from_slice(&from[..len]);
    data[len..].fill(0);
}

/// Writes to the configuration space: the cache mode alone can be written, whole (section 5.2.5).
pub(super) fn write(disk: &Disk, offset: u64, data: &[u8]) {
    if let (config::WRITEBACK, &[mode @ (0 | 1)]) = (offset, data) {
        disk.choose_write_back(mode == 1);
    }
}

/// `struct virtio_blk_config`; what belongs to features that are not offered is zero.
fn layout(disk: &Disk) -> [u8; config::SIZE] {
    // A resize comes before or after.
    let _generation = disk.generation();
    let mut space = [0; config::SIZE];
    let mut put = |offset: u64, bytes: &[u8]| {
        let start = offset as usize;
        space[start..start + bytes.len()].copy_from_slice(bytes);
    };
    let sectors = disk.capacity() / SECTOR_SIZE;
    put(config::CAPACITY, &sectors.to_le_bytes());
    put(config::SIZE_MAX, &SIZE_MAX.to_le_bytes());
    // A chain, indirect or not, is never longer than its queue (section 2.7.5.3.1), and header
    // and status take one descriptor each. This also stays below IOV_MAX.
    put(
        config::SEG_MAX,
        &u32::from(disk.queue_size - 2).to_le_bytes(),
    );
    put(config::BLK_SIZE, &disk.block_size.to_le_bytes());
    // Both are powers of two.
    let physical = disk.physical_block / disk.block_size;
    put(config::PHYSICAL_BLOCK_EXP, &[physical.ilog2() as u8]);
    put(config::MIN_IO_SIZE, &(physical as u16).to_le_bytes());
    put(config::WRITEBACK, &[disk.is_write_back().into()]);
    if disk.queues > 1 {
        put(config::NUM_QUEUES, &disk.queues.to_le_bytes());
    }
    if !disk.read_only {
        // Less than a physical block, or parts of two, cannot be given back.
        let alignment = disk.physical_block / SECTOR_SIZE as u32;
        put(config::MAX_DISCARD_SECTORS, &DISCARD.sectors.to_le_bytes());
        put(config::MAX_DISCARD_SEG, &DISCARD.ranges.to_le_bytes());
        put(config::DISCARD_SECTOR_ALIGNMENT, &alignment.to_le_bytes());
        let zeroes = WRITE_ZEROES;
        put(
            config::MAX_WRITE_ZEROES_SECTORS,
            &zeroes.sectors.to_le_bytes(),
        );
        put(config::MAX_WRITE_ZEROES_SEG, &zeroes.ranges.to_le_bytes());
        put(config::WRITE_ZEROES_MAY_UNMAP, &[1]);
    }
    space
}
