//! Requests: what they do, how they end, and the queue that carries them.

use crate::dma::Segment;
use crate::queue::{Bell, Queue, Used};
use crate::registers::Registers;
use iolite_devices_abi::blk;

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

impl Operation {
    /// Type and first sector, and whether the device writes to the segments.
    #[inline(always)]
    fn to_device(self) -> ((u32, u64), bool) {
        match self {
            Operation::Read { sector } => ((blk::T_IN, sector), true),
            Operation::Write { sector } => ((blk::T_OUT, sector), false),
            Operation::Flush => ((blk::T_FLUSH, 0), false),
            Operation::GetId => ((blk::T_GET_ID, 0), true),
        }
    }
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
    /// What was handed to [`Disk::submit`](crate::Disk::submit).
    pub cookie: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// The head index of its descriptor chain, which is another's from now on.
    pub head: u16,
}

/// Why a request was not taken. No completion will come for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// Every slot is in flight, or another request is not all with the device yet: try again after a
    /// completion.
    Full,
    /// It has more segments than [`MAX_SEGMENTS`](crate::MAX_SEGMENTS), or is more than the device
    /// takes at once and is not made of whole sectors.
    TooManySegments,
}

/// One of a disk's request queues.
pub struct RequestQueue<'a, R> {
    pub(crate) queue: &'a mut Queue,
    pub(crate) bell: Bell<'a, R>,
    /// Requests of no more segments than this are surely not too much for the device.
    pub(crate) surely: usize,
}

impl<R: Registers> RequestQueue<'_, R> {
    /// Makes a request available to the device. It may not notice before [`RequestQueue::notify`].
    /// What is more than the device takes at once ([`Info::max_segments`](crate::Info::max_segments))
    /// goes to it in parts, and completes once.
    ///
    /// The segments' memory must stay as it is until the completion with `cookie` has been
    /// harvested; the caller holds it.
    ///
    /// # Errors
    /// No request was submitted, and no completion will come.
    #[inline(always)]
    pub fn submit(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        cookie: u32,
    ) -> Result<(), SubmitError> {
        match self.submit_at_once(operation, segments, cookie) {
            Err(SubmitError::TooManySegments) => self.submit_in_parts(operation, segments, cookie),
            result => result,
        }
    }

    /// The same for who looks closer only if he must: what may be more than the device takes at once
    /// has too many segments.
    ///
    /// # Errors
    /// As [`RequestQueue::submit`].
    #[inline(always)]
    pub fn submit_at_once(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        cookie: u32,
    ) -> Result<(), SubmitError> {
        if !self.queue.has_slot() {
            return Err(SubmitError::Full);
        }
        if segments.len() > self.surely {
            return Err(SubmitError::TooManySegments);
        }
        let (header, device_writes) = operation.to_device();
        self.queue.add(header, segments, device_writes, cookie);
        Ok(())
    }

    #[cold]
    fn submit_in_parts(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        cookie: u32,
    ) -> Result<(), SubmitError> {
        let (header, device_writes) = operation.to_device();
        self.queue
            .add_in_parts(header, segments, device_writes, cookie)
    }

    /// Shows the device what was submitted and sends it an available buffer notification if it
    /// wants one.
    #[inline(always)]
    pub fn notify(&mut self) {
        self.queue.notify(self.bell);
    }

    /// The next completion, if there is one. If there is none, asks for an interrupt at the next.
    #[inline]
    pub fn harvest(&mut self) -> Option<Done> {
        self.queue.harvest(self.bell).map(Done::from_used)
    }

    /// The next completion, if there is one, for a driver that polls: whether the device interrupts
    /// is left as [`RequestQueue::set_interrupts`] says.
    #[inline(always)]
    pub fn poll(&mut self) -> Option<Done> {
        self.queue.poll(self.bell).map(Done::from_used)
    }

    /// Asks the device for an interrupt at the next completion, or for none while the driver polls.
    /// It is a wish: an interrupt may come all the same, seldom.
    pub fn set_interrupts(&mut self, wanted: bool) {
        self.queue.set_interrupts(wanted);
    }

    /// Calls `ended` with every completion there is.
    #[inline(always)]
    pub fn harvest_all(&mut self, mut ended: impl FnMut(Done)) {
        self.queue
            .harvest_all(self.bell, |used| ended(Done::from_used(used)));
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
