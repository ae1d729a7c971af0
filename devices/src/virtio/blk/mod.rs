//! The block device (virtio 1.2, section 5.2). A request's way through it:
//!
//! [`queue`] pops a head index and owns the ring; [`chain`] follows the descriptors; [`request`]
//! parses them, or says why not ([`refusal`]); a backend does the work; [`completion`] says what goes
//! back to the driver; the queue puts it into the used ring and decides about an interrupt. Each queue
//! has a thread (`queue_thread`) that sleeps, polls (`polling`) and gives its engine turns; `control`
//! is what the transport sees, and [`device`] holds all of it together. [`bare`] is another disk, to
//! measure this one against.

pub mod bare;
pub mod chain;
pub mod completion;
pub mod config;
mod config_space;
mod control;
pub mod counters;
pub mod device;
mod disk;
mod polling;
pub mod queue;
mod queue_thread;
mod ram;
mod ranges;
pub mod refusal;
pub mod request;
mod ring;
mod ring_memory;

pub use config::{BlockConfig, BlockError, Cache};
pub use counters::Counters;
pub use device::{BlockDevice, MmioBlock};
