//! The block device (virtio 1.2, section 5.2): what it is, and the queues that it is driven by.

use crate::dma::{DmaRegion, Segment};
use crate::queue::{Bell, Queue, dma_bytes};
use crate::registers::Registers;
use crate::request::{Done, Operation, RequestQueue, SubmitError};
use crate::setup::{self, QUEUE_SIZE, identify, negotiate, reset, setup};
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
    /// Most segments that it takes at once. A request may have [`MAX_SEGMENTS`](crate::MAX_SEGMENTS).
    pub max_segments: usize,
    /// Longest segment that it takes, in bytes.
    pub max_segment_bytes: u32,
    /// Most requests in flight, in each queue.
    pub max_in_flight: u16,
}

/// Why a device cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No virtio-mmio device of version 2 answers.
    NotVirtioMmio,
    /// It does not reset itself.
    NoReset,
    /// It is another kind of device.
    NotABlockDevice,
    /// It lacks VIRTIO_F_VERSION_1 or does not accept our choice of features.
    Features,
    /// It has no request queue, or one too short to be of use.
    NoQueue,
    /// Its configuration does not hold still, or its segments are shorter than a sector.
    Configuration,
    /// The memory handed over is too short.
    TooLittleMemory,
}

/// A block device that is being driven, by one queue or by several (`Q`).
pub struct Disk<R, Q = [Queue; 1]> {
    registers: R,
    queues: Q,
    info: Info,
    /// Requests of no more segments than this are surely not too much for the device.
    surely: usize,
}

impl<R: Registers> Disk<R> {
    /// How many bytes of memory each queue needs.
    pub const DMA_BYTES: usize = dma_bytes(QUEUE_SIZE);

    /// Initialises the device (section 3.1) and its first request queue, in `region`.
    ///
    /// # Errors
    /// It is no device that can be driven, or the region is too short.
    pub fn new(registers: R, region: DmaRegion) -> Result<Self, DiskError> {
        identify(&registers)?;
        reset(&registers)?;
        let features = negotiate(&registers, false)?;
        let queues = [new_queue(&registers, 0, features, region)?];
        let info = setup::start(&registers, &queues)?;
        Ok(Disk {
            registers,
            surely: setup::surely(queues.as_ref()),
            queues,
            info,
        })
    }
}

impl<R: Registers, Q: FromIterator<Queue> + AsRef<[Queue]>> Disk<R, Q> {
    /// Initialises the device and a request queue in each of the regions, or in as many of them as it
    /// has queues (VIRTIO_BLK_F_MQ, section 5.2.3).
    ///
    /// # Errors
    /// As [`Disk::new`].
    pub fn with_queues(
        registers: R,
        regions: impl IntoIterator<Item = DmaRegion>,
    ) -> Result<Self, DiskError> {
        identify(&registers)?;
        reset(&registers)?;
        let features = negotiate(&registers, true)?;
        let count = setup::queues(&registers, features);
        let regions = regions.into_iter().take(count).enumerate();
        let queues: Q = regions
            .map(|(index, region)| new_queue(&registers, index, features, region))
            .collect::<Result<_, _>>()?;
        let info = setup::start(&registers, queues.as_ref())?;
        Ok(Disk {
            registers,
            surely: setup::surely(queues.as_ref()),
            queues,
            info,
        })
    }
}

fn new_queue<R: Registers>(
    registers: &R,
    index: usize,
    features: u64,
    region: DmaRegion,
) -> Result<Queue, DiskError> {
    if region.bytes() < Disk::<R>::DMA_BYTES {
        return Err(DiskError::TooLittleMemory);
    }
    Ok(Queue::new(region, setup(registers, index, features)?))
}

impl<R: Registers, Q: AsRef<[Queue]> + AsMut<[Queue]>> Disk<R, Q> {
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

    /// Has every request complete as failed that was in flight when the device was reset. Once they
    /// are harvested, [`Disk::restart`] comes next.
    pub fn abandon(&mut self) {
        self.queues.as_mut().iter_mut().for_each(Queue::abandon);
    }

