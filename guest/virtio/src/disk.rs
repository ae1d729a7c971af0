//! The block device (virtio 1.2, section 5.2): initialisation, requests and their outcome.

use crate::dma::{DmaRegion, Segment};
use crate::queue::{Queue, Setup, Used, dma_bytes};
use crate::registers::Registers;
use iolite_devices_abi::blk;
use iolite_devices_abi::{mmio, status};

/// What a disk is, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Capacity in sectors of 512 bytes.
    pub sectors: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// It has a cache that a flush empties.
    pub flush: bool,
    /// Most segments in one request.
    pub max_segments: usize,
    /// Most requests in flight.
    pub max_in_flight: u16,
}

/// What a request does. Sectors are of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads from a sector on.
    Read {
        /// The first sector.
        sector: u64,
    },
    /// Writes from a sector on.
    Write {
        /// The first sector.
        sector: u64,
    },
    /// Makes durable what was written. No segments.
    Flush,
    /// Reads the identification string: one segment of 20 bytes.
    GetId,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// VIRTIO_BLK_S_OK.
    Ok,
    /// VIRTIO_BLK_S_IOERR, or a status that does not exist.
    Failed,
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupported,
}

/// The completion of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// What was handed to [`Disk::submit`].
    pub cookie: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// The head index of its descriptor chain, which is another's from now on.
    pub head: u16,
}

/// Why a request was not taken. No completion will come for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// Every slot is in flight: try again after a completion.
    Full,
    /// It has more segments than [`Info::max_segments`].
    TooManySegments,
}

/// Why a device cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No virtio-mmio device of version 2 answers.
    NotVirtioMmio,
    /// It is another kind of device.
    NotABlockDevice,
    /// It lacks VIRTIO_F_VERSION_1 or does not accept our choice of features.
    Features,
    /// It has no request queue, or one too short to be of use.
    NoQueue,
    /// The memory handed over is too short.
    TooLittleMemory,
}

/// A block device that is being driven.
pub struct Disk<R> {
    registers: R,
    queue: Queue,
    info: Info,
    notifications: u64,
}

/// Longest queue this driver makes use of.
const QUEUE_SIZE: u16 = 256;
const REQUEST_QUEUE: u32 = 0;

impl<R: Registers> Disk<R> {
    /// How many bytes of memory [`Disk::new`] needs.
    pub const DMA_BYTES: usize = dma_bytes(QUEUE_SIZE);

    /// Initialises the device (section 3.1) and its request queue (section 4.2.3.2).
    pub fn new(registers: R, region: DmaRegion) -> Result<Self, DiskError> {
        let read = |offset| registers.read(offset);
        let write = |offset, value| registers.write(offset, value);
        if read(mmio::MAGIC_VALUE) != mmio::MAGIC || read(mmio::VERSION) != mmio::VERSION_2 {
            return Err(DiskError::NotVirtioMmio);
        }
        if read(mmio::DEVICE_ID) != blk::DEVICE_ID {
            return Err(DiskError::NotABlockDevice);
        }
        if region.bytes() < Self::DMA_BYTES {
            return Err(DiskError::TooLittleMemory);
        }

        write(mmio::STATUS, 0);
        let setup = negotiate_queue(&registers)?;
        let queue = Queue::new(region, setup);
        let info = start(&registers, &queue, &setup);
        Ok(Disk {
            registers,
            queue,
            info,
            notifications: 0,
        })
    }

    /// Asks the device to reset itself (section 2.4.1): it lets go of every request, which will
    /// never complete. It has done so when [`Disk::is_reset`] says so; until then it may use the
    /// memory of requests in flight.
    pub fn start_reset(&self) {
        self.registers.write(mmio::STATUS, 0);
    }

    /// Has the device been reset?
    pub fn is_reset(&self) -> bool {
        self.registers.read(mmio::STATUS) == 0
    }

    /// Initialises the device anew that has been reset, whoever has driven it meanwhile. On an error
    /// the driver must not be used before it succeeds.
    pub fn restart(&mut self) -> Result<(), DiskError> {
        let setup = negotiate_queue(&self.registers)?;
        // It is the same device: it offers what it did.
        if self.queue.setup() != setup {
            return Err(DiskError::Features);
        }
        self.queue.restart();
        self.info = start(&self.registers, &self.queue, &setup);
        Ok(())
    }

    /// What the disk is.
    #[inline(always)]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// How many requests are in flight.
    #[inline(always)]
    pub fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// Is there room for another request?
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    /// Makes a request available to the device. It may not notice before [`Disk::notify`].
    ///
    /// The segments' memory must stay as it is until the completion with `cookie` has been
    /// harvested; the caller holds it.
    #[inline(always)]
    pub fn submit(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        cookie: u32,
    ) -> Result<(), SubmitError> {
        if !self.queue.has_room() {
            return Err(SubmitError::Full);
        }
        if segments.len() > self.info.max_segments {
            return Err(SubmitError::TooManySegments);
        }
        let (request_type, sector, device_writes) = match operation {
            Operation::Read { sector } => (blk::T_IN, sector, true),
            Operation::Write { sector } => (blk::T_OUT, sector, false),
            Operation::Flush => (blk::T_FLUSH, 0, false),
            Operation::GetId => (blk::T_GET_ID, 0, true),
        };
        self.queue
            .add(request_type, sector, segments, device_writes, cookie);
        Ok(())
    }

