//! A virtio-blk driver over virtio-mmio, for a kernel and for a user-mode server alike.
//!
//! The crate knows registers, a split virtqueue and requests; it knows nothing of threads, of
//! interrupt controllers or of how memory is allocated. Whoever uses it
//!
//! 1. hands [`Disk::new`] the device's registers and a piece of memory that the device can reach,
//! 2. calls [`Disk::submit`] with physical segments and a cookie: `Ok` means that exactly one
//!    completion will come, `Err` that none will,
//! 3. calls [`Disk::notify`] after the last one of a batch,
//! 4. on an interrupt calls [`Disk::acknowledge`], then [`Disk::harvest_all`] (or [`Disk::harvest`]
//!    until it gives `None`).
//!
//! A disk with several queues is [`Disk::with_queues`]: each of them ([`Disk::queue`]) is used so by
//! itself; an interrupt is for all of them.
//!
//! Nothing here allocates, blocks, spins or calls back. The device is not trusted: what it writes
//! into shared memory is checked before it is used, and what the driver needs to know later is kept
//! where the device cannot write.

#![cfg_attr(not(test), no_std)]

mod disk;
mod dma;
mod order;
mod queue;
mod registers;
mod request;
mod setup;
mod table;

pub use disk::{Disk, DiskError, Info};
pub use dma::{DmaRegion, MAX_SEGMENT_BYTES, Segment};
pub use queue::{MAX_SEGMENTS, Queue, dma_bytes};
pub use registers::{MmioRegisters, Registers};
pub use request::{Done, Operation, Outcome, RequestQueue, SubmitError};