    /// Initialises the device anew that has been reset, whoever has driven it meanwhile. On an error
    /// the driver must not be used before it succeeds.
    ///
    /// # Errors
    /// As [`Disk::new`].
    pub fn restart(&mut self) -> Result<(), DiskError> {
        let features = negotiate(&self.registers, self.queues() > 1)?;
        for (index, queue) in self.queues.as_mut().iter_mut().enumerate() {
            // It is the same device: it offers what it did.
            if queue.setup() != setup(&self.registers, index, features)? {
                return Err(DiskError::Features);
            }
            queue.restart();
        }
        self.info = setup::start(&self.registers, self.queues.as_ref())?;
        Ok(())
    }

    /// How many queues are in use.
    pub fn queues(&self) -> usize {
        self.queues.as_ref().len()
    }

    /// Queue number `index`, from 0.
    ///
    /// # Panics
    /// There is no such queue.
    #[inline(always)]
    pub fn queue(&mut self, index: usize) -> RequestQueue<'_, R> {
        let queues = self.queues.as_mut();
        RequestQueue {
            queue: &mut queues[index],
            bell: Bell {
                registers: &self.registers,
                queue: index as u32,
            },
            surely: self.surely,
        }
    }

    /// What the disk is.
    #[inline(always)]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// How many requests are in flight, in the first queue.
    #[inline(always)]
    pub fn in_flight(&self) -> u16 {
        self.queues.as_ref()[0].in_flight()
    }

    /// Is there room for another request in the first queue?
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        self.queues.as_ref()[0].has_room()
    }

    /// How many available buffer notifications were sent, for all queues.
    pub fn notifications(&self) -> u64 {
        let queues = self.queues.as_ref().iter();
        queues.map(|queue| queue.notifications).sum()
    }

    /// Takes note of an interrupt (section 4.2.2), whichever queue it is for. InterruptStatus is not
    /// read, which would cost another exit: completions are looked for anyway. If there are none, it
    /// is a change of the configuration perhaps, for which [`Disk::take_change`] looks.
    #[inline]
    pub fn acknowledge(&mut self) {
        let used = mmio::INTERRUPT_USED_RING;
        self.registers.write(mmio::INTERRUPT_ACK, used);
    }

    /// Has the device said, since this was last asked, that its configuration has changed or that it
    /// needs to be reset ([`Disk::needs_reset`])?
    pub fn take_change(&mut self) -> bool {
        let change = mmio::INTERRUPT_CONFIG_CHANGE;
        let changed = self.registers.read(mmio::INTERRUPT_STATUS) & change != 0;
        if changed {
            self.registers.write(mmio::INTERRUPT_ACK, change);
        }
        changed
    }

    /// Does the device serve nothing any more until it is reset (section 2.1.2)?
    pub fn needs_reset(&self) -> bool {
        self.registers.read(mmio::STATUS) & status::DEVICE_NEEDS_RESET != 0
    }

    /// Reads the capacity anew. Is it another one?
    pub fn refresh(&mut self) -> bool {
        // A configuration that never holds still says nothing.
        let Ok(sectors) = setup::read_capacity(&self.registers) else {
            return false;
        };
        core::mem::replace(&mut self.info.sectors, sectors) != sectors
    }

    /// The head index of the request that was submitted last to the first queue.
    #[inline(always)]
    pub fn last_head(&self) -> u16 {
        self.queues.as_ref()[0].last_head()
    }

    /// [`RequestQueue::submit`] of the first queue.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn submit(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        cookie: u32,
    ) -> Result<(), SubmitError> {
        self.queue(0).submit(operation, segments, cookie)
    }

    /// [`RequestQueue::submit_at_once`] of the first queue.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn submit_at_once(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        cookie: u32,
    ) -> Result<(), SubmitError> {
        self.queue(0).submit_at_once(operation, segments, cookie)
    }

    /// [`RequestQueue::notify`] of the first queue.
    #[inline(always)]
    pub fn notify(&mut self) {
        self.queue(0).notify();
    }

    /// [`RequestQueue::harvest`] of the first queue.
    #[inline]
    pub fn harvest(&mut self) -> Option<Done> {
        self.queue(0).harvest()
    }

    /// [`RequestQueue::harvest_all`] of the first queue.
    #[inline(always)]
    pub fn harvest_all(&mut self, ended: impl FnMut(Done)) {
        self.queue(0).harvest_all(ended);
    }
}