    /// Shows the device what was submitted and sends it an available buffer notification if it
    /// wants one.
    #[inline(always)]
    pub fn notify(&mut self) {
        if self.queue.publish() {
            self.notifications += 1;
            self.registers.write(mmio::QUEUE_NOTIFY, REQUEST_QUEUE);
        }
    }

    /// How many available buffer notifications were sent.
    pub fn notifications(&self) -> u64 {
        self.notifications
    }

    /// Takes note of an interrupt (section 4.2.2). InterruptStatus is not read, which would cost
    /// another exit: every event is acknowledged, and what came of it is looked for anyway.
    #[inline]
    pub fn acknowledge(&mut self) {
        let every = mmio::INTERRUPT_USED_RING | mmio::INTERRUPT_CONFIG_CHANGE;
        self.registers.write(mmio::INTERRUPT_ACK, every);
    }

    /// The head index of the request that was submitted last.
    #[inline(always)]
    pub fn last_head(&self) -> u16 {
        self.queue.last_head()
    }

    /// The next completion, if there is one.
    #[inline]
    pub fn harvest(&mut self) -> Option<Done> {
        self.queue.harvest().map(Done::from_used)
    }

    /// The next completion, if there is one, for a driver that polls: whether the device interrupts
    /// is left as [`Disk::set_interrupts`] says.
    #[inline(always)]
    pub fn poll(&mut self) -> Option<Done> {
        self.queue.poll().map(Done::from_used)
    }

    /// Asks the device for an interrupt at the next completion, or for none while the driver polls.
    /// It is a wish: an interrupt may come all the same, seldom.
    pub fn set_interrupts(&mut self, wanted: bool) {
        self.queue.set_interrupts(wanted);
    }

    /// Calls `ended` with every completion there is.
    #[inline(always)]
    pub fn harvest_all(&mut self, mut ended: impl FnMut(Done)) {
        self.queue.harvest_all(|used| ended(Done::from_used(used)));
    }
}

impl Done {
    #[inline(always)]
    fn from_used(used: Used) -> Done {
        let outcome = match used.status {
            _ if used.ok() => Outcome::Ok,
            blk::S_UNSUPP => Outcome::Unsupported,
            _ => Outcome::Failed,
        };
        Done {
            cookie: used.cookie,
            outcome,
            head: used.head,
        }
    }
}

/// From a device that has been reset to one that waits for its queue.
fn negotiate_queue<R: Registers>(registers: &R) -> Result<Setup, DiskError> {
    let mut state = status::ACKNOWLEDGE | status::DRIVER;
    registers.write(mmio::STATUS, state);

    let features = negotiate(registers)?;
    state |= status::FEATURES_OK;
    registers.write(mmio::STATUS, state);
    if registers.read(mmio::STATUS) & status::FEATURES_OK == 0 {
        registers.write(mmio::STATUS, state | status::FAILED);
        return Err(DiskError::Features);
    }

    registers.write(mmio::QUEUE_SEL, REQUEST_QUEUE);
    let size = registers
        .read(mmio::QUEUE_NUM_MAX)
        .min(u32::from(QUEUE_SIZE));
    // A shorter queue than this has no room for a request without indirect descriptors.
    let Some(size) = u16::try_from(size).ok().filter(|size| *size >= 4) else {
        registers.write(mmio::STATUS, state | status::FAILED);
        return Err(DiskError::NoQueue);
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

/// Hands the queue to the device, and sets it going.
fn start<R: Registers>(registers: &R, queue: &Queue, setup: &Setup) -> Info {
    let at = queue.addresses();
    registers.write(mmio::QUEUE_NUM, u32::from(setup.size));
    registers.write(mmio::QUEUE_DESC_LOW, at.descriptors as u32);
    registers.write(mmio::QUEUE_DESC_HIGH, (at.descriptors >> 32) as u32);
    registers.write(mmio::QUEUE_DRIVER_LOW, at.driver as u32);
    registers.write(mmio::QUEUE_DRIVER_HIGH, (at.driver >> 32) as u32);
    registers.write(mmio::QUEUE_DEVICE_LOW, at.device as u32);
    registers.write(mmio::QUEUE_DEVICE_HIGH, (at.device >> 32) as u32);
    registers.write(mmio::QUEUE_READY, 1);
    let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
    registers.write(mmio::STATUS, ready);
    Info {
        sectors: read_capacity(registers),
        read_only: setup.features & blk::F_RO != 0,
        flush: setup.features & blk::F_FLUSH != 0,
        max_segments: max_segments(registers, setup.features, queue),
        max_in_flight: queue.slots(),
    }
}

/// Accepts what both sides know (section 2.2).
fn negotiate<R: Registers>(registers: &R) -> Result<u64, DiskError> {
    const WANTED: u64 = status::F_VERSION_1
        | status::F_INDIRECT_DESC
        | status::F_EVENT_IDX
        | blk::F_SEG_MAX
        | blk::F_RO
        | blk::F_BLK_SIZE
        | blk::F_FLUSH;
    let mut offered = 0;
    for half in [0, 1u32] {
        registers.write(mmio::DEVICE_FEATURES_SEL, half);
        offered |= u64::from(registers.read(mmio::DEVICE_FEATURES)) << (32 * half);
    }
    let accepted = offered & WANTED;
    if accepted & status::F_VERSION_1 == 0 {
        return Err(DiskError::Features);
    }
    for half in [0, 1u32] {
        registers.write(mmio::DRIVER_FEATURES_SEL, half);
        registers.write(mmio::DRIVER_FEATURES, (accepted >> (32 * half)) as u32);
    }
    Ok(accepted)
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
