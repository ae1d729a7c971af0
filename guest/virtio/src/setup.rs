//! From a device that has been reset to one that serves requests (virtio 1.2, sections 3.1 and 4.2.3):
//! features, then each queue, then DRIVER_OK.

use crate::disk::{DiskError, Info};
use crate::dma::MAX_SEGMENT_BYTES;
use crate::queue::{DIRECT_SEGMENTS, Limits, MAX_SEGMENTS, Queue, Setup};
use crate::registers::Registers;
use iolite_devices_abi::{blk, mmio, status};

/// Longest queue this driver makes use of.
pub const QUEUE_SIZE: u16 = 256;

/// How often the driver looks at a register that is to become something else.
const PATIENCE: u32 = 10_000;

/// What this driver knows, but for VIRTIO_BLK_F_MQ, which it wants only if it uses several queues.
const WANTED: u64 = status::F_VERSION_1
    | status::F_INDIRECT_DESC
    | status::F_EVENT_IDX
    | blk::F_SIZE_MAX
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

/// Resets the device, and waits until it has (section 2.4.2).
pub fn reset<R: Registers>(registers: &R) -> Result<(), DiskError> {
    registers.write(mmio::STATUS, 0);
    let is_reset = |_| registers.read(mmio::STATUS) == 0;
    match (0..PATIENCE).any(is_reset) {
        true => Ok(()),
        false => Err(DiskError::NoReset),
    }
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
    let mut accepted = offered & (WANTED | if several { blk::F_MQ } else { 0 });
    if !registers.locked_instructions_order() {
        accepted &= !status::F_EVENT_IDX;
    }
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
    let indirect = features & status::F_INDIRECT_DESC != 0;
    Ok(Setup {
        size,
        indirect,
        event_idx: features & status::F_EVENT_IDX != 0,
        ordered: registers.locked_instructions_order(),
        features,
        limits: limits(registers, features, size, indirect)?,
    })
}

/// What the device takes in one request.
fn limits<R: Registers>(
    registers: &R,
    features: u64,
    queue_size: u16,
    indirect: bool,
) -> Result<Limits, DiskError> {
    let field = |feature, at| match features & feature {
        0 => Ok(None),
        _ => steady(registers, || registers.read(mmio::CONFIG + at)).map(Some),
    };
    // Without seg_max nothing is said of more than one segment: there are devices that take the
    // second for the status byte.
    let segments = field(blk::F_SEG_MAX, blk::config::SEG_MAX)?.unwrap_or(1);
    let bytes = field(blk::F_SIZE_MAX, blk::config::SIZE_MAX)?.unwrap_or(MAX_SEGMENT_BYTES);
    let bytes = bytes.min(MAX_SEGMENT_BYTES);
    // A chain is no longer than the queue (section 2.7.5.3.1); header and status are in it.
    let room = match indirect {
        true => MAX_SEGMENTS.min(usize::from(queue_size) - 2),
        false => DIRECT_SEGMENTS,
    };
    let limits = Limits {
        segments: room.min(segments.max(1) as usize),
        segment_bytes: bytes - bytes % blk::SECTOR_SIZE as u32,
    };
    match limits.segment_bytes {
        0 => Err(failed(registers, DiskError::Configuration)),
        _ => Ok(limits),
    }
}

/// Requests of no more segments than this are surely not too much for the device, whichever of the
/// queues they go to.
pub fn surely(queues: &[Queue]) -> usize {
    let surely = queues.iter().map(|queue| queue.setup().limits.surely());
    surely.min().unwrap_or(0)
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
    let sectors = read_capacity(registers)?;
    let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
    registers.write(mmio::STATUS, ready);
    let Setup {
        features, limits, ..
    } = first.setup();
    Ok(Info {
        sectors,
        read_only: features & blk::F_RO != 0,
        flush: features & blk::F_FLUSH != 0,
        max_segments: limits.segments,
        max_segment_bytes: limits.segment_bytes,
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

/// What the device's configuration holds: it is read until it holds still (section 2.5.1).
fn steady<R: Registers, T>(registers: &R, read: impl Fn() -> T) -> Result<T, DiskError> {
    for _ in 0..PATIENCE {
        let before = registers.read(mmio::CONFIG_GENERATION);
        let value = read();
        if registers.read(mmio::CONFIG_GENERATION) == before {
            return Ok(value);
        }
    }
    Err(failed(registers, DiskError::Configuration))
}

/// The capacity in sectors, which is two registers wide.
pub fn read_capacity<R: Registers>(registers: &R) -> Result<u64, DiskError> {
    steady(registers, || {
        let low = registers.read(mmio::CONFIG + blk::config::CAPACITY);
        let high = registers.read(mmio::CONFIG + blk::config::CAPACITY + 4);
        u64::from(high) << 32 | u64::from(low)
    })
}
