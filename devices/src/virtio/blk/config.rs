//! What can be chosen for a disk, and what cannot.

use std::io;
use std::time::Duration;

use iolite_devices_abi::blk::SECTOR_SIZE;

use crate::block::backend::Backend;
use crate::block::engine::Kind as EngineKind;
use crate::block::inject::{Injection, Which};
use crate::throttle::Budget;

/// The largest QueueNumMax.
const MAX_QUEUE_SIZE: u16 = 1024;
/// The smallest: a request takes three descriptors, and sizes are powers of two.
const MIN_QUEUE_SIZE: u16 = 4;
/// The most queues a disk may have.
const MAX_QUEUES: u16 = 16;
/// The most workers a queue may have.
const MAX_WORKERS: usize = 64;

/// What can be chosen for a disk.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// Short name for log lines and thread names: `vda`.
    pub name: String,
    /// What GET_ID answers; the first 20 bytes count.
    pub id: String,
    /// Who carries requests out; none: who [suits](EngineKind::suiting) the backend.
    pub engine: Option<EngineKind>,
    /// How many queues, 1 to 16; each has a thread, and an engine with workers, of its own.
    pub queues: u16,
    /// How many worker threads for each queue, 1 to 64.
    pub workers: usize,
    /// QueueNumMax: a power of two from 4 to 1024.
    pub queue_size: u16,
    /// For how long at most the queue's thread looks for the next request before it sleeps; zero:
    /// not at all.
    pub poll: Duration,
    /// Refuse writes even where the backend would take them.
    pub read_only: bool,
    /// When writes are durable.
    pub cache: Cache,
    /// Size in bytes of a logical block: 512 or 4096. The driver is told to count in these; requests
    /// are in sectors of 512 bytes all the same (virtio 1.2, section 5.2.4).
    pub block_size: u32,
    /// How slow and faulty the disk is on purpose.
    pub injection: Injection,
    /// How much may be said about what the guest does wrong: one for all disks of a machine.
    pub budget: Budget,
}

/// When a completed write is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// After a flush; at once, if the driver cannot flush or says so (CONFIG_WCE).
    #[default]
    WriteBack,
    /// At once, unless the driver says otherwise (CONFIG_WCE).
    WriteThrough,
    /// Whenever the host gets round to it: flushes are answered and not carried out.
    Unsafe,
}

impl BlockConfig {
    /// Worker threads of a disk where nobody says otherwise.
    pub const DEFAULT_WORKERS: usize = 4;
    /// QueueNumMax of a disk where nobody says otherwise.
    pub const DEFAULT_QUEUE_SIZE: u16 = 256;
    /// Longest time of polling where nobody says otherwise.
    pub const DEFAULT_POLL: Duration = Duration::from_micros(50);
    /// Logical block of a disk where nobody says otherwise.
    pub const DEFAULT_BLOCK_SIZE: u32 = SECTOR_SIZE as u32;

    /// The defaults for a disk of this name.
    pub fn new(name: &str) -> Self {
        BlockConfig {
            name: name.to_owned(),
            id: name.to_owned(),
            engine: None,
            queues: 1,
            workers: Self::DEFAULT_WORKERS,
            queue_size: Self::DEFAULT_QUEUE_SIZE,
            poll: Self::DEFAULT_POLL,
            read_only: false,
            cache: Cache::default(),
            block_size: Self::DEFAULT_BLOCK_SIZE,
            injection: Injection::default(),
            budget: Budget::default(),
        }
    }

    /// Checks everything that can be wrong with a disk on this backend.
    pub(super) fn check(&self, backend: &dyn Backend) -> Result<(), BlockError> {
        let size = self.queue_size;
        if !size.is_power_of_two() || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&size) {
            return Err(BlockError::QueueSize(size));
        }
        if !(1..=MAX_QUEUES).contains(&self.queues) {
            return Err(BlockError::Queues(self.queues));
        }
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            return Err(BlockError::Workers(self.workers));
        }
        if ![512, 4096].contains(&self.block_size) {
            return Err(BlockError::BlockSize(self.block_size));
        }
        let capacity = backend.capacity();
        if !capacity.is_multiple_of(self.block_size.into()) {
            return Err(BlockError::PartialBlock {
                capacity,
                block_size: self.block_size,
            });
        }
        self.check_failures(capacity / SECTOR_SIZE)
    }

    /// A failure that cannot happen is a mistake in the sector.
    fn check_failures(&self, sectors: u64) -> Result<(), BlockError> {
        for failure in &self.injection.failures {
            match failure.which {
                Which::Sectors { last: sector, .. } if sector >= sectors => {
                    return Err(BlockError::FailingSector { sector, sectors });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Why a disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The queue size is not one of those possible.
    #[error("queue size {0} is not possible: use a power of two from 4 to 1024")]
    QueueSize(u16),
    /// The number of queues is not one of those possible.
    #[error("{0} queues are not possible: use 1 to 16")]
    Queues(u16),
    /// The number of workers is not one of those possible.
    #[error("{0} workers are not possible: use 1 to 64")]
    Workers(usize),
    /// The block size is not one of those possible.
    #[error("block size {0} is not possible: use 512 or 4096")]
    BlockSize(u32),
    /// The disk is not a whole number of blocks.
    #[error("its size of {capacity} bytes is not a multiple of the block size, {block_size}")]
    PartialBlock {
        /// Size of the disk in bytes.
        capacity: u64,
        /// Size of a block in bytes.
        block_size: u32,
    },
    /// A sector that is to fail lies beyond the disk.
    #[error("sector {sector} cannot fail: the disk has {sectors}, counted from 0")]
    FailingSector {
        /// The sector.
        sector: u64,
        /// How many the disk has.
        sectors: u64,
    },
    /// The system refused something.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
}

impl BlockError {
    /// For `map_err`: the system refused `what`.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> BlockError {
        move |error| BlockError::System { what, error }
    }
}
