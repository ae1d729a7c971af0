//! From a device that has been reset to one that serves requests (virtio 1.2, sections 3.1 and 4.2.3):
//! features, then each queue, then DRIVER_OK.

use crate::disk::{DiskError, Info};
use crate::queue::{Queue, Setup};
use crate::registers::Registers;
use iolite_devices_abi::{blk, mmio, status};

/// Longest queue this driver makes use of.
pub const QUEUE_SIZE: u16 = 256;

/// What this driver knows, but for VIRTIO_BLK_F_MQ, which it wants only if it uses several queues.
const WANTED: u64 = status::F_VERSION_1
    | status::F_INDIRECT_DESC
    | status::F_EVENT_IDX
    | blk::F_SEG_MAX
    | blk::F_RO
    | blk::F_BLK_SIZE
    | blk::F_FLUSH;

/// Is it a block device that can be driven?
pub fn identify<R: Registers>(registers: &R) -> Result<(), DiskError> {
    let magic = registers.read(mmio::MAGIC_VALUE);
    if magic != mmio::MAGIC || registers.read(mmio::VERSION) != mmio::VERSION_2 {
        return Err(DiskError::NotVirtioMmio);
    }
    if registers.read(mmio::DEVICE_ID) != blk::DEVICE_ID {
        return Err(DiskError::NotABlockDevice);
    }
    Ok(())
}

/// From a device that has been reset to one that waits for its queues: gives the features, with
/// VIRTIO_BLK_F_MQ if it has several queues and they are `several`.
pub fn negotiate<R: Registers>(registers: &R, several: bool) -> Result<u64, DiskError> {
    // One step after the other (section 3.1.1): there are devices that take no two at once.
    let state = status::ACKNOWLEDGE;
    registers.write(mmio::STATUS, state);
    let state = state | status::DRIVER;
    registers.write(mmio::STATUS, state);
    let features = accept(registers, several)?;
    let state = state | status::FEATURES_OK;
    registers.write(mmio::STATUS, state);
    if registers.read(mmio::STATUS) & status::FEATURES_OK == 0 {
        return Err(failed(registers, DiskError::Features));
    }
    Ok(features)
}

/// Accepts what both sides know (section 2.2).
fn accept<R: Registers>(registers: &R, several: bool) -> Result<u64, DiskError> {
    let mut offered = 0;
    for half in [0, 1u32] {
        registers.write(mmio::DEVICE_FEATURES_SEL, half);
        offered |= u64::from(registers.read(mmio::DEVICE_FEATURES)) << (32 * half);
    }
    let accepted = offered & (WANTED | if several { blk::F_MQ } else { 0 });
    if accepted & status::F_VERSION_1 == 0 {
        return Err(DiskError::Features);
    }
    for half in [0, 1u32] {
        registers.write(mmio::DRIVER_FEATURES_SEL, half);
        registers.write(mmio::DRIVER_FEATURES, (accepted >> (32 * half)) as u32);
    }
    Ok(accepted)
}

/// How many queues there are.
pub fn queues<R: Registers>(registers: &R, features: u64) -> usize {
    match features & blk::F_MQ {
        0 => 1,
        // The field is 16 bits wide; registers are read in words.
        _ => {
            let at = blk::config::NUM_QUEUES;
            let word = registers.read(mmio::CONFIG + (at & !3));
            let count = (word >> (8 * (at & 3))) as u16;
            usize::from(count.max(1))
        }
    }
}

/// What queue number `index` can be.
pub fn setup<R: Registers>(registers: &R, index: usize, features: u64) -> Result<Setup, DiskError> {
    registers.write(mmio::QUEUE_SEL, index as u32);
    let size = registers
        .read(mmio::QUEUE_NUM_MAX)
        .min(u32::from(QUEUE_SIZE));
    // A shorter queue than this has no room for a request without indirect descriptors.
    let Some(size) = u16::try_from(size).ok().filter(|size| *size >= 4) else {
        return Err(failed(registers, DiskError::NoQueue));
    };
    let size = if size.is_power_of_two() {
        size
    } else {
        size.next_power_of_two() / 2
    };
    Ok(Setup {
        size,
        indirect: features & status::F_INDIRECT_DESC != 0,
        event_idx: features & status::F_EVENT_IDX != 0,
        features,
    })
}

/// Hands the queues to the device, and sets it going.
pub fn start<R: Registers>(registers: &R, queues: &[Queue]) -> Result<Info, DiskError> {
    let Some(first) = queues.first() else {
        return Err(failed(registers, DiskError::NoQueue));
    };
    for (index, queue) in queues.iter().enumerate() {
        registers.write(mmio::QUEUE_SEL, index as u32);
        enable(registers, queue);
    }
    let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
    registers.write(mmio::STATUS, ready);
    let features = first.setup().features;
    Ok(Info {
        sectors: read_capacity(registers),
        read_only: features & blk::F_RO != 0,
        flush: features & blk::F_FLUSH != 0,
        max_segments: max_segments(registers, features, first),
        max_in_flight: queues.iter().map(Queue::slots).min().unwrap_or(0),
    })
}

/// Hands over the queue that is selected.
fn enable<R: Registers>(registers: &R, queue: &Queue) {
    let at = queue.addresses();
    registers.write(mmio::QUEUE_NUM, u32::from(queue.setup().size));
    registers.write(mmio::QUEUE_DESC_LOW, at.descriptors as u32);
    registers.write(mmio::QUEUE_DESC_HIGH, (at.descriptors >> 32) as u32);
    registers.write(mmio::QUEUE_DRIVER_LOW, at.driver as u32);
    registers.write(mmio::QUEUE_DRIVER_HIGH, (at.driver >> 32) as u32);
    registers.write(mmio::QUEUE_DEVICE_LOW, at.device as u32);
    registers.write(mmio::QUEUE_DEVICE_HIGH, (at.device >> 32) as u32);
    registers.write(mmio::QUEUE_READY, 1);
}

/// Gives up (section 3.1.1).
fn failed<R: Registers>(registers: &R, error: DiskError) -> DiskError {
    let state = registers.read(mmio::STATUS);
    registers.write(mmio::STATUS, state | status::FAILED);
    error
}

/// The capacity is two registers wide: it is read until it holds still (section 2.5.1).
fn read_capacity<R: Registers>(registers: &R) -> u64 {
    loop {
        let before = registers.read(mmio::CONFIG_GENERATION);
        let low = registers.read(mmio::CONFIG + blk::config::CAPACITY);
        let high = registers.read(mmio::CONFIG + blk::config::CAPACITY + 4);
        if registers.read(mmio::CONFIG_GENERATION) == before {
            return u64::from(high) << 32 | u64::from(low);
        }
    }
}

fn max_segments<R: Registers>(registers: &R, features: u64, queue: &Queue) -> usize {
    let device = match features & blk::F_SEG_MAX {
        0 => u32::MAX,
        _ => registers.read(mmio::CONFIG + blk::config::SEG_MAX).max(1),
    };
    queue.max_segments().min(device as usize)
}
